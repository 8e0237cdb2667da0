package connectortest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func runSource(t *testing.T, s *Source, f Features) {
	t.Run("keeps payloads and order", func(t *testing.T) { s.keeps(t, f) })
	t.Run("keeps headers", func(t *testing.T) { s.headers(t, f) })
	t.Run("acknowledges after the hand-over", func(t *testing.T) { s.acknowledges(t, f) })
	t.Run("loses nothing when the hand-over fails", func(t *testing.T) { s.loses(t, f) })
	t.Run("waits for a slow pipeline", func(t *testing.T) { s.slow(t, f) })
	t.Run("stops with its context", func(t *testing.T) { s.stops(t, f) })
	t.Run("refuses wrong credentials", func(t *testing.T) {
		if s.Intruder == nil {
			t.Skip("the protocol has none")
		}
		if err := s.Intruder(t); err == nil {
			t.Error("they were accepted")
		}
	})
}

// running starts a source. When it ends with an error, another one takes its
// place, as the supervisor would do, until the test ends.
func (s *Source) running(t *testing.T, next message.Handler) (stop func()) {
	t.Helper()
	group := run.NewGroup(context.WithoutCancel(t.Context()))
	first := s.New(t)
	group.Go("source", func(ctx context.Context) error {
		for src := first; ; src = s.New(t) {
			err := src.Run(ctx, next)
			switch {
			case ctx.Err() != nil && err != nil:
				t.Errorf("run after its context ended: %v", err)
				return nil
			case ctx.Err() != nil, errors.Is(err, connectors.ErrEnd):
				return nil //nolint:nilerr // an end is no failure
			case err == nil:
				t.Error("run returned nil before its context ended")
				return nil
			default:
				t.Logf("run ended, and starts again: %v", err)
			}
		}
	})
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	if s.Ready != nil {
		s.Ready(t)
	}
	return stop
}

func (s *Source) send(t *testing.T, ms ...message.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range ms {
		if err := s.Send(ctx, ms[i]); err != nil {
			t.Fatalf("send: %v", err)
		}
	}
}

func (s *Source) keeps(t *testing.T, f Features) {
	p := newPipeline(nil)
	s.running(t, p)
	want := payloads(f)
	for _, payload := range want {
		s.send(t, message.Message{Payload: payload})
	}
	got := p.wait(t, "payloads", atLeast(len(want)))
	for i := range want {
		if !bytes.Equal(got[i].Payload, want[i]) {
			t.Errorf("message %d has %d bytes that differ from the %d sent", i, len(got[i].Payload), len(want[i]))
		}
		if got[i].Time.IsZero() || got[i].Attempt != 1 || got[i].Topic == "" {
			t.Errorf("message %d lacks time, attempt or topic: %v %d %q", i, got[i].Time, got[i].Attempt, got[i].Topic)
		}
	}
	ms := numbered("order", 100)
	s.send(t, ms...)
	got = p.wait(t, "order", atLeast(len(want)+100))[len(want):]
	for i := range ms {
		if !f.Swaps && !bytes.Equal(got[i].Payload, ms[i].Payload) {
			t.Fatalf("%s came in place of %s", got[i].Payload, ms[i].Payload)
		}
		if !bytes.Equal(got[i].Key, got[0].Key) {
			t.Fatalf("messages of one sender have different keys")
		}
	}
}

func (s *Source) headers(t *testing.T, f Features) {
	if !f.Headers {
		t.Skip("the protocol has none")
	}
	p := newPipeline(nil)
	s.running(t, p)
	want := message.Headers{
		{Name: "traceparent", Value: message.String("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")},
		{Name: "x-many", Value: message.String("a")},
		{Name: "x-many", Value: message.String("b: c")},
		{Name: "x-unicode", Value: message.String("é ✓")},
	}
	if f.Single {
		want = slices.Delete(want, 1, 2)
	}
	if f.LineBreaks {
		want = append(want, message.Header{Name: "x-hostile", Value: message.String("a\r\nx-forged: 1")})
	}
	s.send(t, message.Message{Payload: []byte(`"headers-0"`), Headers: want})
	// What an earlier source could not acknowledge may come again before.
	got := only(p.wait(t, "headers", func(got []message.Message) bool { return len(only(got, "headers")) > 0 }), "headers")[0].Headers
	for _, h := range want {
		found := false
		for _, g := range got {
			name := h.Name
			if f.LowerCase {
				name = strings.ToLower(name)
			}
			found = found || g.Name == name && g.Value == h.Value
		}
		if !found {
			t.Errorf("header %s: %q is missing", h.Name, h.Value.Text())
		}
	}
	if _, forged := got.Get("x-forged"); forged {
		t.Error("a value became a header")
	}
}

// acknowledges: the sender hears nothing while the pipeline works.
func (s *Source) acknowledges(t *testing.T, f Features) {
	if !f.Acknowledges {
		t.Skip("the sender is not told")
	}
	entered, release := make(chan struct{}, 1), make(chan struct{})
	p := newPipeline(func(ctx context.Context, _ int) error {
		entered <- struct{}{}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	s.running(t, p)
	answered := make(chan error, 1)
	group := run.NewGroup(t.Context())
	group.Go("sender", func(ctx context.Context) error {
		answered <- s.Send(ctx, message.Message{Payload: []byte(`"slow"`)})
		return nil
	})
	<-entered
	select {
	case err := <-answered:
		t.Errorf("answered before the hand-over returned: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("after the hand-over: %v", err)
	}
	if !p.has(`"slow"`) {
		t.Error("it is not there")
	}
	_ = group.Wait()
}

// loses: every message arrives although every other hand-over fails, because it
// comes again or its sender was told. What the sender was told to be taken, is.
func (s *Source) loses(t *testing.T, f Features) {
	if !f.Redelivers && !f.Acknowledges {
		t.Skip("nothing comes again")
	}
	p := newPipeline(func(_ context.Context, calls int) error {
		if calls%2 == 0 && calls < 20 {
			return errNotNow
		}
		return nil
	})
	s.running(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ms := numbered("fail", 10)
	for _, m := range ms {
		for s.Send(ctx, m) != nil && ctx.Err() == nil {
		}
		if f.Acknowledges && !p.has(string(m.Payload)) {
			t.Errorf("%s was acknowledged and is not there", m.Payload)
		}
	}
	p.wait(t, "messages that were refused once", func([]message.Message) bool {
		for _, m := range ms {
			if !p.has(string(m.Payload)) {
				return false
			}
		}
		return true
	})
}

func (s *Source) slow(t *testing.T, f Features) {
	p := newPipeline(func(ctx context.Context, _ int) error {
		select {
		case <-time.After(2 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	s.running(t, p)
	ms := numbered("slow", 200)
	s.send(t, ms...)
	// A broker may cut a connection and send again what was not acknowledged.
	got := first(only(p.wait(t, "with a slow pipeline", func(got []message.Message) bool {
		return len(first(only(got, "slow"))) >= len(ms)
	}), "slow"))
	for i := range ms {
		if !f.Swaps && !bytes.Equal(got[i].Payload, ms[i].Payload) {
			t.Fatalf("%s came in place of %s", got[i].Payload, ms[i].Payload)
		}
	}
}

func (s *Source) stops(t *testing.T, _ Features) {
	p := newPipeline(nil)
	stop := s.running(t, p)
	s.send(t, numbered("before", 3)...)
	p.wait(t, "before the stop", func(got []message.Message) bool { return len(only(got, "before")) >= 3 })
	start := time.Now()
	stop()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	p.mu.Lock()
	calls := p.calls
	p.mu.Unlock()
	// Another one takes over, and nothing comes through the first.
	again := newPipeline(nil)
	s.running(t, again)
	s.send(t, numbered("after", 3)...)
	again.wait(t, "after the restart", func(got []message.Message) bool { return len(only(got, "after")) >= 3 })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls != calls {
		t.Error("a source that had stopped handed on a batch")
	}
}
