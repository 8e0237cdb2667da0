package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// sendBatch is how many messages are handed to the sink at once.
const sendBatch = 256

type sendFlags struct {
	payload     string
	hasPayload  bool
	count       int
	rate        string
	perSecond   float64
	headers     []string
	contentType string
	format      string
}

func newSend(io stdio) *cobra.Command {
	f := sendFlags{format: "text"}
	cmd := &cobra.Command{
		Use:   "send CONNECTOR [key=value...]",
		Short: "send messages through a connector, without a pipeline",
		Long: `send hands messages to a connector's sink, once each, and says how many were taken.
The keys are those of the connector under out: in YAML; a value is a YAML scalar, or a
list or mapping in flow style, and ${env:NAME} is a reference.

Without --payload, each line of standard input is a message, and the lines keep their
order. Every refusal is printed with its reason. When the peer is lost, send stops.

With --json, one object for each refusal and one at the end.

Exit codes: 0 all were taken, 1 one was not, 2 usage.`,
		Example: `  linkspan send http url=http://127.0.0.1:8080/orders --payload '{"id":1}' --content-type application/json
  linkspan send mqtt connect=mqtt://127.0.0.1:1883 topic=orders/new < orders.ndjson
  linkspan send mqtt connect=mqtts://broker:8883 topic=t 'auth={user: me, password: "${env:PASSWORD}"}'
  linkspan send http url=http://127.0.0.1:8080/orders --payload x --count 10000 --rate 500/s`,
		Args: needs("the name of a connector"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.hasPayload = cmd.Flags().Changed("payload")
			if err := f.check(cmd.Flags().Changed("count")); err != nil {
				return err
			}
			spec, err := io.connectorNamed(args[0])
			if err != nil {
				return err
			}
			return withEnv(cmd.Context(), "send", io, func(ctx context.Context, env connectors.Env) error {
				sink, err := newSink(spec, args[1:], env, io)
				if err != nil {
					return err
				}
				return send(ctx, sink, &f, io)
			})
		},
	}
	cmd.Flags().StringVar(&f.payload, "payload", "", "the payload (default: each line of standard input)")
	cmd.Flags().IntVar(&f.count, "count", 1, "how often the payload is sent")
	cmd.Flags().StringVar(&f.rate, "rate", "", "how many in a second, such as 500/s (default: as fast as they are taken)")
	cmd.Flags().StringArrayVar(&f.headers, "header", nil, "name=value of a header; may be given several times")
	cmd.Flags().StringVar(&f.contentType, "content-type", "", "the media type of the payloads")
	asJSON(cmd, &f.format)
	return cmd
}

func (f *sendFlags) check(counted bool) error {
	if f.count < 1 {
		return usageError("--count is at least 1")
	}
	if counted && !f.hasPayload {
		return usageError("--count goes with --payload; without it each line of standard input is sent once")
	}
	for _, h := range f.headers {
		if name, _, ok := strings.Cut(h, "="); !ok || name == "" {
			return usageError("--header is name=value, not %q", h)
		}
	}
	if f.rate == "" {
		return nil
	}
	number, unit, _ := strings.Cut(f.rate, "/")
	rate, err := strconv.ParseFloat(number, 64)
	scale, ok := map[string]float64{"": 1, "s": 1, "m": 1.0 / 60, "h": 1.0 / 3600}[unit]
	if err != nil || !ok || !(rate > 0 && rate <= 1e9) {
		return usageError("--rate is a number of messages, such as 500/s or 30/m, not %q", f.rate)
	}
	f.perSecond = rate * scale
	return nil
}

// sending counts what became of the messages. The progress line reads it.
type sending struct {
	sent, accepted atomic.Int64
	refused        func(number int64, err error)
}

// send opens the sink and sends until there is nothing more or the peer is lost.
func send(ctx context.Context, sink connectors.Sink, f *sendFlags, io stdio) (err error) {
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, sink.Close(closing))
	}()
	s := &sending{}
	encoder := console.NewEncoder(io.out)
	s.refused = func(number int64, err error) {
		if f.format == "json" {
			_ = encoder.Encode(map[string]any{"message": number, "error": err.Error()})
			return
		}
		fmt.Fprintf(io.err, "message %d: %s\n", number, err)
	}
	if err := sink.Open(ctx); err != nil {
		return &exitError{exitFailed, fmt.Sprintf("connect: %v; nothing was sent", err)}
	}
	start := time.Now()
	end := progress(ctx, io.err, func() string {
		n := s.sent.Load()
		return fmt.Sprintf("%d sent, %d accepted, %.0f/s", n, s.accepted.Load(), float64(n)/time.Since(start).Seconds())
	})
	lost := s.loop(ctx, sink, f, newFeed(ctx, f, io.in), start)
	end()
	sent, accepted := s.sent.Load(), s.accepted.Load()
	if f.format == "json" {
		summary := map[string]any{"sent": sent, "accepted": accepted, "refused": sent - accepted, "seconds": time.Since(start).Seconds()}
		if err := encoder.Encode(summary); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(io.out, "%d of %d accepted\n", accepted, sent)
	}
	if lost != nil {
		return &exitError{exitFailed, lost.Error()}
	}
	if accepted < sent {
		return &exitError{code: exitFailed}
	}
	return nil
}

// loop sends batches until the feed ends. The error says why it stopped before.
func (s *sending) loop(ctx context.Context, sink message.Handler, f *sendFlags, in *feed, start time.Time) error {
	limit := sendBatch
	if f.perSecond > 0 {
		// Small batches at a low rate, so that messages do not come in bursts.
		limit = min(limit, max(1, int(f.perSecond/20)))
	}
	for {
		payloads, err := in.next(ctx, limit)
		if err != nil || len(payloads) == 0 {
			return err
		}
		if f.perSecond > 0 && !run.Pause(ctx, time.Until(start.Add(time.Duration(float64(s.sent.Load())/f.perSecond*float64(time.Second))))) {
			return errors.New("interrupted")
		}
		b := f.batch(payloads)
		err = sink.Handle(ctx, b)
		if stop := s.count(b.Len(), err); stop != nil {
			return stop
		}
	}
}

// count notes the answer to a batch. It returns an error when there is no point in
// going on.
func (s *sending) count(n int, err error) error {
	first := s.sent.Load() + 1
	s.sent.Add(int64(n))
	var partial *message.PartialError
	switch {
	case err == nil:
		s.accepted.Add(int64(n))
		return nil
	case !errors.As(err, &partial):
		for i := range n {
			s.refused(first+int64(i), err)
		}
		return errors.New("the peer is lost")
	}
	s.accepted.Add(int64(n - len(partial.Failed)))
	away := false
	for _, f := range partial.Failed {
		s.refused(first+int64(f.Index), f.Err)
		away = away || message.IsUnavailable(f.Err) && !errors.Is(f.Err, message.ErrBehind)
	}
	if away {
		return errors.New("the peer is not available")
	}
	return nil
}

func (f *sendFlags) batch(payloads [][]byte) *message.Batch {
	now := time.Now()
	b := &message.Batch{Messages: make([]message.Message, len(payloads))}
	var headers message.Headers
	for _, h := range f.headers {
		name, value, _ := strings.Cut(h, "=")
		headers.Add(name, message.String(value))
	}
	for i, p := range payloads {
		b.Messages[i] = message.Message{Time: now, Priority: message.NormalPriority, Attempt: 1, ContentType: f.contentType, Headers: headers.Clone(), Payload: p}
		if !f.hasPayload {
			b.Messages[i].Key = []byte("stdin") // lines keep their order
		}
	}
	return b
}

// feed gives the payloads: one many times, or the lines of a reader.
type feed struct {
	payload []byte
	left    int
	lines   chan line
}

type line struct {
	text []byte
	err  error
}

func newFeed(ctx context.Context, f *sendFlags, in io.Reader) *feed {
	if f.hasPayload {
		return &feed{payload: []byte(f.payload), left: f.count}
	}
	out := &feed{lines: make(chan line, sendBatch)}
	// A read of standard input cannot be interrupted, so nobody waits for this one.
	watch(ctx, func() {
		defer close(out.lines)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxMessage)
		for scanner.Scan() {
			select {
			case out.lines <- line{text: append([]byte{}, scanner.Bytes()...)}:
			case <-ctx.Done():
				return
			}
		}
		if err := scanner.Err(); err != nil {
			out.lines <- line{err: fmt.Errorf("read standard input: %w", err)}
		}
	})
	return out
}

// next waits for one payload and returns what else is there, up to limit. None: the
// end.
func (f *feed) next(ctx context.Context, limit int) ([][]byte, error) {
	if f.lines == nil {
		n := min(limit, f.left)
		f.left -= n
		out := make([][]byte, n)
		for i := range out {
			out[i] = f.payload
		}
		return out, nil
	}
	var out [][]byte
	for len(out) < limit {
		var l line
		var open bool
		if len(out) == 0 {
			select {
			case l, open = <-f.lines:
			case <-ctx.Done():
				return nil, errors.New("interrupted")
			}
		} else {
			select {
			case l, open = <-f.lines:
			default:
				return out, nil
			}
		}
		if !open || l.err != nil {
			return out, l.err
		}
		out = append(out, l.text)
	}
	return out, nil
}
