package stomp

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/message"
)

// answer encodes the receipts of a batch, in the order of its frames. After the first
// frame that was not taken over nothing is answered: a receipt says that all frames
// before were received (STOMP 1.2, RECEIPT).
func (p *peer) answer(_ context.Context, b *bundle, failed failedMessages) error {
	v := p.link.stream.version
	for _, a := range b.answers {
		if err := failed.of(a); err != nil {
			return &untaken{err: err, receipt: a.id}
		}
		if a.id != "" {
			b.out = append(b.out, "RECEIPT\n"...)
			b.out = append(appendHeader(b.out, v, frame.ReceiptId, a.id), '\n', 0)
		}
	}
	return nil
}

// untaken is a frame that was not taken over.
type untaken struct {
	err     error
	receipt string
}

// Error implements error.
func (u *untaken) Error() string { return u.err.Error() }

// Unwrap returns the cause.
func (u *untaken) Unwrap() error { return u.err }

// goodbye tells the client why the connection ends.
func (p *peer) goodbye(err error) {
	var wire *wireError
	var left *untaken
	receipt := ""
	switch {
	case errors.Is(err, errClientLeft):
		p.link.linger(lingerWithin, lingerBytes)
		return
	case errors.As(err, &left):
		wire, receipt = verdict(left.err), left.receipt
	case errors.As(err, &wire):
		receipt = p.refused
	case p.stopping.Load():
		wire = &wireError{"LS4358", "this side is being stopped; connect again"}
	case isTimeout(err):
		wire = &wireError{"LS4357", "no heart-beat came in time"}
	default:
		return // the connection is lost
	}
	f := frame.New(frame.ERROR, frame.Message, wire.Error(), frame.ContentType, "text/plain")
	if receipt != "" {
		f.Header.Add(frame.ReceiptId, receipt)
	}
	if wire == errVersion {
		f.Header.Add(frame.Version, upTo(version12))
	}
	if p.link.sendFrame(f) == nil {
		p.link.linger(lingerWithin, lingerBytes)
	}
}

// verdict says what a client hears of a message that was not taken over.
func verdict(err error) *wireError {
	var r *message.Reason
	switch {
	case errors.Is(err, message.ErrTooLarge):
		return &wireError{"LS4355", "the message is larger than the queue takes; do not send it again"}
	case errors.As(err, &r):
		return &wireError{"LS4355", "the message is refused: " + r.Code + "; do not send it again as it is"}
	case errors.Is(err, message.ErrFull), errors.Is(err, message.ErrDiskFull):
		return &wireError{"LS4354", "there is no room for the moment; send it again later"}
	default:
		return &wireError{"LS4354", "the message could not be stored; send it again"}
	}
}

const (
	// maxTransactions bounds the open transactions of a connection, and
	// transactionBytes what they hold together.
	maxTransactions  = 64
	transactionBytes = 16 << 20
)

// transactions are the open ones of a connection.
type transactions struct {
	limit int
	held  *atomic.Int64
	open  map[string]*bundle
	bytes int
}

func (t *transactions) get(h *frame.Header) (name string, tx *bundle) {
	name = h.Get(frame.Transaction)
	return name, t.open[name]
}

func (t *transactions) begin(h *frame.Header) error {
	name, tx := t.get(h)
	switch {
	case name == "":
		return malformed("BEGIN without a transaction")
	case tx != nil:
		return malformed("BEGIN of a transaction that is open")
	case len(t.open) >= maxTransactions:
		return tooMuch("more open transactions than the limit")
	}
	if t.open == nil {
		t.open = map[string]*bundle{}
	}
	t.open[name] = &bundle{}
	return nil
}

// add puts the message of a SEND into its transaction.
func (t *transactions) add(f *frame.Frame, d *destination, source string, now time.Time) error {
	_, tx := t.get(f.Header)
	if tx == nil {
		return malformed("SEND in a transaction that is not open")
	}
	if tx.batch.Len() >= t.limit || t.bytes+len(f.Body) > transactionBytes || t.held.Load() > heldBytes {
		return tooMuch("a transaction is larger than the limit")
	}
	before := tx.bytes
	if !tx.add(f, d, source, now) {
		return malformed("a number or time cannot be read")
	}
	t.bytes += tx.bytes - before
	t.held.Add(int64(tx.bytes - before))
	return nil
}

// end takes a transaction out, for COMMIT or ABORT.
func (t *transactions) end(h *frame.Header) (*bundle, error) {
	name, tx := t.get(h)
	if tx == nil {
		return nil, malformed("the end of a transaction that is not open")
	}
	delete(t.open, name)
	t.bytes -= tx.bytes
	t.held.Add(-int64(tx.bytes))
	return tx, nil
}

// abandon drops what is open when the connection has ended.
func (t *transactions) abandon() {
	t.held.Add(-int64(t.bytes))
	t.open, t.bytes = nil, 0
}
