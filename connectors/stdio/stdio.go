// Package stdio connects linkspan to its own standard input and output.
//
// A source hands on each line as a message, in order, and ends with its input. A
// batch that is not taken over is handed on again; what was read and not handed on
// when the process ends is lost, because standard input cannot be read again. A sink writes each message as one line,
// all lines of a batch in one write; nil means that the write returned.
package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// Spec describes the stdio connector.
func Spec() connectors.Spec {
	in := newInput(os.Stdin)
	return connectors.Spec{
		Name: "stdio",
		Source: connectors.SourceOf(connectors.Traits{OrderKey: "the input"}, func() SourceConfig { return SourceConfig{} },
			func(_ SourceConfig, env connectors.Env) (connectors.Source, error) {
				return &source{in: in, env: env}, nil
			}),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true}, func() SinkConfig { return SinkConfig{} },
			func(SinkConfig, connectors.Env) (connectors.Sink, error) { return newSink(os.Stdout), nil }),
	}
}

// SourceConfig is what a user writes under `stdio:` of an input. It has no options.
type SourceConfig struct{}

// SinkConfig is what a user writes under `stdio:` of an output. It has no options.
type SinkConfig struct{}

// input is standard input. It belongs to the process and not to a source: a source
// that is started again goes on where the one before stopped, with the batch that
// was not taken over.
type input struct {
	from io.Reader
	// turn holds one token; the source that has it reads.
	turn chan struct{}

	// These belong to who has the turn.
	group   *run.Group
	chunks  chan chunk
	cut     *lines.Cutter
	pending message.Batch
	ended   bool
}

// chunk is what one read gave.
type chunk struct {
	data []byte
	err  error
}

func newInput(from io.Reader) *input {
	in := &input{from: from, turn: make(chan struct{}, 1), chunks: make(chan chunk)}
	in.turn <- struct{}{}
	return in
}

// start begins to read. A read of standard input cannot be interrupted, so the
// goroutine is not waited for when a source stops; there is one for the process.
func (in *input) start(ctx context.Context, maxMessage int64) {
	if in.group != nil {
		return
	}
	in.cut = lines.NewCutter(lines.Line, maxMessage)
	in.group = run.NewGroup(context.WithoutCancel(ctx))
	in.group.Go("stdin", func(context.Context) error {
		for {
			buf := make([]byte, lines.ReadSize)
			n, err := in.from.Read(buf)
			in.chunks <- chunk{buf[:n], err}
			if err != nil {
				return nil //nolint:nilerr // whoever takes the chunk reports it
			}
		}
	})
}

type source struct {
	in  *input
	env connectors.Env
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	select {
	case <-s.in.turn:
		defer func() { s.in.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil
	}
	s.in.start(ctx, s.env.MaxMessage)
	for {
		if err := s.handOn(ctx, next); err != nil || ctx.Err() != nil {
			return err
		}
		if s.in.ended {
			return connectors.ErrEnd
		}
		select {
		case <-ctx.Done():
			return nil
		case c := <-s.in.chunks:
			s.in.ended = c.err != nil
			s.in.cut.Write(c.data)
			if c.err != nil && !errors.Is(c.err, io.EOF) {
				return fmt.Errorf("read standard input: %w", c.err)
			}
		}
	}
}

// handOn hands on every line that has arrived completely. When ctx ends, or a batch
// is not taken over, what is left waits for the next source.
func (s *source) handOn(ctx context.Context, next message.Handler) error {
	pending := &s.in.pending
	for ctx.Err() == nil {
		if err := s.gather(pending); err != nil {
			return err
		}
		if pending.Len() == 0 {
			return nil
		}
		err := next.Handle(ctx, pending)
		taken := lines.Taken(err, pending.Len())
		pending.Messages = slices.Delete(pending.Messages, 0, taken)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end of the context is no failure
		case err != nil:
			return fmt.Errorf("hand on lines: %w", err)
		}
	}
	return nil
}

func (s *source) gather(b *message.Batch) error {
	now := time.Now()
	for b.Len() < lines.BatchSize {
		line, ok, err := s.in.cut.Next()
		if err != nil && b.Len() > 0 {
			return nil // first what stands before it; then the error comes again
		}
		if err != nil {
			return err
		}
		if !ok && s.in.ended {
			line, ok = s.in.cut.Rest()
		}
		if !ok {
			return nil
		}
		b.Messages = append(b.Messages, message.Message{
			Key: []byte("stdin"), Topic: "stdin", Time: now, Priority: message.NormalPriority, Source: s.env.Name, Attempt: 1, Payload: line,
		})
	}
	return nil
}

type sink struct {
	to io.Writer

	mu  sync.Mutex
	buf bytes.Buffer
}

func newSink(to io.Writer) connectors.Sink { return &sink{to: to} }

// Open implements connectors.Sink.
func (*sink) Open(context.Context) error { return nil }

// Close implements connectors.Sink.
func (*sink) Close(context.Context) error { return nil }

// Handle implements message.Handler.
func (s *sink) Handle(_ context.Context, b *message.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Reset()
	failed := lines.Append(&s.buf, b)
	if _, err := s.to.Write(s.buf.Bytes()); err != nil {
		return message.Unavailable(fmt.Errorf("write standard output: %w", err))
	}
	return lines.Partial(failed)
}
