package watermill

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/queue"
)

const (
	// maxTake bounds the messages that are taken from the queue at once.
	maxTake = 64
	// receiveRetry is how long a feed waits after the engine could not read.
	receiveRetry = time.Second
)

// feed moves messages from a subscription to the channel of one Subscribe call.
type feed struct {
	sub    queue.Subscription
	group  *run.Group
	config SubscriberConfig
	log    watermill.LoggerAdapter
	out    chan *wm.Message
	slots  chan struct{} // holds one for each message that may still be handed out
}

func newFeed(sub queue.Subscription, g *run.Group, c SubscriberConfig, topic string) *feed {
	f := &feed{
		sub: sub, group: g, config: c,
		log:   c.Logger.With(watermill.LogFields{"topic": topic, "consumer_group": c.Group}),
		out:   make(chan *wm.Message),
		slots: make(chan struct{}, c.MaxInFlight),
	}
	f.giveSlots(c.MaxInFlight)
	return f
}

// run hands out messages until ctx or the subscription ends. Messages that it handed
// out outlive it, each in a goroutine of its own.
func (f *feed) run(ctx context.Context) {
	defer close(f.out)
	for {
		n := f.takeSlots(ctx)
		if n == 0 {
			return
		}
		records, err := f.sub.Receive(ctx, n)
		f.giveSlots(n - len(records))
		if err != nil && !f.goOn(ctx, err) {
			return
		}
		for i := range records {
			if !f.handOut(ctx, &records[i]) {
				f.giveBack(records[i:])
				return
			}
		}
	}
}

// takeSlots waits for a slot and takes what else is free. It returns 0 when ctx ended.
func (f *feed) takeSlots(ctx context.Context) (n int) {
	select {
	case <-f.slots:
	case <-ctx.Done():
		return 0
	}
	for n = 1; n < maxTake; n++ {
		select {
		case <-f.slots:
		default:
			return n
		}
	}
	return n
}

func (f *feed) giveSlots(n int) {
	for range n {
		f.slots <- struct{}{}
	}
}

// goOn reports whether Receive is worth another try after err.
func (f *feed) goOn(ctx context.Context, err error) bool {
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, queue.ErrClosed):
		f.log.Info("the queue was closed under the subscription", nil)
		return false
	case errors.Is(err, queue.ErrStorageFailed):
		f.log.Error("the queue has failed", err, nil)
		return false
	}
	f.log.Error("the queue could not be read", err, nil)
	return run.Pause(ctx, receiveRetry)
}

// handOut waits until somebody takes the message. It returns false when ctx ended
// first.
func (f *feed) handOut(ctx context.Context, r *queue.Record) bool {
	m := decode(&r.Message)
	handling, done := context.WithCancel(ctx)
	m.SetContext(handling)
	select {
	case f.out <- m:
	case <-ctx.Done():
		done()
		return false
	}
	offset := r.Offset
	f.group.Go("message", func(context.Context) error {
		defer f.giveSlots(1)
		f.settle(ctx, done, m, offset)
		return nil
	})
	return true
}

// settle waits for what becomes of the message and tells the queue. It calls done as
// soon as that is known.
func (f *feed) settle(ctx context.Context, done func(), m *wm.Message, offset uint64) {
	acked, known := f.outcome(ctx, m)
	done()
	switch {
	case acked:
		f.check("a message could not be acknowledged and will come again", f.sub.Ack(offset))
	case known:
		delay := max(f.config.NackResendDelay, 0)
		f.check("a message could not be given back", f.sub.Nack(delay, offset))
		if f.config.MaxInFlight == 1 { // the next message must not overtake it
			run.Pause(ctx, delay)
		}
	default:
		f.log.Info("a message was not settled in time and will come again", watermill.LogFields{"message_uuid": m.UUID})
		f.check("a message could not be given back", f.sub.Release(0, offset))
	}
}

// outcome waits for Ack or Nack. known is false when neither came within CloseTimeout
// after the end of ctx.
func (f *feed) outcome(ctx context.Context, m *wm.Message) (acked, known bool) {
	select {
	case <-m.Acked():
		return true, true
	case <-m.Nacked():
		return false, true
	case <-ctx.Done():
	}
	grace := time.NewTimer(max(f.config.CloseTimeout, 0))
	defer grace.Stop()
	select {
	case <-m.Acked():
		return true, true
	case <-m.Nacked():
		return false, true
	case <-grace.C:
		return false, false
	}
}

func (f *feed) giveBack(records []queue.Record) {
	offsets := make([]uint64, len(records))
	for i := range records {
		offsets[i] = records[i].Offset
	}
	f.check("messages could not be given back", f.sub.Release(0, offsets...))
}

// check logs an error of settling. After the end of the queue there is nothing to say:
// what was not settled comes again from its storage.
func (f *feed) check(text string, err error) {
	if err != nil && !errors.Is(err, queue.ErrClosed) {
		f.log.Error(text, err, nil)
	}
}
