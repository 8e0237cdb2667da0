package pipelines

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
)

// openDirect returns a topic that is not stored, with its subscription.
func openDirect(t *testing.T, limit int) (*direct, queue.Topic, queue.Subscription) {
	t.Helper()
	d := newDirect(memory.New(), "p")
	topic, err := d.Topic(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe(t.Context(), laneSubscription, queue.SubOptions{MaxInFlight: limit})
	if err != nil {
		t.Fatal(err)
	}
	return d, topic, sub
}

func numberedMessages(n int) []message.Message {
	out := make([]message.Message, n)
	for i := range out {
		out[i] = message.Message{Payload: fmt.Append(nil, i)}
	}
	return out
}

func receive(t *testing.T, sub queue.Subscription, limit int) (texts string, offsets []uint64) {
	t.Helper()
	records, err := sub.Receive(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range records {
		all = append(all, string(r.Message.Payload))
		offsets = append(offsets, r.Offset)
	}
	return strings.Join(all, ","), offsets
}

// publishing runs a Publish and tells its outcome.
func publishing(ctx context.Context, topic queue.Topic, msgs []message.Message) <-chan error {
	out := make(chan error, 1)
	go func() {
		_, err := topic.Publish(ctx, msgs)
		out <- err
	}()
	return out
}

func pending(out <-chan error) bool {
	synctest.Wait()
	select {
	case <-out:
		return false
	default:
		return true
	}
}

func TestDirectPublishWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, topic, sub := openDirect(t, 2)
		msgs := numberedMessages(3)
		out := publishing(t.Context(), topic, msgs)
		texts, first := receive(t, sub, 10)
		if texts != "0,1" {
			t.Fatalf("received %s, two may be in flight", texts)
		}
		if s := sub.Stats(); s.Backlog != 3 || s.InFlight != 2 {
			t.Errorf("backlog %d, in flight %d", s.Backlog, s.InFlight)
		}
		copy(msgs[2].Payload, "X") // the message is its own copy
		_ = sub.Ack(first[1])
		texts, second := receive(t, sub, 10)
		if texts != "2" || !pending(out) {
			t.Fatalf("received %s", texts)
		}
		_ = sub.Ack(second...)
		_ = sub.Ack(first[1]) // again
		if !pending(out) {
			t.Fatal("Publish returned, and the first message is not settled")
		}
		_ = sub.Ack(first[0])
		if err := <-out; err != nil || sub.Stats().Backlog != 0 || sub.Stats().InFlight != 0 {
			t.Errorf("%v, %+v", err, sub.Stats())
		}
	})
}

// A source that stops takes back what nobody has received, and waits a moment for the
// rest; only what was settled as a whole is taken over.
func TestDirectPublishEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, topic, sub := openDirect(t, 2)
		ctx, stop := context.WithCancel(t.Context())
		part := publishing(ctx, topic, numberedMessages(3))
		_, offsets := receive(t, sub, 10)
		whole := publishing(ctx, topic, numberedMessages(1))
		synctest.Wait()
		stop()
		if err := <-whole; !errors.Is(err, context.Canceled) {
			t.Errorf("nobody received it: %v", err)
		}
		if !pending(part) {
			t.Fatal("it did not wait for what is in flight")
		}
		_ = sub.Ack(offsets...)
		if err := <-part; !errors.Is(err, context.Canceled) {
			t.Errorf("one was taken back: %v", err)
		}
		if s := sub.Stats(); s.Backlog != 0 {
			t.Errorf("backlog %d", s.Backlog)
		}

		ctx, stop = context.WithCancel(t.Context())
		done := publishing(ctx, topic, numberedMessages(2))
		_, offsets = receive(t, sub, 10)
		stop()
		synctest.Wait()
		_ = sub.Ack(offsets...)
		if err := <-done; err != nil {
			t.Errorf("all was settled: %v", err)
		}

		ctx, stop = context.WithCancel(t.Context())
		stuck := publishing(ctx, topic, numberedMessages(1))
		receive(t, sub, 10)
		stop()
		start := time.Now()
		if err := <-stuck; !errors.Is(err, context.Canceled) || time.Since(start) != directWait {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestDirectDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, topic, sub := openDirect(t, 10)
		msgs := numberedMessages(4)
		msgs[0].NotBefore, msgs[2].NotBefore = time.Now().Add(time.Hour+time.Minute), time.Now().Add(time.Minute)
		out := publishing(t.Context(), topic, msgs)
		synctest.Wait()
		start := time.Now()
		for _, want := range []struct {
			texts string
			after time.Duration
		}{{"1,3", 0}, {"2", time.Minute}, {"0", time.Hour + time.Minute}} {
			texts, offsets := receive(t, sub, 10)
			if texts != want.texts || time.Since(start) != want.after {
				t.Errorf("%s after %s, want %v", texts, time.Since(start), want)
			}
			_ = sub.Ack(offsets...)
		}
		if err := <-out; err != nil {
			t.Error(err)
		}
		_ = sub.Close()
		if _, err := sub.Receive(t.Context(), 1); !errors.Is(err, queue.ErrClosed) {
			t.Error(err)
		}
		if _, err := topic.Publish(t.Context(), msgs); !errors.Is(err, queue.ErrClosed) {
			t.Error(err)
		}
	})
}

// What the queue held before is not left behind.
func TestDirectRefusesABacklog(t *testing.T) {
	d := newDirect(memory.New(), "p")
	stored, err := d.Engine.Topic(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stored.Subscribe(t.Context(), laneSubscription, queue.SubOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Topic(t.Context(), "p"); err != nil {
		t.Errorf("an empty one: %v", err)
	}
	if _, err := stored.Publish(t.Context(), numberedMessages(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Topic(t.Context(), "p"); err == nil || !strings.Contains(err.Error(), "holds 2 messages") {
		t.Errorf("got %v", err)
	}
}
