package amqp1

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp "github.com/Azure/go-amqp"

	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/message"
)

// The codes of refusals.
const (
	codeRejected    = "LS4320"
	codeNotTaken    = "LS4321"
	codeUncarryable = "LS4322"
	codeAddress     = "LS4323"
)

// maxAddress bounds an address, in bytes. Peers have names of up to 260.
const maxAddress = 1024

// call is one batch on its way.
type call struct {
	sink  *sink
	out   *outgoing
	batch *message.Batch
	// ctx ends with the caller's, and when the peer does not answer in time.
	ctx   context.Context //nolint:containedctx // a call is shorter than its context
	timer *time.Timer
	// flights are the messages that were sent, in that order; next is the first without an
	// outcome.
	flights []flight
	next    int
	errs    []error
	// refused are the keys of messages that failed.
	refused lines.Keys
}

// flight is a message on its way.
type flight struct {
	receipt amqp.SendReceipt
	index   int
	address string
	sender  *sender
}

// send sends all messages of the batch that can be carried.
func (c *call) send() {
	now := time.Now()
	e := encoder{durable: c.sink.cfg.Durable, asText: c.sink.cfg.Body == bodyText}
	c.out.link.pipe.Hold()
	defer c.out.link.pipe.Release()
	for i := range c.batch.Messages {
		m := &c.batch.Messages[i]
		address, refusal := c.sink.encode(&e, m, now)
		switch {
		case c.refused.Has(m.Key):
			c.errs[i] = message.ErrBehind
		case refusal != nil:
			c.refuse(i, refusal)
		case !c.enter():
			c.refuse(i, c.timedOut(errTimeout))
		case c.refused.Has(m.Key): // refused while there was no room
			c.errs[i] = message.ErrBehind
			c.out.window <- struct{}{}
		default:
			if err := c.dispatch(i, &e.out, address); err != nil {
				c.out.window <- struct{}{}
				c.refuse(i, err)
			}
		}
	}
}

// dispatch sends a message: alone, when it may be the one that makes the peer end the
// link.
func (c *call) dispatch(i int, m *amqp.Message, address string) error {
	if !c.sink.suspected(address) {
		return c.one(i, m, address)
	}
	c.out.link.pipe.Flush()
	for c.next < len(c.flights) {
		c.await()
	}
	c.sink.alone.Lock()
	defer c.sink.alone.Unlock()
	err := c.one(i, m, address)
	c.out.link.pipe.Flush()
	for c.next < len(c.flights) {
		c.await()
	}
	c.sink.cleared(address)
	return err
}

// one sends a message.
func (c *call) one(i int, m *amqp.Message, address string) error {
	s, err := c.sender(address)
	if err != nil {
		return c.linkError(err, "attach to ")
	}
	if c.sink.cfg.Settlement == settleSettled {
		defer s.busy.Add(-1)
		if err := s.Send(c.ctx, m, &amqp.SendOptions{Settled: true}); err != nil {
			return c.sendError(err, address, s)
		}
		c.out.window <- struct{}{}
		return nil
	}
	receipt, err := s.SendWithReceipt(c.ctx, m, nil)
	if err != nil {
		defer s.busy.Add(-1)
		return c.sendError(err, address, s)
	}
	c.flights = append(c.flights, flight{receipt: receipt, index: i, address: address, sender: s})
	return nil
}

// sender returns the link to an address. While all links have messages on their way, it
// waits for outcomes.
func (c *call) sender(address string) (*sender, error) {
	for {
		most := maxSenders
		if c.next == len(c.flights) {
			most = maxSenders * 4 // they are busy with what others sent
		}
		s, err := c.out.sender(c.ctx, address, most)
		if !errors.Is(err, errBusy) || c.next == len(c.flights) {
			return s, err
		}
		c.out.link.pipe.Flush()
		c.await()
	}
}

// linkError says what a refused or lost link means: with one address it is the fault of the
// peer or of the configuration, with computed ones it may be that of the message.
func (c *call) linkError(err error, what string) error {
	cond := condition(err)
	switch {
	case c.ctx.Err() != nil:
		return c.timedOut(err)
	case c.sink.cfg.Address.Expr.IsZero():
		return message.Unavailable(explainLink(err, what+c.sink.cfg.Address.Literal))
	// The words of the peer may quote the address, and that the message's data.
	case cond != "" && !slices.Contains([]amqp.ErrCond{
		amqp.ErrCondResourceLimitExceeded, amqp.ErrCondResourceLocked, amqp.ErrCondDetachForced, amqp.ErrCondConnectionForced, amqp.ErrCondStolen,
		amqp.ErrCondMessageSizeExceeded, amqp.ErrCondTransferLimitExceeded,
	}, cond):
		return &message.Reason{Code: codeAddress, Text: fmt.Sprintf("the peer refuses the address (%s)", cond)}
	case cond != "":
		return message.Unavailable(fmt.Errorf("the peer ended the link (%s)", cond))
	default:
		return message.Unavailable(err)
	}
}

// sendError says what a failure to send means.
func (c *call) sendError(err error, address string, s *sender) error {
	var link *amqp.LinkError
	var session *amqp.SessionError
	switch {
	case errors.As(err, &link), errors.As(err, &session):
		under := c.out.drop(c.ctx, address, s)
		if !blames(condition(err)) || c.ctx.Err() != nil {
			return c.linkError(err, "send to ")
		}
		if s.lost.Load() == 1 {
			return &message.Reason{Code: codeRejected, Text: fmt.Sprintf("the peer ended the link because of the message (%s)", condition(err))}
		}
		c.sink.suspect(address, under)
		return message.Unavailable(fmt.Errorf("the peer ended the link because of a message (%s)", condition(err)))
	case condition(err) == amqp.ErrCondMessageSizeExceeded:
		return &message.Reason{Code: codeRejected, Text: "the message is larger than the peer takes", Permanent: true}
	default:
		return c.timedOut(err)
	}
}

// blames reports whether a link ended for what was sent over it.
func blames(cond amqp.ErrCond) bool {
	return slices.Contains([]amqp.ErrCond{
		amqp.ErrCondDecodeError, amqp.ErrCondInvalidField, amqp.ErrCondNotAllowed, amqp.ErrCondNotImplemented,
		amqp.ErrCondPreconditionFailed, amqp.ErrCondMessageSizeExceeded, amqp.ErrCondFrameSizeTooSmall,
	}, cond)
}

// enter takes a place in the window. While there is none, it sends what has gathered and
// waits for an outcome.
func (c *call) enter() bool {
	for {
		select {
		case <-c.out.window:
			return true
		default:
		}
		c.out.link.pipe.Flush()
		if c.next < len(c.flights) {
			c.await()
			continue
		}
		select {
		case <-c.out.window:
			return true
		case <-c.out.link.Done():
			return false
		case <-c.ctx.Done():
			return false
		}
	}
}

// await waits for the outcome of the next flight.
func (c *call) await() {
	f := &c.flights[c.next]
	c.next++
	state, err := f.receipt.Wait(c.ctx)
	c.out.window <- struct{}{}
	if err != nil {
		err = c.sendError(err, f.address, f.sender)
	} else {
		c.timer.Reset(c.sink.cfg.Timeout) // it answers
		err = verdict(state)
	}
	f.sender.busy.Add(-1)
	if err != nil {
		c.refuse(f.index, err)
	}
}

// verdict says what the outcome of a message means.
func verdict(state amqp.DeliveryState) error {
	switch s := state.(type) {
	case *amqp.StateAccepted:
		return nil
	case *amqp.StateRejected:
		cond := amqp.ErrCond("without a condition")
		if s.Error != nil {
			cond = s.Error.Condition
		}
		hopeless := slices.Contains([]amqp.ErrCond{
			amqp.ErrCondMessageSizeExceeded, amqp.ErrCondDecodeError, amqp.ErrCondInvalidField, amqp.ErrCondNotImplemented,
		}, cond)
		return &message.Reason{Code: codeRejected, Text: fmt.Sprintf("the peer rejected the message (%s)", cond), Permanent: hopeless}
	case *amqp.StateModified:
		return &message.Reason{Code: codeNotTaken, Text: "the peer did not take the message (modified)", Permanent: s.UndeliverableHere}
	case *amqp.StateReleased:
		return &message.Reason{Code: codeNotTaken, Text: "the peer did not take the message (released)"}
	default:
		return message.Unavailable(errors.New("the peer settled the message without an outcome"))
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
