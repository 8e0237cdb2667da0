// Package memory is a queue engine that keeps everything in memory, for tests and
// dry runs. It has the semantics of the journal engine except for durability: what it
// holds ends with the process.
package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// New returns an empty engine.
func New() *Engine { return &Engine{topics: map[string]*topic{}} }

// Engine implements queue.Engine.
type Engine struct {
	mu     sync.Mutex
	closed bool
	topics map[string]*topic
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
		if err := p.Topic.(*topic).usable(); err != nil { //nolint:forcetypeassert // checked above
			return err
		}
	}
	for _, p := range tx.Publish {
		p.Topic.(*topic).add(p.Messages, p.Repeat) //nolint:forcetypeassert // checked above
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
func (e *Engine) Caps() queue.Caps {
	return queue.Caps{Name: "memory", Delay: true, Priority: true, KeyOrder: true, Expiry: true, Dedup: true, Seek: true}
}

// Close implements queue.Engine.
func (e *Engine) Close(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for _, t := range e.topics {
		t.close()
	}
	return nil
}

// Delete implements queue.Engine.
func (e *Engine) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return queue.ErrClosed
	}
	t := e.topics[name]
	if t == nil {
		return fmt.Errorf("delete topic %q: %w", name, queue.ErrUnknownTopic)
	}
	delete(e.topics, name)
	t.deleted = true
	t.close()
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
