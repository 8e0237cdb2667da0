package queuetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

func testMaxInFlight(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 2)
	s.publishN(topic, 4)
	s.want(offsets(s.receive(sub, 2)), 0, 1)
	s.none(sub)
	if st := sub.Stats(); st.InFlight != 2 {
		t.Errorf("%d in flight, want 2", st.InFlight)
	}
	s.ack(sub, 1)
	s.want(offsets(s.receive(sub, 1)), 2)
	if err := sub.Release(0, 0); err != nil {
		t.Fatal(err)
	}
	s.want(offsets(s.receive(sub, 1)), 0)
}

func testCloseSubscription(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 2)
	s.receive(sub, 2)
	s.ack(sub, 0)
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sub.Ack(1); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("ack on a closed subscription: %v, want ErrClosed", err)
	}
	got := s.receive(s.subscribe(topic, "x", 0), 1)
	s.want(offsets(got), 1)
	if got[0].Delivery != 1 {
		t.Errorf("delivery %d, want 1: it counts this opening", got[0].Delivery)
	}
}

func testAtomic(t *testing.T, s *suite) {
	in, out, dead := s.topic("in"), s.topic("out"), s.topic("dead")
	sub := s.subscribe(in, "x", 0)
	s.publishN(in, 3)
	s.receive(sub, 3)
	err := s.e.Atomic(s.ctx(), queue.Tx{
		Publish: []queue.TxPublish{{Topic: out, Messages: []message.Message{text(7), text(8)}}, {Topic: dead, Messages: []message.Message{text(9)}}},
		Ack:     []queue.TxAck{{Subscription: sub, Offsets: []uint64{2, 0, 0}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.e.Atomic(s.ctx(), queue.Tx{}); err != nil {
		t.Errorf("an empty unit: %v", err)
	}
	s.want(offsets(s.receive(s.subscribe(out, "o", 0), 2)), 0, 1)
	s.want(offsets(s.receive(s.subscribe(dead, "d", 0), 1)), 0)
	if st := sub.Stats(); st.Floor != 1 || st.Backlog != 1 || st.InFlight != 1 {
		t.Errorf("stats %+v", st)
	}
}

func testForeign(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	if err := s.e.Atomic(s.ctx(), queue.Tx{Publish: []queue.TxPublish{{Topic: foreignTopic{topic}, Messages: []message.Message{text(0)}}}}); err == nil {
		t.Error("a foreign topic was taken")
	}
	if err := s.e.Atomic(s.ctx(), queue.Tx{Ack: []queue.TxAck{{Subscription: foreignSubscription{sub}, Offsets: []uint64{0}}}}); err == nil {
		t.Error("a foreign subscription was taken")
	}
}

type (
	foreignTopic        struct{ queue.Topic }
	foreignSubscription struct{ queue.Subscription }
)

func testBrowse(t *testing.T, s *suite) {
	topic := s.topic("a")
	s.publishN(topic, 5)
	browse := func(from uint64) (out []uint64) {
		for r, err := range topic.Browse(s.ctx(), queue.At(from)) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Message.ID != strconv.FormatUint(r.Offset, 10) {
				t.Errorf("offset %d has id %q", r.Offset, r.Message.ID)
			}
			out = append(out, r.Offset)
		}
		return out
	}
	s.want(browse(0), 0, 1, 2, 3, 4)
	s.want(browse(3), 3, 4)
	s.want(browse(5))
	sub := s.subscribe(topic, "x", 0)
	s.receive(sub, 5)
	s.ack(sub, 0, 2)
	s.want(browse(0), 1, 3, 4)
	for range topic.Browse(s.ctx(), queue.Start{}) {
		break
	}
	if st := sub.Stats(); st.InFlight != 3 {
		t.Errorf("%d in flight after browsing, want 3", st.InFlight)
	}
}

func testStats(t *testing.T, s *suite) {
	topic := s.topic("a")
	if got := topic.Stats(); got.Messages != 0 || got.Bytes != 0 || got.Name != "a" {
		t.Errorf("stats of an empty topic: %+v", got)
	}
	s.publishN(topic, 10)
	sub := s.subscribe(topic, "x", 0)
	s.receive(sub, 4)
	s.ack(sub, 0, 1, 3)
	got := topic.Stats()
	if got.First != 2 || got.Next != 10 || got.Messages != 7 || got.Bytes == 0 {
		t.Errorf("stats %+v", got)
	}
	want := []queue.SubStats{{Name: "x", Floor: 2, Backlog: 7, InFlight: 1}}
	if d := cmp.Diff(want, got.Subscriptions); d != "" {
		t.Error(d)
	}
	s.topic("b")
	if d := cmp.Diff([]string{"a", "b"}, s.e.Topics()); d != "" {
		t.Error(d)
	}
}

func testReceiveContext(t *testing.T, s *suite) {
	sub := s.subscribe(s.topic("a"), "x", 0)
	ctx, cancel := context.WithTimeout(s.ctx(), 10*time.Millisecond)
	defer cancel()
	if _, err := sub.Receive(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("receive: %v, want the context's error", err)
	}
}

func testCloseEndsReceivers(t *testing.T, s *suite) {
	topic := s.topic("a")
	a, b := s.subscribe(topic, "x", 0), s.subscribe(topic, "y", 0)
	g := run.NewGroup(s.ctx())
	wait := func(sub queue.Subscription) {
		g.Go("receiver", func(ctx context.Context) error {
			if _, err := sub.Receive(ctx, 1); !errors.Is(err, queue.ErrClosed) {
				return fmt.Errorf("receive: %w, want ErrClosed", err)
			}
			return nil
		})
	}
	for range 3 {
		wait(a)
		wait(b)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	s.close()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func testConcurrentClose(t *testing.T, s *suite) {
	topic := s.topic("a")
	g := run.NewGroup(s.ctx())
	for range 4 {
		g.Go("publisher", func(ctx context.Context) error {
			for i := range 1000 {
				_, err := topic.Publish(ctx, []message.Message{text(i)})
				if errors.Is(err, queue.ErrClosed) {
					return nil
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		g.Go("closer", func(ctx context.Context) error { return s.e.Close(ctx) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func testAfterClose(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.close()
	_, publish := topic.Publish(s.ctx(), []message.Message{text(0)})
	_, subscribe := topic.Subscribe(s.ctx(), "y", queue.SubOptions{})
	_, receive := sub.Receive(s.ctx(), 1)
	_, open := s.e.Topic(s.ctx(), "b")
	_, reopen := s.e.Topic(s.ctx(), "a")
	var browse error
	for _, browse = range topic.Browse(s.ctx(), queue.Start{}) {
		break
	}
	for name, err := range map[string]error{
		"publish": publish, "subscribe": subscribe, "receive": receive, "open": open, "reopen": reopen,
		"ack": sub.Ack(0), "release": sub.Release(0, 0),
		"atomic": s.e.Atomic(s.ctx(), queue.Tx{Publish: []queue.TxPublish{{Topic: topic, Messages: []message.Message{text(0)}}}}),
	} {
		if !errors.Is(err, queue.ErrClosed) {
			t.Errorf("%s after close: %v, want ErrClosed", name, err)
		}
	}
	if browse != nil && !errors.Is(browse, queue.ErrClosed) {
		t.Errorf("browse after close: %v", browse)
	}
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
}

func testTooLarge(t *testing.T, s *suite) {
	topic := s.topic("a")
	if _, err := topic.Publish(s.ctx(), []message.Message{{Payload: make([]byte, 64<<20+1)}}); !errors.Is(err, message.ErrTooLarge) {
		t.Errorf("publish: %v, want ErrTooLarge", err)
	}
	if first := s.publish(topic, text(0)); first != 0 {
		t.Errorf("first offset %d, want 0: a refused message takes none", first)
	}
}

func (s *suite) reopen() {
	s.t.Helper()
	if !s.f.Durable {
		s.t.Skip("the engine is not durable")
	}
	s.close()
	s.open()
}

func testReopen(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publish(topic, full(), text(1), text(2))
	s.receive(sub, 2)
	s.ack(sub, 1)
	s.reopen()
	topic = s.topic("a")
	got := s.receive(s.subscribe(topic, "x", 0), 2)
	s.want(offsets(got), 0, 2)
	if d := diff(full(), got[0].Message); d != "" {
		t.Error(d)
	}
	if first := s.publish(topic, text(3)); first != 3 {
		t.Errorf("first offset %d, want 3", first)
	}
}

func testReopenSettled(_ *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 20)
	s.ack(sub, offsets(s.receive(sub, 20))...)
	for range 3 {
		s.reopen()
		topic = s.topic("a")
		sub = s.subscribe(topic, "x", 0)
		s.none(sub)
	}
	s.publishN(topic, 1)
	s.want(offsets(s.receive(sub, 1)), 20)
}
