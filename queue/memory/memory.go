// Package memory is a queue engine that keeps everything in memory, for tests and
// dry runs. It has the semantics of the journal engine except for durability: what it
// holds ends with the process.
package memory

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// New returns an empty engine.
func New() *Engine { return &Engine{topics: map[string]*topic{}} }

// Engine implements queue.Engine.
type Engine struct {
	mu     sync.Mutex
	closed bool
	topics map[string]*topic
}

type topic struct {
	e    *Engine
	name string

	// Guarded by the engine.
	held []queue.Record // by offset, without gaps
	next uint64
	subs []*subscriber
}

type subscriber struct {
	name    string
	topic   *topic
	win     *delivery.Window
	current *subscription // guarded by the engine
}

type subscription struct {
	s    *subscriber
	stop <-chan struct{}
}

// Topic implements queue.Engine.
func (e *Engine) Topic(ctx context.Context, name string) (queue.Topic, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fmt.Errorf("open topic %q: %w", name, queue.ErrClosed)
	}
	t := e.topics[name]
	if t == nil {
		t = &topic{e: e, name: name}
		e.topics[name] = t
	}
	return t, nil
}

// Topics implements queue.Engine.
func (e *Engine) Topics() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.topics))
}

// Atomic implements queue.Engine.
func (e *Engine) Atomic(ctx context.Context, tx queue.Tx) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, p := range tx.Publish {
		if t, ok := p.Topic.(*topic); !ok || t.e != e {
			return fmt.Errorf("use topic %q: it belongs to another engine", p.Topic.Name())
		}
		if err := checkSize(p.Messages); err != nil {
			return err
		}
	}
	for _, a := range tx.Ack {
		s, ok := a.Subscription.(*subscription)
		if !ok || s.s.topic.e != e {
			return fmt.Errorf("use subscription %q: it belongs to another engine", a.Subscription.Stats().Name)
		}
		if err := s.check(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return queue.ErrClosed
	}
	for _, p := range tx.Publish {
		p.Topic.(*topic).add(p.Messages) //nolint:forcetypeassert // checked above
	}
	for _, a := range tx.Ack {
		s := a.Subscription.(*subscription).s //nolint:forcetypeassert // checked above
		s.win.Settle(a.Offsets...)
		s.topic.trim()
	}
	return nil
}

// Health implements queue.Engine.
func (e *Engine) Health() error { return nil }

// Caps implements queue.Engine.
func (e *Engine) Caps() queue.Caps { return queue.Caps{Name: "memory"} }

// Close implements queue.Engine.
func (e *Engine) Close(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for _, t := range e.topics {
		for _, s := range t.subs {
			if s.current != nil {
				s.win.Close(s.current.stop)
			}
		}
	}
	return nil
}

// maxMessage is the limit of the journal engine, so that a dry run meets it too.
const maxMessage = 64 << 20

func checkSize(msgs []message.Message) error {
	for i := range msgs {
		if msgs[i].Size() > maxMessage {
			return message.ErrTooLarge
		}
	}
	return nil
}

func (t *topic) Name() string { return t.name }

// Publish implements queue.Topic.
func (t *topic) Publish(ctx context.Context, msgs []message.Message) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := checkSize(msgs); err != nil {
		return 0, fmt.Errorf("publish to topic %q: %w", t.name, err)
	}
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	if t.e.closed {
		return 0, queue.ErrClosed
	}
	return t.add(msgs), nil
}

// add appends messages. The engine's lock is held.
func (t *topic) add(msgs []message.Message) (first uint64) {
	first = t.next
	now := time.Now()
	for i := range msgs {
		m := msgs[i].Clone()
		m.Options = nil // they belong to the sender's batch
		t.held = append(t.held, queue.Record{Offset: t.next, Appended: now, Message: m})
		t.next++
	}
	for _, s := range t.subs {
		s.win.Extend(t.next)
	}
	return first
}

// trim forgets what nobody needs. The engine's lock is held.
func (t *topic) trim() {
	if len(t.subs) == 0 || len(t.held) == 0 {
		return
	}
	floor := t.next
	for _, s := range t.subs {
		floor = min(floor, s.win.Stats(s.name).Floor)
	}
	n := floor - min(floor, t.held[0].Offset)
	clear(t.held[:n]) // for the collector
	t.held = t.held[n:]
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

// released returns the offsets that nobody needs. The engine's lock is held.
func (t *topic) released() (out delivery.Set) {
	for i, s := range t.subs {
		s.win.View(func(set *delivery.Set) {
			if i == 0 {
				out = set.Clone()
			} else {
				out = delivery.Intersect(&out, set)
			}
		})
	}
	return out
}

// Subscribe implements queue.Topic.
func (t *topic) Subscribe(ctx context.Context, name string, o queue.SubOptions) (queue.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	if t.e.closed {
		return nil, queue.ErrClosed
	}
	i := slices.IndexFunc(t.subs, func(s *subscriber) bool { return s.name == name })
	if i < 0 {
		i = len(t.subs)
		t.subs = append(t.subs, &subscriber{name: name, topic: t, win: delivery.New(t.released(), t.next)})
	}
	s := t.subs[i]
	if stop := s.win.Open(o.MaxInFlight); stop != nil {
		s.current = &subscription{s: s, stop: stop}
	}
	return s.current, nil
}

// Browse implements queue.Topic.
func (t *topic) Browse(ctx context.Context, from uint64) iter.Seq2[queue.Record, error] {
	return func(yield func(queue.Record, error) bool) {
		t.e.mu.Lock()
		released, end, closed := t.released(), t.next, t.e.closed
		t.e.mu.Unlock()
		if closed {
			yield(queue.Record{}, queue.ErrClosed)
			return
		}
		for o := max(from, released.Floor()); o < end; o++ {
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
	s := queue.TopicStats{Name: t.name, First: released.Floor(), Next: t.next}
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

// Receive implements queue.Subscription.
func (s *subscription) Receive(ctx context.Context, limit int) ([]queue.Record, error) {
	handouts, err := s.s.win.Receive(ctx, s.stop, max(limit, 1), nil)
	if err != nil {
		return nil, err
	}
	out := make([]queue.Record, 0, len(handouts))
	for _, h := range handouts {
		if r, ok := s.s.topic.get(h.Offset); ok {
			r.Delivery = h.Delivery
			out = append(out, r)
		}
	}
	return out, nil
}

func (s *subscription) check() error {
	select {
	case <-s.stop:
		return queue.ErrClosed
	default:
		return nil
	}
}

// Ack implements queue.Subscription.
func (s *subscription) Ack(offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	s.s.win.Settle(offsets...)
	s.s.topic.e.mu.Lock()
	defer s.s.topic.e.mu.Unlock()
	s.s.topic.trim()
	return nil
}

// Release implements queue.Subscription.
func (s *subscription) Release(delay time.Duration, offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	s.s.win.Release(delay, offsets...)
	return nil
}

// Stats implements queue.Subscription.
func (s *subscription) Stats() queue.SubStats { return s.s.win.Stats(s.s.name) }

// Close implements queue.Subscription.
func (s *subscription) Close() error {
	s.s.win.Close(s.stop)
	return nil
}
