package amqp091

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

var (
	errBlocked = errors.New("LS4314: the broker takes nothing for the moment (connection.blocked): it is low on disk or memory")
	errTimeout = errors.New("the broker did not confirm in time")
	errNacked  = errors.New("the broker did not take the message (basic.nack): its queue is full, or it has a fault of its own")
)

// outgoing is one connection with the one channel that publishes. Several calls use it
// at once.
type outgoing struct {
	link  *link
	ch    *amqp.Channel
	group *run.Group
	// window has a token for each message that may be on its way.
	window chan struct{}
	// returns has room for every message that may be on its way, and for those that a call
	// gave up, so that the library never waits for it. A return precedes the confirmation of
	// its message.
	returns chan amqp.Return
	blocked atomic.Bool
	// done is closed when the channel has ended; cause says why.
	done  chan struct{}
	cause error
	// failed is why this side ended the connection, if it did.
	failed atomic.Pointer[error]

	mu sync.Mutex
	// calls are the batches on their way.
	calls []*call
	// withheld are tokens that are kept back while messages are sent one at a time, and
	// alone the number of those to go.
	withheld, alone int
	// left is the number of messages without an answer when the channel ended, and closed
	// the broker's reason when it closed the channel and not the connection.
	left   int
	closed *amqp.Error
}

func newOutgoing(ctx context.Context, l *link, ch *amqp.Channel, window, suspects int) *outgoing {
	o := &outgoing{
		link: l, ch: ch, group: run.NewGroup(context.WithoutCancel(ctx)), window: make(chan struct{}, window),
		returns: make(chan amqp.Return, 2*window), done: make(chan struct{}), alone: suspects,
	}
	if suspects > 0 {
		o.withheld, window = window-1, 1
	}
	for range window {
		o.window <- struct{}{}
	}
	ch.NotifyReturn(o.returns)
	blocks := l.NotifyBlocked(make(chan amqp.Blocking, 1))
	o.group.Go("amqp091 blocked", func(context.Context) error {
		for b := range blocks {
			o.blocked.Store(b.Active)
		}
		return nil
	})
	ended := ch.NotifyClose(make(chan *amqp.Error, 1))
	o.group.Go("amqp091 channel", func(context.Context) error {
		o.over(<-ended)
		return nil
	})
	return o
}

// over notes why the channel ended, and how many messages have no answer.
func (o *outgoing) over(refusal *amqp.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.calls {
		for i := range c.flights {
			if !c.flights[i].settled && !c.flights[i].sent.Acked() {
				o.left++
			}
		}
	}
	o.cause = lost(refusal)
	if failed := o.failed.Load(); failed != nil {
		o.cause = *failed
	} else if refusal != nil && refusal.Server && !o.link.IsClosed() {
		o.closed = refusal
		o.cause = closedBy(refusal)
	}
	close(o.done)
}

// closedBy says why the broker closed the channel, without its words: they quote the
// message.
func closedBy(refusal *amqp.Error) error {
	switch refusal.Code {
	case amqp.NotFound:
		return errors.New("LS4310: the exchange does not exist; create it, or set `declare: create`")
	case amqp.AccessRefused:
		return errors.New("LS4311: the user may not publish there")
	default:
		return fmt.Errorf("the broker closed the channel (code %d)", refusal.Code)
	}
}

// blames reports whether a closed channel is the fault of a message.
func (o *outgoing) blames() bool {
	switch {
	case o.closed == nil:
		return false
	case o.closed.Code == amqp.AccessRefused:
		// Without permission for the exchange nothing goes; without it for a topic only this
		// routing key does not.
		return strings.Contains(o.closed.Reason, "topic")
	default:
		return o.closed.Code != amqp.NotFound
	}
}

// suspects returns how many messages may have made the broker close the channel.
func (o *outgoing) suspects() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.blames() && o.left > 1 {
		return o.alone + o.left
	}
	return o.alone
}

// fail ends the connection from this side: nothing can be known of what is on its way.
func (o *outgoing) fail(why error) {
	o.failed.CompareAndSwap(nil, &why)
	o.link.pipe.Abort()
}

// close ends the connection and waits for it.
func (o *outgoing) close() error {
	// The library waits for room in returns when a broker sends more than it was sent.
	o.group.Go("amqp091 returns", func(context.Context) error {
		for range o.returns {
		}
		return nil
	})
	o.link.close()
	return o.group.Wait()
}

func (o *outgoing) ended() bool {
	select {
	case <-o.done:
		return true
	default:
		return o.ch.IsClosed()
	}
}

func (o *outgoing) begin(s *sink, b *message.Batch) *call {
	c := &call{sink: s, out: o, batch: b, flights: make([]flight, 0, b.Len()), errs: make([]error, b.Len()), gaveUp: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, c)
	return c
}

func (o *outgoing) end(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = slices.DeleteFunc(o.calls, func(x *call) bool { return x == c })
}

// free gives a token back. After the last message that had to go alone, all may go.
func (o *outgoing) free() {
	o.window <- struct{}{} // never blocks: it came from there
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.alone == 0 {
		return
	}
	if o.alone--; o.alone == 0 {
		for range o.withheld {
			o.window <- struct{}{}
		}
		o.withheld = 0
	}
}

// collect finds the messages that were returned. The broker does not number them, so a
// message is known by its place and content; two that are equal in all of it are one as
// good as the other. The caller holds the lock: what one call takes out of the channel is
// noted before another can look.
func (o *outgoing) collect() {
	for len(o.returns) > 0 {
		if r, ok := <-o.returns; ok {
			o.returned(&r)
		}
	}
}

// returned marks the earliest message that a return may be about: returns come in the order
// in which messages were published.
func (o *outgoing) returned(r *amqp.Return) {
	var earliest *flight
	for _, c := range o.calls {
		for i := range c.flights {
			f := &c.flights[i]
			if f.settled || f.returned != 0 || earliest != nil && f.sent.DeliveryTag > earliest.sent.DeliveryTag {
				continue
			}
			if m := &c.batch.Messages[f.index]; bytes.Equal(m.Payload, r.Body) && c.published(m, r) {
				earliest = f
			}
		}
	}
	if earliest != nil {
		earliest.returned = r.ReplyCode
	}
}

// published reports whether a message was published as what came back.
func (c *call) published(m *message.Message, r *amqp.Return) bool {
	p, key, _ := c.sink.encode(m, c.now, 0)
	return key == r.RoutingKey && p.MessageId == r.MessageId && p.CorrelationId == r.CorrelationId && p.ReplyTo == r.ReplyTo && sameTable(p.Headers, r.Headers)
}

// sameTable compares what was sent with what came back.
func sameTable(a, b amqp.Table) bool {
	return maps.EqualFunc(a, b, func(x, y any) bool {
		return reflect.DeepEqual(readHeaders(nil, amqp.Table{"": x}), readHeaders(nil, amqp.Table{"": y}))
	})
}
