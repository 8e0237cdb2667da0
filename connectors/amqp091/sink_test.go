package amqp091

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// failures returns the reasons by index.
func failures(t testing.TB, err error) map[int]error {
	t.Helper()
	out := map[int]error{}
	if err == nil {
		return out
	}
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok {
		t.Fatalf("not partial: %v", err)
	}
	for _, f := range partial.Failed {
		out[f.Index] = f.Err
	}
	return out
}

func code(err error) string {
	if reason, ok := errors.AsType[*message.Reason](err); ok {
		return reason.Code
	}
	return ""
}

// keyed gives each message a key of its own.
func keyed(b *message.Batch) *message.Batch {
	for i := range b.Messages {
		b.Messages[i].Key = b.Messages[i].Payload
	}
	return b
}

// A window smaller than the batch is used again and again.
func TestSinkWindow(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	s := testSink(t, b.peer(), "q", func(c *SinkConfig) { c.MaxInFlight = 3 })
	group := run.NewGroup(t.Context())
	for lane := range 4 {
		group.Go("lane", func(ctx context.Context) error { return s.Handle(ctx, numbered(1000*lane, 200)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if ready, _, _ := b.depth("q"); ready != 800 {
		t.Errorf("%d messages", ready)
	}
}

// A message that no queue takes is confirmed all the same: only the return tells.
func TestSinkReturned(t *testing.T) {
	b := startDouble(t)
	b.queue("a.1")
	s := testSink(t, b.peer(), "", func(c *SinkConfig) {
		c.RoutingKey = config.Option{Expr: config.Expr{Source: "x", Node: config.Parse("x", []byte("a: b"), config.Lookup{}, &config.Report{}).Root()}}
	})
	group := run.NewGroup(t.Context())
	for range 3 { // returns to one lane are seen by all
		group.Go("lane", func(ctx context.Context) error {
			batch := keyed(numbered(0, 100))
			for i := range batch.Messages {
				batch.Messages[i].Options = []string{"a.1"}
				if i%2 == 1 {
					batch.Messages[i].Options = []string{"a.2"}
					batch.Messages[i].Headers = message.Headers{{Name: "n", Value: message.Int(1)}, {Name: "t", Value: message.Time(time.Unix(5, 0))}}
				}
			}
			failed := failures(t, s.Handle(ctx, batch))
			for i := range batch.Messages {
				if want := i%2 == 1; (code(failed[i]) == codeUnroutable) != want || message.IsUnavailable(failed[i]) {
					t.Errorf("message %d: %v", i, failed[i])
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	optional := testSink(t, b.peer(), "nowhere", func(c *SinkConfig) { c.Mandatory = false })
	if err := optional.Handle(t.Context(), numbered(0, 1)); err != nil {
		t.Errorf("without mandatory: %v", err)
	}
}

// A nack is a full queue: the message waits.
func TestSinkNacked(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	b.nack = func(body []byte) bool { return string(body) == "1" }
	s := testSink(t, b.peer(), "q", nil)
	failed := failures(t, s.Handle(t.Context(), keyed(numbered(0, 3))))
	if len(failed) != 1 || !message.IsUnavailable(failed[1]) || code(failed[1]) != "" {
		t.Errorf("%v", failed)
	}
}

// A message that makes the broker close the channel is found, and the others get through.
func TestSinkFindsTheCulprit(t *testing.T) {
	for _, c := range []struct {
		code      uint16
		permanent bool
	}{{406, true}, {403, false}, {311, true}} {
		b := startDouble(t)
		b.queue("q")
		b.kill = func(body []byte) uint16 {
			if string(body) == "7" {
				return c.code
			}
			return 0
		}
		s := testSink(t, b.peer(), "q", nil)
		waiting := keyed(numbered(0, 20))
		rounds := 0
		for ; waiting.Len() > 0 && rounds < 10; rounds++ {
			err := s.Handle(t.Context(), waiting)
			failed := failures(t, err)
			rest := &message.Batch{}
			for i, m := range waiting.Messages {
				switch why := failed[i]; {
				case why == nil:
				case message.IsUnavailable(why):
					rest.Messages = append(rest.Messages, m)
				default:
					reason, _ := errors.AsType[*message.Reason](why)
					if string(m.Payload) != "7" || reason.Code != codeRefused || reason.Permanent != c.permanent || bytes.Contains([]byte(why.Error()), []byte("topic")) {
						t.Errorf("message %s: %v", m.Payload, why)
					}
				}
			}
			waiting = rest
		}
		if waiting.Len() > 0 {
			t.Errorf("code %d: %d messages wait after %d rounds", c.code, waiting.Len(), rounds)
		}
		if err := s.Handle(t.Context(), numbered(100, 100)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

// A missing exchange is not the fault of a message.
func TestSinkMissingExchange(t *testing.T) {
	b := startDouble(t)
	to := func(declare string) *sink {
		return testSink(t, b.peer(), "", func(c *SinkConfig) {
			c.Exchange, c.RoutingKey.Literal, c.Declare, c.Mandatory = "x", "k", declare, false
		}).(*sink)
	}
	for range 3 {
		failed := failures(t, to(declareNone).Handle(t.Context(), numbered(0, 2)))
		if !message.IsUnavailable(failed[0]) || !bytes.Contains([]byte(failed[0].Error()), []byte("LS4310")) {
			t.Errorf("%v", failed)
		}
	}
	if err := to(declareCheck).Open(t.Context()); err == nil || !bytes.Contains([]byte(err.Error()), []byte("LS4310")) {
		t.Errorf("check: %v", err)
	}
	if err := to(declareCreate).Handle(t.Context(), numbered(0, 2)); err != nil {
		t.Errorf("create: %v", err)
	}
}

// A broker that is blocked is waited for, and not sent the same again.
func TestSinkBlocked(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	s := testSink(t, b.peer(), "q", func(c *SinkConfig) { c.Timeout = 2 * time.Second }).(*sink)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connected", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.sessions) == 1 })
	b.block(true)
	eventually(t, "blocked", s.out.blocked.Load)
	if err := s.Handle(t.Context(), numbered(0, 1)); !message.IsUnavailable(err) || !errors.Is(err, errBlocked) {
		t.Errorf("%v", err)
	}
	b.mu.Lock()
	b.hold = false
	b.mu.Unlock()
	s.out.blocked.Store(false)
	b.mu.Lock()
	b.hold = true // the alarm comes after the message
	b.mu.Unlock()
	out := s.out
	group := run.NewGroup(t.Context())
	group.Go("handle", func(ctx context.Context) error { return s.Handle(ctx, numbered(1, 1)) })
	eventually(t, "arrived", func() bool { ready, _, _ := b.depth("q"); return ready == 1 })
	b.block(true)
	if err := group.Wait(); !message.IsUnavailable(failures(t, err)[0]) {
		t.Errorf("%v", err)
	}
	if s.out != out || out.ended() {
		t.Fatal("a connection whose broker is blocked was given up")
	}
	b.block(false)
	eventually(t, "unblocked", func() bool { return !out.blocked.Load() })
	if err := s.Handle(t.Context(), numbered(2, 5)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Without an answer the connection is given up, and the next call makes another.
func TestSinkTimeout(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	b.hold = true
	s := testSink(t, b.peer(), "q", func(c *SinkConfig) { c.Timeout = 50 * time.Millisecond })
	failed := failures(t, s.Handle(t.Context(), numbered(0, 2)))
	if len(failed) != 2 || !errors.Is(failed[0], errTimeout) || !message.IsUnavailable(failed[0]) {
		t.Errorf("%v", failed)
	}
	b.mu.Lock()
	b.hold = false
	b.mu.Unlock()
	if err := s.Handle(t.Context(), numbered(0, 2)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A cut in the middle loses nothing that was confirmed.
func TestSinkCut(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	s := testSink(t, b.peer(), "q", func(c *SinkConfig) { c.MaxInFlight = 10 })
	group := run.NewGroup(t.Context())
	confirmed := make([]bool, 3000)
	stop := make(chan struct{})
	group.Go("scissors", func(context.Context) error {
		for {
			select {
			case <-stop:
				return nil
			case <-time.After(2 * time.Millisecond):
				b.cut()
			}
		}
	})
	for at := 0; at < 3000; at += 100 {
		batch := numbered(at, 100)
		failed := map[int]error{}
		if err := s.Handle(t.Context(), batch); err != nil {
			if partial, ok := errors.AsType[*message.PartialError](err); ok {
				failed = failures(t, partial)
			} else {
				for i := range 100 {
					failed[i] = err
				}
			}
		}
		for i := range batch.Messages {
			if confirmed[at+i] = failed[i] == nil; failed[i] != nil && !message.IsUnavailable(failed[i]) {
				t.Fatalf("message %d: %v", at+i, failed[i])
			}
		}
	}
	close(stop)
	_ = group.Wait()
	there := map[string]bool{}
	for _, m := range b.queue("q").messages {
		there[string(m.body)] = true
	}
	sum := 0
	for i, yes := range confirmed {
		if yes {
			sum++
		}
		if yes && !there[string(numbered(i, 1).Messages[0].Payload)] {
			t.Errorf("message %d was confirmed and is not there", i)
		}
	}
	t.Logf("%d of 3000 confirmed", sum)
}
