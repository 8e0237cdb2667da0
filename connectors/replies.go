package connectors

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"

	"github.com/linkspan/linkspan/message"
)

// Replies joins replies to the requests that wait for them in this process: the
// Request-Reply pattern, by correlation identifier. A source that answers its sender
// (HTTP) makes a Request, hands the message on with the request's correlation id, and
// waits. A pipeline that routes to `reply` delivers here. A reply without a waiter, such
// as one after a restart, is refused, so that the pipeline dead-letters it.
type Replies struct {
	mu      sync.Mutex
	waiting map[string]chan reply
}

// reply is a message, or why there will be none.
type reply struct {
	msg message.Message
	err error
}

// NewReplies returns an empty table.
func NewReplies() *Replies { return &Replies{waiting: map[string]chan reply{}} }

// Request is one wait for a reply.
type Request struct {
	// CorrelationID is what the reply has to carry. Nobody can guess it.
	CorrelationID string

	table *Replies
	reply chan reply
}

// Expect begins to wait.
func (r *Replies) Expect() *Request {
	q := &Request{CorrelationID: "linkspan-" + rand.Text(), table: r, reply: make(chan reply, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[q.CorrelationID] = q.reply
	return q
}

// Wait returns the reply, the error that Fail was given, or the error of ctx.
func (q *Request) Wait(ctx context.Context) (message.Message, error) {
	select {
	case r := <-q.reply:
		return r.msg, r.err
	case <-ctx.Done():
		return message.Message{}, ctx.Err()
	}
}

// Close ends the wait. It is called once the request is answered, whatever the answer.
func (q *Request) Close() {
	q.table.mu.Lock()
	defer q.table.mu.Unlock()
	delete(q.table.waiting, q.CorrelationID)
}

// ErrNoRequest says that nobody waits for a reply: it was answered before, the wait
// timed out, or the process was started again.
var ErrNoRequest = errors.New("no request waits for this reply")

// Deliver hands a copy of the reply to the request with its correlation id. The first
// reply wins.
func (r *Replies) Deliver(m *message.Message) error {
	if !r.answer(m.CorrelationID, reply{msg: m.Clone()}) {
		return ErrNoRequest
	}
	return nil
}

// Fail tells the request with this correlation id, if one waits, that there will be no
// reply, and why.
func (r *Replies) Fail(correlationID string, err error) {
	r.answer(correlationID, reply{err: err})
}

func (r *Replies) answer(correlationID string, with reply) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiter, ok := r.waiting[correlationID]
	if ok {
		delete(r.waiting, correlationID)
		waiter <- with
	}
	return ok
}
