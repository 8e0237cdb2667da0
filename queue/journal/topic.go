package journal

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// topic implements queue.Topic.
type topic struct {
	e    *Engine
	id   uint32
	name string
	made *batch // in which it was created; nil when it was found on disk

	next uint64   // guarded by the engine: the offset that the next message gets
	log  topicLog // guarded by the index

	gone delivery.Set // guarded by the engine: offsets whose messages were lost
	subs atomic.Pointer[[]*subscriber]
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
		s.win.Extend(end)
	}
}

// covered reports whether every subscription has settled the offsets. Nobody has when
// there is none.
func (t *topic) covered(first, end uint64) bool {
	subs := t.subscribers()
	all := len(subs) > 0
	for _, s := range subs {
		s.win.View(func(set *delivery.Set) { all = all && set.Covers(first, end) })
	}
	return all
}

// released returns the offsets that nobody needs: what a new subscription starts with.
func (t *topic) released() delivery.Set {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	return t.releasedLocked()
}

// releasedLocked is released for those who have the engine's lock.
func (t *topic) releasedLocked() delivery.Set {
	subs := t.subscribers()
	if len(subs) == 0 {
		return t.gone.Clone()
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
	b, err := t.e.join(ctx, u, true)
	if err != nil {
		return 0, err
	}
	return u.parts[0].first, b.wait(ctx)
}

// Subscribe implements queue.Topic.
func (t *topic) Subscribe(ctx context.Context, name string, o queue.SubOptions) (queue.Subscription, error) {
	s, err := t.subscriber(ctx, name)
	if err != nil {
		return nil, err
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
	if err := e.usable(); err != nil {
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
	u := e.unit()
	defer e.free(u)
	u.buf = appendSubscription(u.buf, e.lastSub, t.id, name, &start)
	u.parts = append(u.parts, part{count: 1})
	s := &subscriber{id: e.lastSub, name: name, topic: t, win: delivery.New(start, e.index.end(t))}
	s.made = e.add(u)
	e.register(s)
	e.mu.Unlock()
	// A commit between reading the end and registering would have gone unseen.
	s.win.Extend(e.index.end(t))
	return s, e.settle(ctx, s.made, func() { e.unregister(s) })
}

// Browse implements queue.Topic.
func (t *topic) Browse(ctx context.Context, from uint64) iter.Seq2[queue.Record, error] {
	return func(yield func(queue.Record, error) bool) {
		c := cursor{topic: t}
		var buf []byte
		released, end := t.released(), t.e.index.end(t)
		for o := max(from, released.Floor()); o < end; o++ {
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
	s := queue.TopicStats{Name: t.name, First: released.Floor()}
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
