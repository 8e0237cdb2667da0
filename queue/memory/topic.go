package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// topic implements queue.Topic.
type topic struct {
	e    *Engine
	name string

	// Guarded by the engine.
	o          queue.TopicOptions
	held       []queue.Record // by offset, without gaps
	next       uint64
	purged     uint64 // messages below it are gone for everybody
	subs       []*subscriber
	ids        map[string]time.Time // for deduplication
	duplicates uint64
	deleted    bool
}

func (t *topic) Name() string { return t.name }

// usable returns why nothing can be done with the topic, or nil. The engine's lock is
// held.
func (t *topic) usable() error {
	switch {
	case t.e.closed:
		return queue.ErrClosed
	case t.deleted:
		return fmt.Errorf("use topic %q: %w", t.name, queue.ErrUnknownTopic)
	}
	return nil
}

// enter takes the engine's lock if the topic can be used.
func (t *topic) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.e.mu.Lock()
	if err := t.usable(); err != nil {
		t.e.mu.Unlock()
		return err
	}
	return nil
}

// close ends all subscriptions. The engine's lock is held.
func (t *topic) close() {
	for _, s := range t.subs {
		if s.current != nil {
			s.win.Close(s.current.stop)
		}
	}
}

// Configure implements queue.Topic.
func (t *topic) Configure(ctx context.Context, o queue.TopicOptions) error {
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.e.mu.Unlock()
	t.o = o
	t.trim()
	return nil
}

// Publish implements queue.Topic.
func (t *topic) Publish(ctx context.Context, msgs []message.Message) (uint64, error) {
	if err := checkSize(msgs); err != nil {
		return 0, fmt.Errorf("publish to topic %q: %w", t.name, err)
	}
	if err := t.enter(ctx); err != nil {
		return 0, err
	}
	defer t.e.mu.Unlock()
	return t.add(msgs, false), nil
}

// add appends messages, also known ones if they repeat on purpose. The engine's lock is held.
func (t *topic) add(msgs []message.Message, repeat bool) (first uint64) {
	first = t.next
	now := time.Now()
	for i := range msgs {
		if !repeat && t.duplicate(msgs[i].ID, now) {
			continue
		}
		m := msgs[i].Clone()
		m.Options = nil // they belong to the sender's batch
		t.held = append(t.held, queue.Record{Offset: t.next, Appended: now, Message: m})
		t.next++
	}
	for _, s := range t.subs {
		s.win.Grow(t.next)
	}
	return first
}

// duplicate reports whether the ID is known, and remembers it.
func (t *topic) duplicate(id string, now time.Time) bool {
	if t.o.Dedup <= 0 || id == "" {
		return false
	}
	if seen, ok := t.ids[id]; ok && now.Sub(seen) < t.o.Dedup {
		t.duplicates++
		return true
	}
	if t.ids == nil {
		t.ids = map[string]time.Time{}
	}
	for id, seen := range t.ids {
		if now.Sub(seen) >= t.o.Dedup {
			delete(t.ids, id)
		}
	}
	t.ids[id] = now
	return false
}

// trim forgets what nobody needs. The engine's lock is held.
func (t *topic) trim() {
	floor := t.purged
	if len(t.subs) > 0 {
		low := t.next
		for _, s := range t.subs {
			low = min(low, s.win.Stats(s.name).Floor)
		}
		floor = max(floor, low)
	}
	keep := 0
	if t.o.Keep > 0 || t.o.KeepBytes > 0 {
		keep = t.kept()
	}
	n := 0
	for n < len(t.held)-keep && t.held[n].Offset < floor {
		n++
	}
	clear(t.held[:n]) // for the collector
	t.held = t.held[n:]
}

// kept returns how many of the newest messages stay although they are settled.
func (t *topic) kept() (n int) {
	size := uint64(0)
	for i := range slices.Backward(t.held) {
		size += uint64(t.held[i].Message.Size())
		if t.held[i].Offset < t.purged || t.o.Keep > 0 && time.Since(t.held[i].Appended) >= t.o.Keep || t.o.KeepBytes > 0 && size > t.o.KeepBytes {
			break
		}
		n++
	}
	return n
}

func (t *topic) get(offset uint64) (queue.Record, bool) {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	if len(t.held) == 0 || offset < t.held[0].Offset || offset >= t.next {
		return queue.Record{}, false
	}
	r := t.held[offset-t.held[0].Offset]
	r.Message = r.Message.Clone()
	return r, true
}

// released returns the offsets that are not shown any more. The engine's lock is held.
func (t *topic) released() (out delivery.Set) {
	if t.o.Keep > 0 || t.o.KeepBytes > 0 {
		return t.gone()
	}
	for i, s := range t.subs {
		s.win.View(func(set *delivery.Set) {
			if i == 0 {
				out = set.Clone()
			} else {
				out = delivery.Intersect(&out, set)
			}
		})
	}
	out.SetFloor(t.purged)
	return out
}

// gone returns the offsets that are not held any more. The engine's lock is held.
func (t *topic) gone() delivery.Set {
	floor := t.next
	if len(t.held) > 0 {
		floor = t.held[0].Offset
	}
	return delivery.NewSet(max(floor, t.purged))
}

// place finds an offset. The engine's lock is held.
func (t *topic) place(s queue.Start) uint64 {
	switch {
	case s.Latest:
		return t.next
	case s.Time.IsZero():
		return min(s.Offset, t.next)
	}
	i := sort.Search(len(t.held), func(i int) bool { return !t.held[i].Appended.Before(s.Time) })
	if i == len(t.held) {
		return t.next
	}
	return t.held[i].Offset
}

// Subscribe implements queue.Topic.
func (t *topic) Subscribe(ctx context.Context, name string, o queue.SubOptions) (queue.Subscription, error) {
	if err := delivery.Check(o); err != nil {
		return nil, fmt.Errorf("subscribe %q to topic %q: %w", name, t.name, err)
	}
	if err := t.enter(ctx); err != nil {
		return nil, err
	}
	defer t.e.mu.Unlock()
	i := slices.IndexFunc(t.subs, func(s *subscriber) bool { return s.name == name })
	if i < 0 {
		i = len(t.subs)
		t.subs = append(t.subs, &subscriber{name: name, topic: t, win: delivery.New(t.released(), t.next, nil)})
	}
	s := t.subs[i]
	if stop := s.win.Open(o); stop != nil {
		s.current = &subscription{s: s, stop: stop}
	}
	return s.current, nil
}

// Unsubscribe implements queue.Topic.
func (t *topic) Unsubscribe(ctx context.Context, name string) error {
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.e.mu.Unlock()
	i := slices.IndexFunc(t.subs, func(s *subscriber) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("unsubscribe %q from topic %q: %w", name, t.name, queue.ErrUnknownSubscription)
	}
	if c := t.subs[i].current; c != nil {
		c.s.win.Close(c.stop)
	}
	t.subs = slices.Delete(t.subs, i, i+1)
	t.trim()
	return nil
}

// Purge implements queue.Topic.
func (t *topic) Purge(ctx context.Context, before queue.Start) error {
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.e.mu.Unlock()
	t.purged = max(t.purged, t.place(before))
	for _, s := range t.subs {
		s.win.SettleRange(0, t.purged)
	}
	t.trim()
	return nil
}

// Browse implements queue.Topic.
func (t *topic) Browse(ctx context.Context, from queue.Start) iter.Seq2[queue.Record, error] {
	return func(yield func(queue.Record, error) bool) {
		if err := t.enter(ctx); err != nil {
			yield(queue.Record{}, err)
			return
		}
		released, first, end := t.released(), t.place(from), t.next
		t.e.mu.Unlock()
		for o := max(first, released.Floor()); o < end; o++ {
			if err := ctx.Err(); err != nil {
				yield(queue.Record{}, err)
				return
			}
			if released.Has(o) {
				continue
			}
			if r, ok := t.get(o); ok && !yield(r, nil) {
				return
			}
		}
	}
}

// Stats implements queue.Topic.
func (t *topic) Stats() queue.TopicStats {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	released := t.released()
	s := queue.TopicStats{Name: t.name, First: released.Floor(), Next: t.next, Duplicates: t.duplicates, Options: t.o}
	for i := range t.held {
		if !released.Has(t.held[i].Offset) {
			s.Messages++
			s.Bytes += uint64(t.held[i].Message.Size())
		}
	}
	for _, sub := range t.subs {
		s.Subscriptions = append(s.Subscriptions, sub.win.Stats(sub.name))
	}
	return s
}
