package queuetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

func (s *suite) subscribeWith(t queue.Topic, name string, o queue.SubOptions) queue.Subscription {
	s.t.Helper()
	sub, err := t.Subscribe(s.ctx(), name, o)
	if err != nil {
		s.t.Fatalf("subscribe: %v", err)
	}
	return sub
}

// must fails the test on an error.
func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) stats(sub queue.Subscription, backlog, expired, dead uint64) {
	s.t.Helper()
	if st := sub.Stats(); st.Backlog != backlog || st.Expired != expired || st.DeadLettered != dead {
		s.t.Errorf("stats %+v, want backlog %d, expired %d, dead-lettered %d", st, backlog, expired, dead)
	}
}

func testDelay(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 1)
	due := time.Now().Add(80 * time.Millisecond)
	s.publish(topic, message.Message{NotBefore: due}, message.Message{NotBefore: due.Add(time.Hour)}, text(2))
	s.want(offsets(s.receive(sub, 1)), 2)
	s.ack(sub, 2)
	got := s.receive(sub, 1)
	s.want(offsets(got), 0)
	if time.Now().Before(due) || got[0].Delivery != 1 {
		t.Errorf("came %v early, delivery %d", time.Until(due), got[0].Delivery)
	}
	s.ack(sub, 0)
	s.none(sub)
	if st := sub.Stats(); st.Delayed != 1 || st.Backlog != 1 || st.InFlight != 0 {
		t.Errorf("stats %+v, want one delayed", st)
	}
}

func testExpiry(t *testing.T, s *suite) {
	topic, dead := s.topic("a"), s.topic("dead")
	letters := s.subscribe(dead, "x", 0)
	moves := s.subscribeWith(topic, "moves", queue.SubOptions{DeadLetter: dead})
	drops := s.subscribe(topic, "drops", 0)
	takes := s.subscribeWith(topic, "takes", queue.SubOptions{DeliverExpired: true})
	old := text(0)
	old.ID, old.Expires = "old", time.Now().Add(-time.Minute)
	fresh := text(1)
	fresh.Expires = time.Now().Add(time.Hour)
	s.publish(topic, old, fresh)
	s.want(offsets(s.receive(moves, 1)), 1)
	s.want(offsets(s.receive(drops, 1)), 1)
	s.want(offsets(s.receive(takes, 2)), 0, 1)
	s.stats(moves, 1, 1, 0)
	s.stats(drops, 1, 1, 0)
	s.stats(takes, 2, 0, 0)
	m := s.receive(letters, 1)[0].Message
	if m.ID != "old" || m.Headers.Text(queue.HeaderReason) != "expired" || m.Headers.Text(queue.HeaderTopic) != "a" || !m.Expires.IsZero() {
		t.Errorf("dead letter %+v", m)
	}
	s.none(letters)
}

func testPriority(_ *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribeWith(topic, "x", queue.SubOptions{Order: queue.ByPriority, MaxInFlight: 3})
	for i, p := range []uint8{4, 0, 9, 4, 200, 1} {
		m := text(i)
		m.Priority = p
		s.publish(topic, m)
	}
	s.want(offsets(s.receive(sub, 3)), 2, 4, 0)
	urgent := text(6)
	urgent.Priority = 5
	s.publish(topic, urgent)
	s.must(sub.Release(0, 0))
	s.want(offsets(s.receive(sub, 1)), 6)
	s.ack(sub, 2, 4, 6)
	s.want(offsets(s.receive(sub, 3)), 0, 3, 5)
	s.ack(sub, 0, 3, 5)
	s.want(offsets(s.receive(sub, 1)), 1)
}

func testKeyOrder(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribeWith(topic, "x", queue.SubOptions{Order: queue.ByKey})
	for i, k := range []string{"a", "a", "b", "a", "", "b"} {
		m := text(i)
		if k != "" {
			m.Key = []byte(k)
		}
		s.publish(topic, m)
	}
	s.want(offsets(s.receive(sub, 3)), 0, 2, 4)
	s.none(sub)
	if st := sub.Stats(); st.Waiting != 3 || st.InFlight != 3 {
		t.Errorf("stats %+v, want three waiting", st)
	}
	s.must(sub.Nack(30*time.Millisecond, 0)) // a failing message holds its key
	s.ack(sub, 2)
	s.want(offsets(s.receive(sub, 1)), 5)
	s.want(offsets(s.receive(sub, 1)), 0)
	s.ack(sub, 0)
	s.want(offsets(s.receive(sub, 1)), 1)
	s.ack(sub, 1)
	s.want(offsets(s.receive(sub, 1)), 3)
}

func testAttempts(t *testing.T, s *suite) {
	topic, dead := s.topic("a"), s.topic("dead")
	letters := s.subscribe(dead, "x", 0)
	sub := s.subscribeWith(topic, "x", queue.SubOptions{
		MaxAttempts: 3, DeadLetter: dead, MinBackoff: 15 * time.Millisecond, MaxBackoff: 20 * time.Millisecond,
	})
	s.publish(topic, text(0))
	start, waited := time.Now(), time.Duration(0)
	for attempt := 1; attempt <= 3; attempt++ {
		got := s.receive(sub, 1)
		if got[0].Attempt != attempt {
			t.Errorf("attempt %d, want %d", got[0].Attempt, attempt)
		}
		if took := time.Since(start); took < waited {
			t.Errorf("attempt %d after %v, want %v at least", attempt, took, waited)
		}
		s.must(sub.Release(0, 0)) // gives it back and counts nothing
		s.want(offsets(s.receive(sub, 1)), 0)
		s.must(sub.Nack(queue.Backoff, 0))
		waited += min(15*time.Millisecond<<(attempt-1), 20*time.Millisecond)
	}
	s.publish(topic, text(1))
	s.want(offsets(s.receive(sub, 1)), 1)
	s.ack(sub, 1)
	for letters.Stats().Backlog == 0 { // who receives moves what is dead, if there is time
		s.none(sub)
	}
	m := s.receive(letters, 1)[0].Message
	if m.Headers.Text(queue.HeaderReason) != "max attempts" || m.Headers.Text(queue.HeaderAttempts) != "3" {
		t.Errorf("dead letter %+v", m)
	}
	s.stats(sub, 0, 0, 1)
}

func testAckTimeout(t *testing.T, s *suite) {
	topic := s.topic("a")
	const timeout = 50 * time.Millisecond
	sub := s.subscribeWith(topic, "x", queue.SubOptions{AckTimeout: timeout})
	s.publishN(topic, 2)
	start := time.Now()
	s.receive(sub, 2)
	s.must(sub.Extend(time.Hour, 1))
	got := s.receive(sub, 1)
	s.want(offsets(got), 0)
	if took := time.Since(start); took < timeout || got[0].Attempt != 2 {
		t.Errorf("came again after %v, attempt %d; want %v and 2", took, got[0].Attempt, timeout)
	}
	s.ack(sub, 0)
	s.none(sub)
}

func id(id string) message.Message { return message.Message{ID: id, Payload: []byte(id)} }

func testDedup(t *testing.T, s *suite) {
	topic := s.topic("a")
	s.publish(topic, id("before"))
	s.must(topic.Configure(s.ctx(), queue.TopicOptions{Dedup: time.Hour}))
	sub := s.subscribe(topic, "x", 0)
	s.publish(topic, id("before"), id("x"), id(""), id("y"))
	s.publish(topic, id("x"))
	s.publish(topic, id("z"), id("y"), id(""))
	got := s.receive(sub, 7)
	s.want(offsets(got), 0, 1, 2, 3, 4, 5, 6)
	if got[5].Message.ID != "z" || got[6].Message.ID != "" {
		t.Errorf("offsets 5 and 6 are %q and %q", got[5].Message.ID, got[6].Message.ID)
	}
	s.ack(sub, offsets(got)...)
	s.publish(topic, id("x")) // settled, and remembered all the same
	s.none(sub)
	if st := topic.Stats(); st.Duplicates != 3 || st.Options.Dedup != time.Hour {
		t.Errorf("stats %+v, want 3 duplicates", st)
	}
	s.must(topic.Configure(s.ctx(), queue.TopicOptions{}))
	s.publish(topic, id("x"))
	s.want(offsets(s.receive(sub, 1)), 7)
}

func testDedupTwins(_ *testing.T, s *suite) {
	topic, other := s.topic("a"), s.topic("b")
	s.must(topic.Configure(s.ctx(), queue.TopicOptions{Dedup: time.Hour}))
	sub, from := s.subscribe(topic, "x", 0), s.subscribe(other, "x", 0)
	s.publish(other, text(0))
	s.publish(topic, id("x"), id("x"), id("y"), id("x"))
	s.receive(from, 1)
	s.must(s.e.Atomic(s.ctx(), queue.Tx{
		Publish: []queue.TxPublish{
			{Topic: topic, Messages: []message.Message{id("y"), id("z")}},
			{Topic: other, Messages: []message.Message{id("y")}},
		},
		Ack: []queue.TxAck{{Subscription: from, Offsets: []uint64{0}}},
	}))
	got := s.receive(sub, 3)
	if ids := fmt.Sprint(got[0].Message.ID, got[1].Message.ID, got[2].Message.ID); ids != "xyz" {
		s.t.Errorf("ids %s, want xyz", ids)
	}
	s.none(sub)
	s.want(offsets(s.receive(from, 1)), 1)
	s.must(s.e.Atomic(s.ctx(), queue.Tx{Publish: []queue.TxPublish{{Topic: topic, Messages: []message.Message{id("x")}, Repeat: true}}}))
	s.want(offsets(s.receive(sub, 1)), 3)
}

func testSeek(t *testing.T, s *suite) {
	topic := s.topic("a")
	s.must(topic.Configure(s.ctx(), queue.TopicOptions{Keep: time.Hour}))
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 3)
	between := time.Now().Add(time.Millisecond)
	<-time.After(2 * time.Millisecond)
	s.publishN(topic, 3)
	s.ack(sub, offsets(s.receive(sub, 6))...)
	s.must(sub.Seek(s.ctx(), queue.At(4)))
	s.want(offsets(s.receive(sub, 2)), 4, 5)
	s.must(sub.Seek(s.ctx(), queue.Since(between)))
	s.want(offsets(s.receive(sub, 3)), 3, 4, 5)
	s.must(sub.Seek(s.ctx(), queue.Start{}))
	s.want(offsets(s.receive(sub, 6)), 0, 1, 2, 3, 4, 5)
	s.must(sub.Seek(s.ctx(), queue.Latest()))
	s.publishN(topic, 1)
	s.want(offsets(s.receive(sub, 1)), 6)
	s.must(sub.Seek(s.ctx(), queue.At(1<<40))) // there is no such place: the end
	if st := sub.Stats(); st.Floor != 7 || st.Backlog != 0 {
		t.Errorf("stats %+v, want floor 7", st)
	}
}

func testKeep(t *testing.T, s *suite) {
	topic := s.topic("a")
	s.must(topic.Configure(s.ctx(), queue.TopicOptions{KeepBytes: 1 << 20}))
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 5)
	s.ack(sub, offsets(s.receive(sub, 5))...)
	n := 0
	for _, err := range topic.Browse(s.ctx(), queue.At(1)) {
		s.must(err)
		n++
	}
	if n != 4 {
		t.Errorf("browse from 1 found %d messages, want 4", n)
	}
	s.want(offsets(s.receive(s.subscribe(topic, "late", 0), 5)), 0, 1, 2, 3, 4)
}

func testPurge(_ *testing.T, s *suite) {
	topic := s.topic("a")
	x, y := s.subscribe(topic, "x", 0), s.subscribe(topic, "y", 0)
	s.publishN(topic, 5)
	s.receive(x, 2)
	s.must(topic.Purge(s.ctx(), queue.At(3)))
	s.want(offsets(s.receive(x, 2)), 3, 4)
	s.want(offsets(s.receive(y, 2)), 3, 4)
	s.want(offsets(s.receive(s.subscribe(topic, "late", 0), 2)), 3, 4)
	s.must(x.Seek(s.ctx(), queue.Start{})) // nothing brings back what was purged
	s.want(offsets(s.receive(x, 2)), 3, 4)
	s.must(topic.Purge(s.ctx(), queue.Latest()))
	s.none(y)
}

func testDelete(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 3)
	s.must(s.e.Delete(s.ctx(), "a"))
	if _, err := sub.Receive(s.ctx(), 1); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("receive from a deleted topic: %v", err)
	}
	if _, err := topic.Publish(s.ctx(), []message.Message{text(0)}); !errors.Is(err, queue.ErrUnknownTopic) {
		t.Errorf("publish to a deleted topic: %v", err)
	}
	if err := s.e.Delete(s.ctx(), "a"); !errors.Is(err, queue.ErrUnknownTopic) {
		t.Errorf("delete twice: %v", err)
	}
	if slices.Contains(s.e.Topics(), "a") {
		t.Error("the topic is still listed")
	}
	again := s.topic("a")
	s.want([]uint64{s.publish(again, text(7))}, 0)
	s.want(offsets(s.receive(s.subscribe(again, "x", 0), 1)), 0)
}

func testUnsubscribe(t *testing.T, s *suite) {
	topic := s.topic("a")
	x, y := s.subscribe(topic, "x", 0), s.subscribe(topic, "y", 0)
	s.publishN(topic, 2)
	s.ack(y, offsets(s.receive(y, 2))...)
	s.must(topic.Unsubscribe(s.ctx(), "x"))
	if _, err := x.Receive(s.ctx(), 1); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
	if err := topic.Unsubscribe(s.ctx(), "x"); !errors.Is(err, queue.ErrUnknownSubscription) {
		t.Errorf("unsubscribe twice: %v", err)
	}
	if st := topic.Stats(); st.Messages != 0 || len(st.Subscriptions) != 1 {
		t.Errorf("stats %+v: nobody needs the messages", st)
	}
}

func testBadOptions(t *testing.T, s *suite) {
	topic := s.topic("a")
	for _, o := range []queue.SubOptions{{MaxAttempts: 1}, {Order: 99}, {Order: -1}} {
		if _, err := topic.Subscribe(s.ctx(), "x", o); !errors.Is(err, queue.ErrUnsupported) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func testReopenSchedule(t *testing.T, s *suite) {
	if !s.f.Durable {
		return
	}
	topic := s.topic("a")
	gone := s.topic("gone")
	s.publish(gone, text(0))
	o := queue.TopicOptions{Dedup: time.Hour, Keep: time.Hour, KeepBytes: 1 << 30, OnDamage: queue.Hold}
	s.must(topic.Configure(s.ctx(), o))
	sub := s.subscribe(topic, "x", 0)
	s.subscribe(topic, "y", 0)
	later := id("later")
	later.NotBefore = time.Now().Add(time.Hour)
	s.publish(topic, later, id("b"), id("c"), id("d"))
	s.receive(sub, 3)
	s.must(sub.Nack(time.Hour, 1))
	s.must(sub.Nack(0, 2))
	s.must(sub.Nack(0, offsets(s.receive(sub, 1))[0]))
	s.must(s.e.Delete(s.ctx(), "gone"))
	s.must(topic.Unsubscribe(s.ctx(), "y"))
	for range 2 { // from the journal, and from the checkpoint that closing wrote
		s.reopen()
		topic = s.topic("a")
		if st := topic.Stats(); st.Options != o || len(st.Subscriptions) != 1 || slices.Contains(s.e.Topics(), "gone") {
			t.Errorf("stats %+v, topics %v", st, s.e.Topics())
		}
		s.publish(topic, id("d"), id("c")) // duplicates
		sub = s.subscribe(topic, "x", 0)
		got := s.receive(sub, 2)
		s.want(offsets(got), 2, 3)
		if got[0].Attempt != 3 || got[1].Attempt != 1 {
			t.Errorf("attempts %d and %d, want 3 and 1", got[0].Attempt, got[1].Attempt)
		}
		s.none(sub)
	}
}
