package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// outgoing is one connection that publishes. Several calls use it at once.
type outgoing struct {
	*broker

	group *run.Group
	// ids are the free packet identifiers, and so the window.
	ids chan uint16
	// done is closed when the connection has ended; err says why.
	done chan struct{}
	err  error

	aliases aliases

	mu sync.Mutex
	// flights are the messages that wait for the broker, by packet identifier.
	flights map[uint16]flight
}

// flight is a message on its way.
type flight struct {
	call  *call
	index int
	key   []byte
}

// call is one batch on its way. The outgoing's lock guards it.
type call struct {
	settled []bool
	errs    []error
	left    int
	done    chan struct{}
	// refused are the keys of messages that failed.
	refused lines.Keys
	// over: Handle has returned, and the keys belong to its caller again.
	over bool
}

func newCall(n int) *call {
	return &call{settled: make([]bool, n), errs: make([]error, n), left: n, done: make(chan struct{})}
}

// settle notes the outcome of a message, once.
func (c *call) settle(i int, err error) {
	if c.settled[i] {
		return
	}
	c.settled[i], c.errs[i] = true, err
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// result is what Handle returns. What is not settled fails with err.
func (c *call) result(err error) error {
	c.over = true
	var p message.PartialError
	for i := range c.errs {
		switch {
		case !c.settled[i]:
			p.Failed = append(p.Failed, message.Failed{Index: i, Err: err})
		case c.errs[i] != nil:
			p.Failed = append(p.Failed, message.Failed{Index: i, Err: c.errs[i]})
		}
	}
	if p.Failed == nil {
		return nil
	}
	return &p
}

// newOutgoing starts to read what the broker answers.
func newOutgoing(ctx context.Context, b *broker, window int) *outgoing {
	o := &outgoing{
		broker: b, group: run.NewGroup(context.WithoutCancel(ctx)), ids: make(chan uint16, window),
		done: make(chan struct{}), flights: map[uint16]flight{}, aliases: newAliases(b.props.topicAliasMax),
	}
	for id := 1; id <= window; id++ {
		o.ids <- uint16(id)
	}
	o.group.Go("mqtt answers", func(context.Context) error {
		defer close(o.done)
		defer o.group.Stop() // and with it the ping
		defer func() { _ = b.link.conn.Close() }()
		o.err = errLost
		o.err = b.link.pump(b.silence(), o.handle, func() {})
		return nil
	})
	b.ping(o.group)
	return o
}

var errLost = errors.New("the connection was lost")

// close ends the connection and waits for it.
func (o *outgoing) close() error {
	_ = o.link.send(encodeDisconnect(o.link.version, reasonSuccess)) // it may be lost
	o.link.stop()
	return o.group.Wait()
}

func (o *outgoing) ended() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

func (o *outgoing) handle(p packet) error {
	switch p.kind() {
	case kindPuback, kindPubrec, kindPubcomp:
		id, reason, err := decodeAck(p, o.link.version)
		if err != nil {
			return err
		}
		return o.acknowledged(p.kind(), id, reason)
	case kindPingresp:
		return nil
	case kindDisconnect:
		return brokerLeft(p)
	default:
		return violation("a packet that a broker does not send to a publisher")
	}
}

// acknowledged settles a message. With QoS 2 the broker has it at PUBREC, and the
// identifier is free at PUBCOMP.
func (o *outgoing) acknowledged(kind byte, id uint16, reason byte) error {
	o.mu.Lock()
	f, known := o.flights[id]
	free := kind != kindPubrec || reason >= reasonUnspecified
	if known && !f.call.over {
		err := verdict(reason)
		f.call.settle(f.index, err)
		if err != nil {
			f.call.refused.Add(f.key)
		}
	}
	if known && free {
		delete(o.flights, id)
		o.ids <- id // never blocks: it came from there
	}
	o.mu.Unlock()
	switch {
	case !known && kind != kindPubrec:
		return violation("an acknowledgement of nothing")
	case free:
		return nil
	case known:
		return o.link.send(appendAck(nil, o.link.version, kindPubrel, id, reasonSuccess))
	default:
		return o.link.send(appendAck(nil, o.link.version, kindPubrel, id, reasonUnknownID))
	}
}

// behind settles a message that has to wait for an earlier one of its key.
func (o *outgoing) behind(c *call, i int, key []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !c.refused.Has(key) {
		return false
	}
	c.settle(i, message.ErrBehind)
	return true
}

// refuse notes the key of a message that was not published.
func (o *outgoing) refuse(c *call, key []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.refused.Add(key)
}

// verdict says what the broker's reason means for the message.
func verdict(reason byte) error {
	switch {
	case reason < reasonUnspecified:
		return nil
	case reason == reasonQuota:
		return message.Unavailable(fmt.Errorf("the broker has no room (code 0x%02x)", reason))
	default:
		return &message.Reason{Code: "LS4201", Text: fmt.Sprintf("the broker refused the message (code 0x%02x)", reason)}
	}
}
