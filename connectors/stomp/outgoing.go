package stomp

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// outgoing is one connection that sends. Several calls use it at once.
type outgoing struct {
	*broker

	group *run.Group
	// room holds a token for each message that may be sent.
	room chan struct{}
	// done is closed when the connection has ended; err says why.
	done chan struct{}
	err  error

	mu sync.Mutex
	// last numbers receipts and transactions.
	last uint64
	// flights are what waits for the broker, by receipt.
	flights map[uint64]flight
	// careful: one message at a time is sent, because an earlier connection ended with
	// an error that did not say which message it was about. More counts the tokens that
	// are held back, Passed the messages that went well since.
	careful      bool
	more, passed int
	// suspicious: this connection ended in that way.
	suspicious bool
}

// flight is a message on its way, or the COMMIT of a transaction (index -1).
type flight struct {
	call  *call
	index int
	key   []byte
	tx    *transaction
}

// transaction is one on its way. The outgoing's lock guards it. Its messages are
// delivered when both their receipt and that of COMMIT came: some brokers confirm what
// COMMIT has published with the messages' receipts only, others the other way round.
type transaction struct {
	// received are the indexes whose own receipt came, before COMMIT's.
	received  []int
	committed bool
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
	c := &call{settled: make([]bool, n), errs: make([]error, n), left: n, done: make(chan struct{})}
	if n == 0 {
		close(c.done)
	}
	return c
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
func newOutgoing(ctx context.Context, b *broker, window int, careful bool) *outgoing {
	o := &outgoing{
		broker: b, group: run.NewGroup(context.WithoutCancel(ctx)), room: make(chan struct{}, window),
		done: make(chan struct{}), flights: map[uint64]flight{}, careful: careful,
	}
	if careful {
		o.more = window - 1
	}
	for range window - o.more {
		o.room <- struct{}{}
	}
	o.group.Go("stomp receipts", func(context.Context) error {
		defer close(o.done)
		defer o.group.Stop() // and with it the heart-beats
		defer func() { _ = b.link.conn.Close() }()
		o.err = errors.New("the connection was lost")
		o.err = b.link.pump(b.beats.silence, o.handle, func() {})
		return nil
	})
	b.link.beat(o.group, b.beats.every)
	return o
}

// close ends the connection and waits for it. Nothing is on its way any more.
func (o *outgoing) close() error {
	_ = o.link.sendFrame(frame.New(frame.DISCONNECT)) // it may be lost
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

func (o *outgoing) handle(f *frame.Frame) error {
	switch f.Command {
	case frame.RECEIPT:
		id, err := strconv.ParseUint(f.Header.Get(frame.ReceiptId), 10, 64)
		if err != nil {
			return malformed("a receipt of nothing")
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if x, ok := o.flights[id]; ok { // else it follows an ERROR for the same
			delete(o.flights, id)
			o.received(x)
		}
		return nil
	case frame.ERROR:
		return o.failed(f)
	default:
		return malformed("a frame that a broker does not send to a sender")
	}
}

// received settles what a receipt stands for. The caller holds the lock.
func (o *outgoing) received(x flight) {
	switch {
	case x.index >= 0 && (x.tx == nil || x.tx.committed):
		o.delivered(x)
	case x.index >= 0:
		x.tx.received = append(x.tx.received, x.index)
	default:
		x.tx.committed = true
		for _, i := range x.tx.received {
			o.delivered(flight{call: x.call, index: i})
		}
	}
}

func (o *outgoing) delivered(x flight) {
	o.free()
	o.settle(x, nil)
}

// free gives a token back, and those that were held back once all goes well.
func (o *outgoing) free() {
	o.room <- struct{}{} // never blocks: it came from there
	if !o.careful {
		return
	}
	if o.passed++; o.passed <= cap(o.room) {
		return
	}
	o.careful = false
	for ; o.more > 0; o.more-- {
		o.room <- struct{}{}
	}
}

// settle notes an outcome unless the call is over. The caller holds the lock.
func (o *outgoing) settle(x flight, err error) {
	if x.call.over {
		return
	}
	x.call.settle(x.index, err)
	if err != nil {
		x.call.refused.Add(x.key)
	}
}

// failed works on ERROR. One that names a receipt is about that message, or its
// transaction, and the connection may go on. Any other ends the connection; it is about
// a message when only one is on its way.
func (o *outgoing) failed(f *frame.Frame) error {
	reason, away := brokerError(f)
	verdict := refusal(reason)
	if away {
		verdict = message.Unavailable(reason)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	id, err := strconv.ParseUint(f.Header.Get(frame.ReceiptId), 10, 64)
	x, known := o.flights[id]
	switch {
	case err == nil && known && x.index >= 0:
		delete(o.flights, id)
		o.free()
		o.settle(x, verdict)
		if x.tx == nil {
			return nil
		}
		// The rest of its transaction is rolled back with the connection.
	case !away:
		o.blame(verdict)
	}
	return reason
}

// blame finds the message that an error without a receipt is about: the only one that
// is on its way, if there is only one. The caller holds the lock.
func (o *outgoing) blame(verdict error) {
	var only flight
	messages := 0
	for _, x := range o.flights {
		if x.index >= 0 {
			only = x
			messages++
			continue
		}
		for _, i := range x.tx.received { // not committed
			only = flight{call: x.call, index: i}
			messages++
		}
	}
	if messages == 1 {
		o.settle(only, verdict)
		return
	}
	o.suspicious = messages > 1
}

func refusal(reason *wireError) error {
	return &message.Reason{Code: "LS4340", Text: "the broker refused the message: " + reason.text}
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

// refuse settles a message that is not sent.
func (o *outgoing) refuse(c *call, i int, key []byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.settle(i, err)
	c.refused.Add(key)
}

// expect notes what a receipt will stand for and returns its number.
func (o *outgoing) expect(x flight) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	o.flights[o.last] = x
	return o.last
}
