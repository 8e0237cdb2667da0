package amqp091

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/message"
)

// call is one batch on its way.
type call struct {
	sink  *sink
	out   *outgoing
	batch *message.Batch
	now   time.Time
	timer *time.Timer
	// sending: messages are being written, which a broker that does not read can hold up.
	sending atomic.Bool
	// gaveUp is closed when a broker that is blocked did not answer in time. The connection
	// stays, since it says when the broker takes messages again.
	gaveUp chan struct{}
	// flights are the messages that were published, in that order. The outgoing's lock
	// guards the list and its marks.
	flights []flight
	// next is the first flight that is not settled.
	next int
	errs []error
	// refused are the keys of messages that failed.
	refused lines.Keys
}

// flight is a message on its way.
type flight struct {
	sent  *amqp.DeferredConfirmation
	index int
	// returned is the code of basic.return, if there was one.
	returned uint16
	settled  bool
}

// publish sends all messages of the batch that can be carried. What cannot be sent any
// more, because the connection is gone, has its reason afterwards.
func (c *call) publish() {
	c.now = time.Now()
	c.sending.Store(true)
	defer c.sending.Store(false)
	c.out.link.pipe.Hold()
	defer c.out.link.pipe.Release()
	frame := c.out.link.Config.FrameSize - 8
	for i := range c.batch.Messages {
		m := &c.batch.Messages[i]
		if c.refused.Has(m.Key) {
			c.errs[i] = message.ErrBehind
			continue
		}
		p, key, refusal := c.sink.encode(m, c.now, frame)
		if refusal != nil {
			c.refuse(i, refusal)
			continue
		}
		if !c.enter() {
			c.refuse(i, message.Unavailable(c.why()))
			continue
		}
		// A message that was refused meanwhile holds back the later ones of its key.
		if c.refused.Has(m.Key) {
			c.errs[i] = message.ErrBehind
			c.out.window <- struct{}{}
			continue
		}
		if !c.send(i, p, key) {
			c.out.window <- struct{}{}
			<-c.out.done
			c.refuse(i, message.Unavailable(c.out.cause))
		}
	}
}

func (c *call) send(i int, p amqp.Publishing, key string) bool {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	sent, err := c.out.ch.PublishWithDeferredConfirm(c.sink.cfg.Exchange, key, c.sink.cfg.Mandatory, false, p)
	if err != nil {
		// What is left of it makes no sense to the broker.
		c.out.link.pipe.Abort()
		return false
	}
	c.flights = append(c.flights, flight{sent: sent, index: i})
	return true
}

// enter takes a place in the window. While there is none, it sends what has gathered, and
// waits for an answer, to one of its own messages or to those of others.
func (c *call) enter() bool {
	select {
	case <-c.out.window:
		return true
	default:
	}
	c.out.link.pipe.Release()
	c.sending.Store(false)
	defer func() {
		c.sending.Store(true)
		c.out.link.pipe.Hold()
	}()
	for {
		var oldest <-chan struct{}
		if c.next < len(c.flights) {
			oldest = c.flights[c.next].sent.Done()
		}
		select {
		case <-c.out.window:
			return true
		case <-oldest:
			c.await(c.next)
		case <-c.out.done:
			return false
		case <-c.gaveUp:
			return false
		}
	}
}

// expire is called when nothing was confirmed in time.
func (c *call) expire() {
	switch {
	case !c.out.blocked.Load():
		c.out.fail(errTimeout)
	case c.sending.Load():
		c.out.fail(errBlocked)
	default:
		select {
		case <-c.gaveUp:
		default:
			close(c.gaveUp)
		}
	}
}

// why says why a message has no answer.
func (c *call) why() error {
	select {
	case <-c.out.done:
		return c.out.cause
	default:
		return errBlocked
	}
}

// await waits for the answer to a flight and settles it, once.
func (c *call) await(i int) {
	f := &c.flights[i]
	if f.settled {
		return
	}
	select {
	case <-f.sent.Done():
	default:
		select {
		case <-f.sent.Done():
			c.timer.Reset(c.sink.cfg.Timeout) // it answers
		case <-c.out.done:
		case <-c.gaveUp:
		}
	}
	if !f.sent.Acked() && c.out.ch.IsClosed() {
		<-c.out.done // the library answers for a broker that is gone; first count what had no answer
	}
	c.next = i + 1
	c.out.mu.Lock()
	c.out.collect()
	f.settled = true
	returned := f.returned
	c.out.mu.Unlock()
	c.out.free()
	err := c.verdict(f, returned)
	if err != nil {
		c.refuse(f.index, err)
	}
}

// verdict says what became of a message.
func (c *call) verdict(f *flight, returned uint16) error {
	switch {
	case !f.sent.Acked() && c.out.ch.IsClosed():
		<-c.out.done
		if c.out.blames() && c.out.left == 1 {
			return &message.Reason{
				Code: codeRefused, Permanent: c.out.closed.Code != amqp.AccessRefused,
				Text: fmt.Sprintf("the broker closed the channel because of the message (code %d)", c.out.closed.Code),
			}
		}
		return message.Unavailable(c.out.cause)
	case !f.sent.Acked() && c.unanswered(f):
		return message.Unavailable(errBlocked)
	case !f.sent.Acked():
		return message.Unavailable(errNacked)
	case returned != 0:
		return &message.Reason{Code: codeUnroutable, Text: fmt.Sprintf("no queue takes the message; the broker returned it (code %d)", returned)}
	default:
		return nil
	}
}

func (c *call) unanswered(f *flight) bool {
	select {
	case <-f.sent.Done():
		return false
	default:
		return true
	}
}

func (c *call) refuse(i int, err error) {
	c.errs[i] = err
	c.refused.Add(c.batch.Messages[i].Key)
}

// result is what Handle returns.
func (c *call) result(ctx context.Context) error {
	var p message.PartialError
	for i, err := range c.errs {
		if err == nil {
			continue
		}
		if ctx.Err() != nil && message.IsUnavailable(err) {
			err = ctx.Err()
		}
		p.Failed = append(p.Failed, message.Failed{Index: i, Err: err})
	}
	if p.Failed == nil {
		return nil
	}
	return &p
}
