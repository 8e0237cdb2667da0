package watermill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// stopGrace is how long a hand-over under way may go on after a stop, and how long a
	// subscription may take to end.
	stopGrace = 5 * time.Second
	// settleGrace is how long a stop waits until the Pub/Sub has seen the last acks.
	settleGrace = time.Second
	// batchBytes bounds a batch, in bytes of payload.
	batchBytes = 1 << 20
)

type source struct {
	in   In
	env  connectors.Env
	key  []byte
	open func(context.Context) (wm.Subscriber, error)
	read func(*wm.Message, *message.Message)
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	err := s.run(ctx, next)
	if ctx.Err() != nil {
		if err != nil {
			s.env.Logger.LogAttrs(ctx, slog.LevelDebug, "the end of the subscription failed", slog.String("error", err.Error()))
		}
		return nil
	}
	return err
}

func (s *source) run(ctx context.Context, next message.Handler) (err error) {
	sub, err := s.open(ctx)
	if err != nil {
		return fmt.Errorf("connect to the Pub/Sub: %w", err)
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer func() { err = errors.Join(err, within(work, stopGrace, "close the subscriber", sub.Close)) }()
	// The subscriptions outlive the hand-overs, so that the last acks still count.
	subscribed, unsubscribe := context.WithCancel(work)
	group := run.NewGroup(work)
	var receivers []*receiver
	defer func() {
		unsubscribe()
		for _, r := range receivers {
			r.drain()
		}
	}()
	for range s.in.Subscriptions {
		hurry := context.AfterFunc(ctx, unsubscribe)
		messages, err := sub.Subscribe(subscribed, s.in.Topic)
		if !hurry() || err != nil {
			group.Stop()
			return errors.Join(fmt.Errorf("subscribe to %s: %w", s.in.Topic, err), group.Wait())
		}
		r := &receiver{source: s, next: next, messages: messages, taken: make([]*wm.Message, 0, s.in.Batch)}
		receivers = append(receivers, r)
		group.Go("watermill subscription", func(work context.Context) error { return r.run(ctx, work) })
	}
	defer context.AfterFunc(ctx, func() {
		if run.Pause(work, stopGrace) {
			group.Stop()
		}
	})()
	return group.Wait()
}

// receiver is one subscription.
type receiver struct {
	source   *source
	next     message.Handler
	messages <-chan *wm.Message

	// taken are the messages of the batch; the others are made from them.
	taken   []*wm.Message
	batch   message.Batch
	headers []message.Header
	failed  []error
	names   []string

	wait   time.Duration
	logged time.Time
}

// run hands on what arrives until stop ends, or work, or the subscription.
func (r *receiver) run(stop, work context.Context) error {
	for {
		select {
		case <-stop.Done():
			r.settled(work)
			return nil
		case <-work.Done():
			return nil
		case m, ok := <-r.messages:
			switch {
			case !ok && stop.Err() != nil:
				return nil //nolint:nilerr // a stop is no failure
			case !ok:
				return fmt.Errorf("LS4391: the subscription to %s ended by itself: the Pub/Sub closed it, or lost its connection", r.source.in.Topic)
			}
			r.gather(m)
			r.handOn(stop, work)
		}
	}
}

// gather takes the message and what else is ready. It does not wait: where messages come
// one at a time, the next one comes with the ack.
func (r *receiver) gather(m *wm.Message) {
	r.taken = append(r.taken[:0], m)
	for size := len(m.Payload); len(r.taken) < r.source.in.Batch && size < batchBytes; {
		select {
		case m, ok := <-r.messages:
			if !ok {
				return // the next read finds it
			}
			r.taken = append(r.taken, m)
			size += len(m.Payload)
		default:
			return
		}
	}
}

// handOn hands the messages on, and answers for each in order.
func (r *receiver) handOn(stop, work context.Context) {
	r.build(time.Now())
	err := run.Protect("watermill hand-over", func() error { return r.next.Handle(work, &r.batch) })
	if err == nil {
		for _, m := range r.taken {
			m.Ack()
		}
		r.wait = 0
		return
	}
	r.refuse(stop, err)
}

// refuse acks what was taken over and hands back the rest. The subscription stays:
// Watermill delivers again what is handed back, in its place where it keeps an order.
func (r *receiver) refuse(stop context.Context, err error) {
	partial, isPartial := errors.AsType[*message.PartialError](err)
	r.failed = append(r.failed[:0], make([]error, len(r.taken))...)
	if isPartial {
		for _, f := range partial.Failed {
			r.failed[f.Index] = f.Err
		}
	}
	back := 0
	for i, m := range r.taken {
		if isPartial && r.failed[i] == nil {
			m.Ack()
			continue
		}
		back++
		m.Nack()
	}
	if stop.Err() != nil {
		return
	}
	if now := time.Now(); now.Sub(r.logged) > 10*time.Second {
		r.logged = now
		r.source.env.Logger.LogAttrs(stop, slog.LevelWarn, "messages were not taken over and go back to the Pub/Sub, which delivers them again",
			slog.String("code", "LS4390"), slog.Int("messages", back), slog.String("error", err.Error()))
	}
	if back < len(r.taken) {
		r.wait = 0
		return
	}
	// A Pub/Sub may deliver again at once.
	r.wait = min(max(2*r.wait, 50*time.Millisecond), 5*time.Second)
	run.Pause(stop, r.wait)
}

// settled waits until the Pub/Sub has seen the acks of the last batch: it then ends the
// contexts of the messages. What it has not seen comes again.
func (r *receiver) settled(work context.Context) {
	limit := time.NewTimer(settleGrace)
	defer limit.Stop()
	for _, m := range r.taken {
		done := m.Context().Done()
		if done == nil {
			return // it has no such contexts
		}
		select {
		case <-done:
		case <-limit.C:
			return
		case <-work.Done():
			return
		}
	}
}

// drain hands back what still arrives, until the subscription has ended.
func (r *receiver) drain() {
	limit := time.NewTimer(stopGrace)
	defer limit.Stop()
	for {
		select {
		case m, ok := <-r.messages:
			if !ok {
				return
			}
			m.Nack()
		case <-limit.C:
			return
		}
	}
}

// within runs f, and does not wait for it longer than d.
func within(ctx context.Context, d time.Duration, what string, f func() error) error {
	done := make(chan error, 1)
	group := run.NewGroup(ctx)
	group.Go("watermill call", func(context.Context) error {
		defer group.Stop()
		done <- run.Protect(what, f)
		return nil
	})
	limit := time.NewTimer(d)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("%s: no answer within %s", what, d)
	}
}
