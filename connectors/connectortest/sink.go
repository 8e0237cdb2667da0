package connectortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func runSink(t *testing.T, s *Sink, f Features) {
	t.Run("delivers payloads in order", func(t *testing.T) { s.delivers(t, f) })
	t.Run("delivers from several lanes", func(t *testing.T) { s.lanes(t) })
	t.Run("carries or refuses headers", func(t *testing.T) { s.headers(t, f) })
	t.Run("waits for a peer that is away", func(t *testing.T) { s.away(t) })
	t.Run("closes twice", func(t *testing.T) {
		sink := s.open(t)
		for range 2 {
			if err := sink.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
}

func (s *Sink) open(t *testing.T) connectors.Sink {
	t.Helper()
	sink := s.New(t)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = sink.Close(context.WithoutCancel(t.Context())) })
	return sink
}

func (s *Sink) delivers(t *testing.T, f Features) {
	sink := s.open(t)
	before := len(s.Received(t, 0))
	b := &message.Batch{}
	for _, payload := range payloads(f) {
		b.Messages = append(b.Messages, message.Message{Key: []byte("k"), Payload: payload})
	}
	b.Messages = append(b.Messages, numbered("sink", 200)...)
	if err := sink.Handle(t.Context(), b); err != nil {
		t.Fatalf("handle: %v", err)
	}
	got := s.Received(t, before+b.Len())[before:]
	if len(got) != b.Len() {
		t.Fatalf("%d messages arrived, %d were sent", len(got), b.Len())
	}
	for i := range got {
		if !bytes.Equal(got[i].Payload, b.Messages[i].Payload) {
			t.Fatalf("message %d has %d bytes that differ from the %d sent", i, len(got[i].Payload), len(b.Messages[i].Payload))
		}
	}
}

func (s *Sink) lanes(t *testing.T) {
	sink := s.open(t)
	before := len(s.Received(t, 0))
	const lanes, batches, size = 4, 5, 20
	group := run.NewGroup(t.Context())
	for lane := range lanes {
		group.Go("lane", func(ctx context.Context) error {
			for n := range batches {
				b := &message.Batch{Messages: numbered(fmt.Sprintf("lane-%d-%d", lane, n), size)}
				if err := sink.Handle(ctx, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatalf("handle: %v", err)
	}
	seen := map[string]int{}
	for _, m := range s.Received(t, before+lanes*batches*size)[before:] {
		seen[string(m.Payload)]++
	}
	if len(seen) != lanes*batches*size {
		t.Errorf("%d different messages arrived, %d were sent", len(seen), lanes*batches*size)
	}
}

func (s *Sink) headers(t *testing.T, f Features) {
	if !f.Headers {
		t.Skip("the protocol has none")
	}
	sink := s.open(t)
	before := len(s.Received(t, 0))
	hostile := message.Header{Name: "x-hostile", Value: message.String("a\r\nx-forged: 1")}
	b := &message.Batch{Messages: []message.Message{
		{Payload: []byte("plain"), Headers: message.Headers{{Name: "x-a", Value: message.String("v")}, {Name: "x-n", Value: message.Int(-7)}}},
		{Payload: []byte("hostile"), Headers: message.Headers{hostile}},
		{Payload: []byte("nul"), Headers: message.Headers{{Name: "x-b", Value: message.String("a\x00b")}}},
	}}
	err := sink.Handle(t.Context(), b)
	refused := map[int]bool{}
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, x := range partial.Failed {
			refused[x.Index] = true
			var reason *message.Reason
			if !errors.As(x.Err, &reason) || message.IsUnavailable(x.Err) {
				t.Errorf("message %d: not a refusal: %v", x.Index, x.Err)
			}
		}
	}
	if refused[0] || refused[1] == f.LineBreaks || refused[2] == f.NUL {
		t.Fatalf("refused %v: %v", refused, err)
	}
	got := s.Received(t, before+3-len(refused))[before:]
	for _, m := range got {
		if _, forged := m.Headers.Get("x-forged"); forged {
			t.Error("a value became a header")
		}
		switch string(m.Payload) {
		case "plain":
			if m.Headers.Text("x-a") != "v" || m.Headers.Text("x-n") != "-7" {
				t.Errorf("headers %v", m.Headers)
			}
		case "hostile":
			if m.Headers.Text("x-hostile") != hostile.Value.Text() {
				t.Errorf("headers %v", m.Headers)
			}
		}
	}
}

// away: a peer that does not answer is no fault of the message, and does not hold
// up the end of the context.
func (s *Sink) away(t *testing.T) {
	if s.Away == nil {
		t.Skip("it never is")
	}
	sink := s.Away(t)
	t.Cleanup(func() { _ = sink.Close(context.WithoutCancel(t.Context())) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_ = sink.Open(ctx) // may notice it already
	err := sink.Handle(ctx, &message.Batch{Messages: numbered("away", 2)})
	if err == nil {
		t.Fatal("it was delivered to nobody")
	}
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, f := range partial.Failed {
			if !message.IsUnavailable(f.Err) {
				t.Errorf("message %d: %v", f.Index, f.Err)
			}
		}
	} else if !message.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}
