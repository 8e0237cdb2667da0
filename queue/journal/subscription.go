package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// subscriber is the durable part of a subscription.
type subscriber struct {
	id    uint32
	name  string
	topic *topic
	win   *delivery.Window
	made  *batch // in which it was created; nil when it was found on disk

	mu      sync.Mutex
	current *subscription
}

// open returns the subscription object, of which there is one at a time.
func (s *subscriber) open(o queue.SubOptions) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stop := s.win.Open(o); stop != nil {
		s.current = &subscription{s: s, e: s.topic.e, stop: stop}
	}
	return s.current
}

// stop ends the present opening.
func (s *subscriber) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		s.win.Close(s.current.stop)
	}
}

// subscription implements queue.Subscription.
type subscription struct {
	s    *subscriber
	e    *Engine
	stop <-chan struct{}
}

// Receive implements queue.Subscription.
func (s *subscription) Receive(ctx context.Context, limit int) ([]queue.Record, error) {
	if s.s.topic.held.Load() {
		return nil, fmt.Errorf("receive from topic %q: %w", s.s.topic.name, queue.ErrHeld)
	}
	out, err := s.s.win.Receive(ctx, s.stop, max(limit, 1), s)
	if err != nil && ctx.Err() == nil {
		err = cmp.Or(s.e.failure(err), err)
	}
	return out, err
}

// failure returns the reason behind an error: storage that failed, or a queue that was
// closed meanwhile.
func (e *Engine) failure(err error) error {
	if errors.Is(err, queue.ErrClosed) {
		return e.Health()
	}
	return e.readable()
}

// maxReceive is where one Receive stops, so that large messages do not fill the
// memory of a receiver that asks for many.
const maxReceive = 8 * mib

// Fetch implements delivery.Store: it reads messages into one buffer that belongs to
// the receiver.
func (s *subscription) Fetch(handouts []delivery.Handout) ([]queue.Record, error) {
	c := cursor{topic: s.s.topic}
	found := make([]pointer, 0, len(handouts))
	kept := handouts[:0:0]
	size, later := 0, uint64(0)
	for i, h := range handouts {
		if size >= maxReceive {
			s.giveBack(handouts[i:])
			break
		}
		if h.Offset < later {
			continue
		}
		if end, ok := s.putOff(&c, h.Offset); ok {
			later = end
			continue
		}
		p, err := c.find(h.Offset)
		if errors.Is(err, errGone) {
			s.e.lose(gap{topic: s.s.topic, first: h.Offset, end: h.Offset + 1})
			s.s.win.SettleRange(h.Offset, h.Offset+1) // also when it is known to be gone
			continue
		}
		if err != nil {
			return nil, err
		}
		found, kept = append(found, p), append(kept, h)
		size += len(p.record.body)
	}
	buf := make([]byte, 0, size)
	out := make([]queue.Record, len(found))
	for i, p := range found {
		start := len(buf)
		var err error
		if out[i], buf, err = p.decode(buf, kept[i].Offset); err != nil {
			return nil, fmt.Errorf("read message %d at byte %d: %w", kept[i].Offset, start, err)
		}
		out[i].Delivery, out[i].Attempt = kept[i].Delivery, kept[i].Attempt
	}
	return out, nil
}

func (s *subscription) giveBack(handouts []delivery.Handout) {
	for _, h := range handouts {
		s.s.win.Return(h.Offset)
	}
}

// putOff puts off a whole block when none of its messages is due, so that it need not be
// read before.
func (s *subscription) putOff(c *cursor, offset uint64) (end uint64, ok bool) {
	if !s.s.topic.delays.Load() {
		return 0, false
	}
	if _, here := c.view.run.find(offset); here {
		return 0, false
	}
	end, due, ok := s.e.index.delayed(s.s.topic, offset, s.e.now())
	return end, ok && s.s.win.PutOff(offset, end, due)
}

// Lane implements delivery.Store.
func (s *subscription) Lane(priority uint8, from uint64) (offsets []uint64, next uint64, err error) {
	t := s.s.topic
	first, end := s.e.index.lane(t, priority, from)
	c := cursor{topic: t}
	for o := first; o < end; o++ {
		p, err := c.find(o)
		switch {
		case errors.Is(err, errGone): // the one who is handed the offset reports it
			offsets = append(offsets, o)
		case err != nil:
			return nil, 0, err
		case p.record.priority == priority:
			offsets = append(offsets, o)
		}
	}
	return offsets, end, nil
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
	return s.e.Atomic(ctx, tx)
}

// Log implements delivery.Store.
func (s *subscription) Log(failed []delivery.Failed) error { return s.e.addFailed(s.s, failed) }

// Ack implements queue.Subscription.
func (s *subscription) Ack(offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	fresh := s.s.win.Settle(offsets...)
	if len(fresh) == 0 {
		return nil
	}
	return s.e.addAck(s.s, fresh)
}

// check returns why nothing can be settled, or nil.
func (s *subscription) check() error {
	if err := s.e.readable(); err != nil {
		return err
	}
	select {
	case <-s.stop:
		return queue.ErrClosed
	default:
		return nil
	}
}

// Release implements queue.Subscription.
func (s *subscription) Release(delay time.Duration, offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	s.s.win.Release(delay, offsets...)
	return nil
}

// Nack implements queue.Subscription.
func (s *subscription) Nack(delay time.Duration, offsets ...uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	failed := s.s.win.Nack(delay, offsets...)
	if len(failed) == 0 {
		return nil
	}
	return s.Log(failed)
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
	offset, err := s.s.topic.place(to)
	if err == nil {
		err = s.e.command(ctx, func(u *unit) {
			var at int
			u.buf, at = beginRecord(u.buf, recordSeek, s.s.id, offset)
			endRecord(u.buf, at)
			u.then = func() { s.s.seek(offset) }
		})
	}
	if err != nil {
		return fmt.Errorf("seek in topic %q: %w", s.s.topic.name, err)
	}
	return nil
}

// seek settles what is before the offset, or gone, and nothing else. The lock keeps
// messages from being freed between the look and the seek.
func (s *subscriber) seek(offset uint64) {
	e := s.topic.e
	e.mu.Lock()
	defer e.mu.Unlock()
	set := s.topic.gone.clone()
	set.SetFloor(offset)
	s.win.Seek(set)
}

// Stats implements queue.Subscription.
func (s *subscription) Stats() queue.SubStats { return s.s.win.Stats(s.s.name) }

// Close implements queue.Subscription.
func (s *subscription) Close() error {
	s.s.win.Close(s.stop)
	return nil
}

// cursor finds messages one after the other, going to the index once a block.
type cursor struct {
	topic *topic
	view  view
}

// pointer is a message that was found.
type pointer struct {
	record record
	time   int64
}

func (c *cursor) find(offset uint64) (pointer, error) {
	s, ok := c.view.run.find(offset)
	if !ok {
		v, bad, gaps, err := c.topic.e.index.view(c.topic, offset)
		if err != nil {
			return pointer{}, err
		}
		c.view = v
		c.view.run.clip(c.topic.e.index.around(c.topic, offset))
		c.topic.e.report(bad)
		for _, g := range gaps {
			c.topic.e.lose(g)
		}
		if s, ok = v.run.find(offset); !ok {
			return pointer{}, errGone
		}
	}
	return pointer{record: parseRecord(c.view.frames[s.record:]), time: frameTime(c.view.frames[s.frame:])}, nil
}

// decode copies the message to the end of buf.
func (p *pointer) decode(buf []byte, offset uint64) (queue.Record, []byte, error) {
	start := len(buf)
	buf = append(buf, p.record.body...)
	r := queue.Record{Offset: offset, Appended: time.Unix(0, p.time)}
	err := decodeMessage(buf[start:], &r.Message)
	return r, buf, err
}

// appendSubscription encodes the creation of a subscription.
func appendSubscription(b []byte, id, topicID uint32, name string, start *delivery.Set) []byte {
	b, at := beginRecord(b, recordSubscription, id, uint64(topicID))
	b = appendString(b, name)
	b = start.Append(b)
	endRecord(b, at)
	return b
}
