package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/message"
)

type receiveFlags struct {
	count   int
	timeout time.Duration
	format  string
	meta    bool
}

func newReceive(io stdio) *cobra.Command {
	f := receiveFlags{format: "text"}
	cmd := &cobra.Command{
		Use:   "receive CONNECTOR [key=value...]",
		Short: "receive messages through a connector and print them, without a pipeline",
		Long: `receive runs a connector's source and prints each payload as a line. A message is
acknowledged to its sender when it has been printed. The keys are those of the
connector under in: in YAML; a value is a YAML scalar, or a list or mapping in flow
style, and ${env:NAME} is a reference.

It ends after --count messages, after --timeout, at the end of the input, or at a
signal. With --meta or --json, one object a message: topic, headers, payload and the
other properties; a payload that is not UTF-8 is in payload_base64.

Exit codes: 0 ok, 1 the peer was lost or --count was not reached, 2 usage, 4 the
address is in use.`,
		Example: `  linkspan receive http listen=127.0.0.1:8080 path=/hook --count 1 --meta
  linkspan receive mqtt listen=127.0.0.1:1883 topics=#
  linkspan receive mqtt connect=mqtt://broker:1883 topics=orders/# clean_start=true session_expiry=0s
  linkspan receive file path=in.csv format=csv follow=false --json`,
		Args: needs("the name of a connector"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.count < 0 || f.timeout < 0 {
				return usageError("--count and --timeout are not negative")
			}
			spec, err := io.connectorNamed(args[0])
			if err != nil {
				return err
			}
			return withEnv(cmd.Context(), "receive", io, func(ctx context.Context, env connectors.Env) error {
				source, err := newSource(spec, args[1:], env, io)
				if err != nil {
					return err
				}
				return receive(ctx, source, f, io)
			})
		},
	}
	cmd.Flags().IntVar(&f.count, "count", 0, "how many messages; 0: no bound")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "for how long, such as 10s; 0: no bound")
	cmd.Flags().BoolVar(&f.meta, "meta", false, "print topic, headers and the other properties too, as JSON")
	asJSON(cmd, &f.format)
	return cmd
}

func receive(ctx context.Context, source connectors.Source, f receiveFlags, io stdio) error {
	if b, ok := source.(connectors.Binder); ok {
		if err := b.Bind(ctx); err != nil {
			return &exitError{exitEnvironment, err.Error()}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if f.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	p := newPrinter(io.out, f, cancel)
	if isTerminal(io.err) {
		fmt.Fprintln(io.err, "receiving; Ctrl-C ends it")
	}
	err := source.Run(ctx, p)
	switch {
	case errors.Is(err, connectors.ErrEnd), ctx.Err() != nil:
	case err != nil:
		return &exitError{exitFailed, err.Error()}
	}
	if p.failed != nil {
		return fmt.Errorf("print: %w", p.failed)
	}
	if f.count > 0 && p.printed < f.count {
		return &exitError{exitFailed, fmt.Sprintf("%d of %d messages received", p.printed, f.count)}
	}
	return nil
}

// printer prints messages and takes responsibility for them with that.
type printer struct {
	count int
	done  func()

	mu sync.Mutex
	// Guarded by mu.
	out     *bufio.Writer
	encoder *json.Encoder
	printed int
	failed  error
}

func newPrinter(w io.Writer, f receiveFlags, done func()) *printer {
	p := &printer{count: f.count, done: done, out: bufio.NewWriter(w)}
	if f.meta || f.format == "json" {
		p.encoder = console.NewEncoder(p.out)
	}
	return p
}

// Handle implements message.Handler. What comes after the last message that was
// asked for is not taken: its sender keeps it.
func (p *printer) Handle(_ context.Context, b *message.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return p.failed
	}
	take := b.Len()
	if p.count > 0 {
		take = min(take, p.count-p.printed)
	}
	for i := range b.Messages[:take] {
		p.print(&b.Messages[i])
	}
	if err := p.out.Flush(); err != nil {
		p.failed = err
		p.done()
		return err
	}
	p.printed += take
	if p.count > 0 && p.printed >= p.count {
		p.done()
	}
	if take == b.Len() {
		return nil
	}
	partial := &message.PartialError{}
	for i := take; i < b.Len(); i++ {
		partial.Failed = append(partial.Failed, message.Failed{Index: i, Err: message.Unavailable(errors.New("enough was received"))})
	}
	return partial
}

func (p *printer) print(m *message.Message) {
	// Errors of the writer show when it is flushed.
	if p.encoder != nil {
		_ = p.encoder.Encode(console.View(m, true))
		return
	}
	_, _ = p.out.Write(m.Payload)
	_ = p.out.WriteByte('\n')
}

var _ message.Handler = (*printer)(nil)
