package journal

import (
	"context"
	"fmt"
	"slices"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// settled is what a transaction settles in a subscription.
type settled struct {
	s       *subscriber
	offsets []uint64
}

// Atomic implements queue.Engine.
func (e *Engine) Atomic(ctx context.Context, tx queue.Tx) error {
	u := e.unit()
	defer e.free(u)
	if err := e.encodePublishes(u, tx.Publish); err != nil {
		return err
	}
	publishes := len(u.buf) > 0
	acks, err := e.encodeAcks(u, tx.Ack)
	if err != nil || len(u.buf) == 0 {
		return err
	}
	u.then = func() {
		for _, a := range acks {
			a.s.win.Settle(a.offsets...)
		}
	}
	if plant.On(plant.AckAhead) {
		u.then()
	}
	if plant.On(plant.SplitAtomic) && publishes {
		return e.splitAtomic(ctx, tx)
	}
	b, err := e.join(ctx, u, purpose(publishes, len(acks) > 0))
	if err != nil {
		return err
	}
	return b.wait(ctx)
}

func purpose(publishes, settles bool) use {
	switch {
	case publishes && settles:
		return moves
	case publishes:
		return fills
	}
	return frees
}

func (e *Engine) encodePublishes(u *unit, list []queue.TxPublish) error {
	for _, p := range list {
		t, ok := p.Topic.(*topic)
		if !ok || t.e != e {
			return errForeign("topic", p.Topic.Name())
		}
		if err := u.publish(t, p.Messages); err != nil {
			return err
		}
		if p.Repeat {
			u.parts[len(u.parts)-1].ids = nil
		}
	}
	return nil
}

func (e *Engine) encodeAcks(u *unit, list []queue.TxAck) (acks []settled, err error) {
	for _, a := range list {
		s, ok := a.Subscription.(*subscription)
		if !ok || s.e != e {
			return nil, errForeign("subscription", a.Subscription.Stats().Name)
		}
		if err := s.check(); err != nil {
			return nil, err
		}
		if offsets := slices.Compact(slices.Sorted(slices.Values(a.Offsets))); len(offsets) > 0 {
			u.ack(s.s, offsets)
			acks = append(acks, settled{s.s, offsets})
		}
	}
	return acks, nil
}

// splitAtomic is a mistake on purpose.
func (e *Engine) splitAtomic(ctx context.Context, tx queue.Tx) error {
	for _, p := range tx.Publish {
		if _, err := p.Topic.Publish(ctx, p.Messages); err != nil {
			return err
		}
	}
	return e.Atomic(ctx, queue.Tx{Ack: tx.Ack})
}

// errForeign says that a topic or subscription belongs to another engine.
func errForeign(what, name string) error {
	return fmt.Errorf("use %s %q: it belongs to another engine", what, name)
}
