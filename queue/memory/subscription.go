package memory

import (
	"context"
	"time"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

type subscriber struct {
	name    string
	topic   *topic
	win     *delivery.Window
	current *subscription // guarded by the engine
}

// subscription implements queue.Subscription and delivery.Store.
type subscription struct {
	s    *subscriber
	stop <-chan struct{}
}

// Receive implements queue.Subscription.
func (s *subscription) Receive(ctx context.Context, limit int) ([]queue.Record, error) {
	return s.s.win.Receive(ctx, s.stop, max(limit, 1), s)
}

// Fetch implements delivery.Store.
func (s *subscription) Fetch(handouts []delivery.Handout) ([]queue.Record, error) {
	out := make([]queue.Record, 0, len(handouts))
	for _, h := range handouts {
		r, ok := s.s.topic.get(h.Offset)
		if !ok {
			s.s.win.Settle(h.Offset)
			continue
		}
		r.Delivery, r.Attempt = h.Delivery, h.Attempt
		out = append(out, r)
	}
	return out, nil
}

// Lane implements delivery.Store.
func (s *subscription) Lane(priority uint8, from uint64) (offsets []uint64, next uint64, err error) {
	t := s.s.topic
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	for i := range t.held {
		if r := &t.held[i]; r.Offset >= from && min(r.Message.Priority, delivery.Priorities-1) == priority {
			offsets = append(offsets, r.Offset)
		}
	}
	return offsets, t.next, nil
}

// Retire implements delivery.Store.
func (s *subscription) Retire(ctx context.Context, dead []delivery.Dead) error {
	o := s.s.win.Options()
	tx := queue.Tx{Ack: []queue.TxAck{{Subscription: s}}}
	for i := range dead {
		tx.Ack[0].Offsets = append(tx.Ack[0].Offsets, dead[i].Record.Offset)
	}
	if o.DeadLetter != nil {
		tx.Publish = []queue.TxPublish{{Topic: o.DeadLetter, Messages: delivery.Letters(s.s.topic.name, dead), Repeat: true}}
	}
	return s.s.topic.e.Atomic(ctx, tx)
}

// Log implements delivery.Store. The window itself is all the memory that there is.
func (s *subscription) Log([]delivery.Failed) error { return nil }

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

// Nack implements queue.Subscription.
func (s *subscription) Nack(delay time.Duration, offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	s.s.win.Nack(delay, offsets...)
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

// Extend implements queue.Subscription.
func (s *subscription) Extend(by time.Duration, offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	s.s.win.Prolong(by, offsets...)
	return nil
}

// Seek implements queue.Subscription.
func (s *subscription) Seek(ctx context.Context, to queue.Start) error {
	if err := s.check(); err != nil {
		return err
	}
	t := s.s.topic
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.e.mu.Unlock()
	set := t.gone()
	set.SetFloor(t.place(to))
	s.s.win.Seek(set)
	t.trim()
	return nil
}

// Stats implements queue.Subscription.
func (s *subscription) Stats() queue.SubStats { return s.s.win.Stats(s.s.name) }

// Close implements queue.Subscription.
func (s *subscription) Close() error {
	s.s.win.Close(s.stop)
	return nil
}
