package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// topic implements queue.Topic.
type topic struct {
	e    *Engine
	id   uint32
	name string
	made *batch // in which it was created; nil when it was found on disk

	// Guarded by the engine.
	next    uint64 // the offset that the next message gets
	o       queue.TopicOptions
	known   known
	deleted bool

	log topicLog // guarded by the index

	gone    goneSet
	options atomic.Pointer[queue.TopicOptions] // the same as o
	held    atomic.Bool                        // it lost messages and waits for an operator
	delays  atomic.Bool                        // a message had to wait for its time
	subs    atomic.Pointer[[]*subscriber]
}

func (t *topic) Name() string { return t.name }

func (t *topic) subscribers() []*subscriber {
	if p := t.subs.Load(); p != nil {
		return *p
	}
	return nil
}

// extend tells the subscriptions that the messages below end are there.
func (t *topic) extend(end uint64) {
	for _, s := range t.subscribers() {
		s.win.Grow(end)
	}
}

// covered reports whether every subscription has settled the offsets, or they are gone.
// Nobody has settled anything when there is no subscription.
func (t *topic) covered(first, end uint64) bool {
	subs := t.subscribers()
	all := len(subs) > 0
	for _, s := range subs {
		s.win.View(func(set *delivery.Set) { all = all && set.Covers(first, end) })
	}
	return all || t.gone.covers(first, end)
}

// released returns the offsets that are not shown any more: what a new subscription
// starts with.
func (t *topic) released() delivery.Set {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	return t.releasedLocked()
}

// releasedLocked is released for those who have the engine's lock.
func (t *topic) releasedLocked() delivery.Set {
	gone := t.gone.clone()
	subs := t.subscribers()
	if len(subs) == 0 || t.keeps() {
		return gone
	}
	var out delivery.Set
	subs[0].win.View(func(set *delivery.Set) { out = set.Clone() })
	for _, s := range subs[1:] {
		s.win.View(func(set *delivery.Set) { out = delivery.Intersect(&out, set) })
	}
	return out
}

// Publish implements queue.Topic.
func (t *topic) Publish(ctx context.Context, msgs []message.Message) (uint64, error) {
	if len(msgs) == 0 {
		return 0, nil
	}
	u := t.e.unit()
	defer t.e.free(u)
	if err := u.publish(t, msgs); err != nil {
		return 0, err
	}
	b, err := t.e.join(ctx, u, fills)
	if err != nil {
		return 0, err
	}
	first := u.parts[0].first
	return first, b.wait(ctx)
}

// Subscribe implements queue.Topic.
func (t *topic) Subscribe(ctx context.Context, name string, o queue.SubOptions) (queue.Subscription, error) {
	s, err := t.subscriber(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := delivery.Check(o); err != nil {
		return nil, fmt.Errorf("subscribe %q to topic %q: %w", name, t.name, err)
	}
	sub := s.open(o)
	if err := t.e.Health(); err != nil { // storage failed before it could be told
		s.stop()
		return nil, err
	}
	return sub, nil
}

// subscriber finds or creates the durable part of a subscription.
func (t *topic) subscriber(ctx context.Context, name string) (*subscriber, error) {
	e := t.e
	e.mu.Lock()
	if err := cmp.Or(e.usable(), t.existing()); err != nil {
		e.mu.Unlock()
		return nil, err
	}
	subs := t.subscribers()
	i := slices.IndexFunc(subs, func(s *subscriber) bool { return s.name == name })
	if i >= 0 {
		e.mu.Unlock()
		return subs[i], e.settle(ctx, subs[i].made, nil)
	}
	e.lastSub++
	start := t.releasedLocked()
	if plant.On(plant.SkipHeld) {
		start.SetFloor(t.next)
	}
	u := e.unit()
	defer e.free(u)
	u.buf = appendSubscription(u.buf, e.lastSub, t.id, name, &start)
	u.parts = append(u.parts, part{count: 1})
	s := &subscriber{id: e.lastSub, name: name, topic: t, win: delivery.New(start, e.index.end(t), e.now)}
	s.made = e.add(u)
	e.register(s)
	e.mu.Unlock()
	// A commit between reading the end and registering would have gone unseen.
	s.win.Grow(e.index.end(t))
	return s, e.settle(ctx, s.made, func() { e.unregister(s) })
}

// existing returns ErrUnknownTopic when the topic was deleted. The engine is locked.
func (t *topic) existing() error {
	if t.deleted {
		return queue.ErrUnknownTopic
	}
	return nil
}

// Unsubscribe implements queue.Topic.
func (t *topic) Unsubscribe(ctx context.Context, name string) error {
	subs := t.subscribers()
	i := slices.IndexFunc(subs, func(s *subscriber) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("unsubscribe %q from topic %q: %w", name, t.name, queue.ErrUnknownSubscription)
	}
	s := subs[i]
	err := t.e.command(ctx, func(u *unit) {
		var at int
		u.buf, at = beginRecord(u.buf, recordDropSubscription, s.id, 0)
		endRecord(u.buf, at)
		u.then = func() {
			t.e.unregister(s)
			s.stop()
			t.e.touch()
		}
	})
	if err != nil {
		return fmt.Errorf("unsubscribe %q from topic %q: %w", name, t.name, err)
	}
	return nil
}

// Purge implements queue.Topic.
func (t *topic) Purge(ctx context.Context, before queue.Start) error {
	end, err := t.place(before)
	if err == nil {
		err = t.e.command(ctx, func(u *unit) {
			var at int
			u.buf, at = beginRecord(u.buf, recordPurge, t.id, end)
			endRecord(u.buf, at)
			u.then = func() {
				t.purge(end)
				t.e.touch()
			}
		})
	}
	if err != nil {
		return fmt.Errorf("purge topic %q: %w", t.name, err)
	}
	return nil
}

// purge settles everything before end for everybody.
func (t *topic) purge(end uint64) {
	t.gone.add(0, end)
	for _, s := range t.subscribers() {
		s.win.SettleRange(0, end)
	}
}

// Delete implements queue.Engine.
func (e *Engine) Delete(ctx context.Context, name string) error {
	e.mu.Lock()
	t := e.topics[name]
	if t == nil {
		e.mu.Unlock()
		return fmt.Errorf("delete topic %q: %w", name, cmp.Or(e.readable(), queue.ErrUnknownTopic))
	}
	if err := e.usable(); err != nil {
		e.mu.Unlock()
		return fmt.Errorf("delete topic %q: %w", name, err)
	}
	t.deleted = true // nobody may publish behind the record
	u := e.unit()
	defer e.free(u)
	var at int
	u.buf, at = beginRecord(u.buf, recordDropTopic, t.id, 0)
	endRecord(u.buf, at)
	u.parts = append(u.parts, part{count: 1})
	u.then = func() {
		e.forget(t)
		e.touch()
	}
	b := e.add(u)
	e.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return fmt.Errorf("delete topic %q: %w", name, err)
	}
	return nil
}

// forget drops a topic with its subscriptions.
func (e *Engine) forget(t *topic) {
	for _, s := range t.subscribers() {
		e.unregister(s)
		s.stop()
	}
	e.disown(t)
}

// Browse implements queue.Topic.
func (t *topic) Browse(ctx context.Context, from queue.Start) iter.Seq2[queue.Record, error] {
	return func(yield func(queue.Record, error) bool) {
		c := cursor{topic: t}
		var buf []byte
		released, end := t.released(), t.e.index.end(t)
		first, err := t.place(from)
		if err != nil {
			yield(queue.Record{}, err)
			return
		}
		for o := max(first, released.Floor()); o < end; o++ {
			if err := errors.Join(ctx.Err(), t.e.readable()); err != nil {
				yield(queue.Record{}, err)
				return
			}
			if released.Has(o) {
				continue
			}
			p, err := c.find(o)
			if errors.Is(err, errGone) {
				continue
			}
			var r queue.Record
			if err == nil {
				r, buf, err = p.decode(buf[:0], o)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// Stats implements queue.Topic.
func (t *topic) Stats() queue.TopicStats {
	released := t.released()
	s := queue.TopicStats{Name: t.name, First: released.Floor(), Held: t.held.Load()}
	t.e.mu.Lock()
	s.Options, s.Duplicates = t.o, t.known.duplicates
	t.e.mu.Unlock()
	var first uint64
	s.Next, s.Bytes, first = t.e.index.size(t, s.First)
	s.First = max(s.First, first)
	if s.Next > s.First {
		s.Messages = s.Next - s.First - released.Above()
	}
	if s.Messages == 0 {
		s.Bytes = 0
	}
	for _, sub := range t.subscribers() {
		s.Subscriptions = append(s.Subscriptions, sub.win.Stats(sub.name))
	}
	return s
}
