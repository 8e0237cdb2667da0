package pipelines

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// queueNone is the value of delivery.queue that joins sources and sinks directly: a
// source may acknowledge upstream only when every sink, or the dead letters, have taken
// the message.
const queueNone = "none"

// directWait is how long a source that stops is kept for what is under way to its sinks.
const directWait = time.Second

// direct is a queue engine whose topic of one pipeline is not stored: Publish hands the
// messages to the receivers and returns when they are settled. All other topics, the dead
// letters among them, are those of the engine behind it.
type direct struct {
	queue.Engine

	topic *directTopic
}

func newDirect(e queue.Engine, topic string) *direct {
	t := &directTopic{name: topic, calls: map[uint64]*directCall{}, changed: make(chan struct{})}
	t.sub = &directSubscription{t}
	return &direct{e, t}
}

// Topic implements queue.Engine.
func (d *direct) Topic(ctx context.Context, name string) (queue.Topic, error) {
	if name != d.topic.name {
		return d.Engine.Topic(ctx, name)
	}
	return d.topic, d.empty(ctx)
}

// empty refuses to leave behind what an earlier plan of the pipeline has stored.
func (d *direct) empty(ctx context.Context) error {
	if !slices.Contains(d.Topics(), d.topic.name) {
		return nil
	}
	t, err := d.Engine.Topic(ctx, d.topic.name)
	if err != nil {
		return err
	}
	for _, s := range t.Stats().Subscriptions {
		if s.Backlog > 0 {
			return fmt.Errorf("the queue holds %d messages of this pipeline; run it without `queue: none` until they are delivered, or purge them", s.Backlog)
		}
	}
	return nil
}

// Atomic implements queue.Engine for the units that a pipeline makes. What is stored is
// stored before what is not stored is settled, and removed after that was delivered, so
// that a crash between the two doubles and does not lose.
func (d *direct) Atomic(ctx context.Context, tx queue.Tx) error {
	var stored queue.Tx
	for _, p := range tx.Publish {
		if p.Topic != queue.Topic(d.topic) {
			stored.Publish = append(stored.Publish, p)
		} else if _, err := d.topic.Publish(ctx, p.Messages); err != nil {
			return err
		}
	}
	var settled []uint64
	for _, a := range tx.Ack {
		if a.Subscription == queue.Subscription(d.topic.sub) {
			settled = append(settled, a.Offsets...)
		} else {
			stored.Ack = append(stored.Ack, a)
		}
	}
	if len(stored.Publish)+len(stored.Ack) > 0 {
		if err := d.Engine.Atomic(ctx, stored); err != nil {
			return err
		}
	}
	return d.topic.sub.Ack(settled...)
}

// directTopic is the topic, with its only subscription.
type directTopic struct {
	name string
	sub  *directSubscription

	mu sync.Mutex
	// Guarded by mu.
	next     uint64
	limit    int
	inFlight int
	closed   bool
	// waiting are the messages that nobody has received, in order, and calls those that
	// are not settled, by offset.
	waiting []queue.Record
	calls   map[uint64]*directCall
	// changed is closed, and made anew, when there is something to receive or to be told.
	changed chan struct{}
}

// directCall is one Publish that waits.
type directCall struct {
	left int
	done chan struct{}
	// withdrawn: some of its messages were taken back.
	withdrawn bool
}

// wake tells all who wait. The caller holds the lock.
func (t *directTopic) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Name implements queue.Topic.
func (t *directTopic) Name() string { return t.name }

// Configure implements queue.Topic: there is nothing to configure.
func (t *directTopic) Configure(context.Context, queue.TopicOptions) error { return nil }

// Publish implements queue.Topic. It returns when all messages are settled. When ctx ends
// it takes back what nobody has received, and waits a moment for the others.
func (t *directTopic) Publish(ctx context.Context, msgs []message.Message) (uint64, error) {
	if len(msgs) == 0 {
		return 0, nil
	}
	c := &directCall{left: len(msgs), done: make(chan struct{})}
	first, err := t.enter(c, msgs)
	if err != nil {
		return 0, err
	}
	select {
	case <-c.done:
		return first, nil
	case <-ctx.Done():
	}
	t.takeBack(c)
	timer := time.NewTimer(directWait)
	defer timer.Stop()
	select {
	case <-c.done:
		if !t.complete(c) {
			return 0, ctx.Err()
		}
		return first, nil
	case <-timer.C:
		return 0, ctx.Err()
	}
}

// enter makes records of copies.
func (t *directTopic) enter(c *directCall, msgs []message.Message) (first uint64, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, queue.ErrClosed
	}
	first = t.next
	for i := range msgs {
		t.waiting = append(t.waiting, queue.Record{Offset: t.next, Appended: now, Delivery: 1, Attempt: 1, Message: msgs[i].Clone()})
		t.calls[t.next] = c
		t.next++
	}
	t.wake()
	return first, nil
}

// takeBack removes what nobody has received.
func (t *directTopic) takeBack(c *directCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(r queue.Record) bool {
		if t.calls[r.Offset] != c {
			return false
		}
		delete(t.calls, r.Offset)
		c.withdrawn = true
		t.settled(c)
		return true
	})
}

// settled counts a message of a call. The caller holds the lock.
func (t *directTopic) settled(c *directCall) {
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

func (t *directTopic) complete(c *directCall) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !c.withdrawn
}

// Subscribe implements queue.Topic. There is one subscription.
func (t *directTopic) Subscribe(_ context.Context, _ string, o queue.SubOptions) (queue.Subscription, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = o.MaxInFlight
	return t.sub, nil
}

// Unsubscribe implements queue.Topic.
func (t *directTopic) Unsubscribe(context.Context, string) error { return queue.ErrUnsupported }

// Browse implements queue.Topic: nothing is held.
func (t *directTopic) Browse(context.Context, queue.Start) iter.Seq2[queue.Record, error] {
	return func(func(queue.Record, error) bool) {}
}

// Purge implements queue.Topic.
func (t *directTopic) Purge(context.Context, queue.Start) error { return queue.ErrUnsupported }

// Stats implements queue.Topic.
func (t *directTopic) Stats() queue.TopicStats {
	sub := t.sub.Stats()
	return queue.TopicStats{Name: t.name, Next: sub.Floor + sub.Backlog, Messages: sub.Backlog, Subscriptions: []queue.SubStats{sub}}
}

// directSubscription is the subscription of a directTopic.
type directSubscription struct{ *directTopic }

// Stats implements queue.Subscription.
func (s *directSubscription) Stats() queue.SubStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	backlog := uint64(len(s.calls))
	return queue.SubStats{Name: laneSubscription, Floor: s.next - backlog, Backlog: backlog, InFlight: s.inFlight}
}

// Receive implements queue.Subscription. A message that is to be delivered later is held
// until then, and holds up nobody.
func (s *directSubscription) Receive(ctx context.Context, limit int) ([]queue.Record, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, queue.ErrClosed
		}
		records, due := s.cut(min(limit, s.limit-s.inFlight), time.Now())
		changed := s.changed
		s.mu.Unlock()
		if len(records) > 0 {
			return records, nil
		}
		timer := time.NewTimer(due)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// cut takes what is due, up to limit, or says when to look again. The caller holds the
// lock.
func (s *directSubscription) cut(limit int, now time.Time) (records []queue.Record, due time.Duration) {
	n := 0
	for n < min(limit, len(s.waiting)) && !s.waiting[n].Message.NotBefore.After(now) {
		n++
	}
	records, s.waiting = s.waiting[:n:n], s.waiting[n:]
	due = time.Hour
	if n == 0 && limit > 0 && len(s.waiting) > 0 {
		records, due = s.pick(limit, now)
	}
	s.inFlight += len(records)
	return records, due
}

// pick takes what is due from between what is not.
func (s *directSubscription) pick(limit int, now time.Time) (records []queue.Record, due time.Duration) {
	due = time.Hour
	var kept []queue.Record
	for _, r := range s.waiting {
		switch wait := r.Message.NotBefore.Sub(now); {
		case wait > 0:
			due = min(due, wait)
			kept = append(kept, r)
		case len(records) >= limit:
			kept = append(kept, r)
		default:
			records = append(records, r)
		}
	}
	s.waiting = kept
	return records, due
}

// Ack implements queue.Subscription.
func (s *directSubscription) Ack(offsets ...uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range offsets {
		c := s.calls[o]
		if c == nil {
			continue
		}
		delete(s.calls, o)
		s.inFlight--
		s.settled(c)
	}
	if len(offsets) > 0 {
		s.wake()
	}
	return nil
}

// Nack implements queue.Subscription.
func (s *directSubscription) Nack(time.Duration, ...uint64) error { return queue.ErrUnsupported }

// Release implements queue.Subscription.
func (s *directSubscription) Release(time.Duration, ...uint64) error { return queue.ErrUnsupported }

// Extend implements queue.Subscription.
func (s *directSubscription) Extend(time.Duration, ...uint64) error { return nil }

// Seek implements queue.Subscription.
func (s *directSubscription) Seek(context.Context, queue.Start) error { return queue.ErrUnsupported }

// Close implements queue.Subscription.
func (s *directSubscription) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.wake()
	}
	return nil
}
