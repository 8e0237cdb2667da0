package stomp

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// batchBytes bounds a batch that waits for the one before it, and tightBytes when
	// all connections of the source together hold more than heldBytes.
	batchBytes = 1 << 20
	tightBytes = 64 << 10
	heldBytes  = 256 << 20
)

// receiver turns the frames of one connection into batches, hands them on one at a
// time and in order, and has each answered when its batch was taken over. While a
// batch is being handed on, the next one fills; when that is full, reading stops.
type receiver struct {
	link *link
	next message.Handler
	// start runs a function under the group that owns the connection.
	start func(name string, f func(ctx context.Context) error)
	// source names where messages come from.
	source string
	// answer encodes what is owed for a batch into its out. An error ends the
	// connection, after that was sent.
	answer  func(ctx context.Context, b *bundle, failed failedMessages) error
	bundles *sync.Pool
	// limit is the number of frames that may wait for their answers.
	limit int
	// held counts the bytes that all receivers of the source hold.
	held *atomic.Int64

	// now belongs to the reading goroutine: when what is read now has arrived.
	now time.Time

	mu   sync.Mutex
	room sync.Cond
	// filling is the batch that takes what arrives. Busy: one is being handed on.
	filling *bundle
	busy    bool
	// open counts the frames that are not answered.
	open int
	err  error
}

func (r *receiver) init() *receiver {
	r.room.L = &r.mu
	return r
}

// time is when what is read now has arrived.
func (r *receiver) time() time.Time {
	if r.now.IsZero() {
		r.now = time.Now()
	}
	return r.now
}

// add puts a frame's message into the batch that fills, with its answer. It blocks
// while there is no room. Strict refuses properties that cannot be read.
func (r *receiver) add(a answer, f *frame.Frame, d *destination, strict bool) error {
	return r.put(a, len(f.Body), func(b *bundle) error {
		if ok := b.add(f, d, r.source, r.time()); !ok && strict {
			return malformed("a number or time cannot be read")
		}
		return nil
	})
}

// put changes the batch that fills by fill, and notes the answer for what that added.
func (r *receiver) put(a answer, size int, fill func(b *bundle) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil && r.full(size) {
		if !r.busy && r.filling != nil {
			r.dispatch()
		}
		r.room.Wait()
	}
	if r.err != nil {
		return r.err
	}
	if r.filling == nil {
		r.filling = r.bundles.Get().(*bundle)
	}
	b := r.filling
	before, from := b.bytes, b.batch.Len()
	if err := fill(b); err != nil {
		b.bytes, b.batch.Messages = before, b.batch.Messages[:from]
		return err
	}
	a.from, a.to = from, b.batch.Len()
	b.answers = append(b.answers, a)
	r.held.Add(int64(b.bytes - before))
	r.open++
	return nil
}

// full reports whether one more frame has to wait. The caller holds the lock.
func (r *receiver) full(size int) bool {
	if r.open >= r.limit {
		return true
	}
	limit := batchBytes
	if r.held.Load() > heldBytes {
		limit = tightBytes
	}
	return r.filling != nil && r.filling.bytes > 0 && r.filling.bytes+size > limit
}

// flush hands on what has gathered, unless a batch is under way; then that one's
// goroutine goes on with it.
func (r *receiver) flush() {
	r.now = time.Time{}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy && r.filling != nil && r.err == nil {
		r.dispatch()
	}
}

// dispatch starts a goroutine that works until nothing is left, so that an idle
// connection has none. The caller holds the lock.
func (r *receiver) dispatch() {
	r.busy = true
	r.start("stomp hand-over", func(ctx context.Context) error {
		for r.step(ctx) {
		}
		return nil
	})
}

// step hands on one batch and reports whether to go on.
func (r *receiver) step(ctx context.Context) bool {
	r.mu.Lock()
	b := r.filling
	r.filling = nil
	if b == nil || r.err != nil {
		r.busy = false
		r.room.Broadcast()
		r.mu.Unlock()
		if b != nil {
			r.held.Add(-int64(b.bytes))
		}
		return false
	}
	r.room.Broadcast() // the next one may fill
	r.mu.Unlock()
	err := r.settle(ctx, b)
	r.mu.Lock()
	r.open -= len(b.answers)
	if r.err == nil {
		r.err = err
	}
	r.room.Broadcast()
	r.mu.Unlock()
	r.held.Add(-int64(b.bytes))
	b.reset()
	r.bundles.Put(b)
	if err != nil {
		r.link.stop()
	}
	return true
}

// failure returns why the hand-over ended, if it did.
func (r *receiver) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// drain hands on what has gathered and waits until nothing is under way.
func (r *receiver) drain() {
	r.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.busy {
		r.room.Wait()
	}
}

// settle hands a batch on and answers it.
func (r *receiver) settle(ctx context.Context, b *bundle) error {
	var failed failedMessages
	if b.batch.Len() > 0 {
		failed = failures(r.handOn(ctx, &b.batch), b.batch.Len())
	}
	b.out = b.out[:0]
	end := r.answer(ctx, b, failed)
	if len(b.out) > 0 {
		if err := r.link.send(b.out); err != nil && end == nil {
			end = err
		}
	}
	return end
}

// handOn turns a panic of the pipeline into an error, so that it ends this connection
// and no other.
func (r *receiver) handOn(ctx context.Context, b *message.Batch) (err error) {
	defer func() {
		if recover() != nil {
			err = &run.PanicError{Name: "stomp hand-over", Stack: debug.Stack()}
		}
	}()
	return r.next.Handle(ctx, b)
}

// failedMessages are the reasons by index; nil: all messages were taken.
type failedMessages []error

// of returns why the messages of an answer were not all taken, or nil.
func (f failedMessages) of(a answer) error {
	if f == nil {
		return nil
	}
	for _, err := range f[a.from:a.to] {
		if err != nil {
			return err
		}
	}
	return nil
}

// failures spreads the error of a hand-over over the messages. Nil: all were taken.
func failures(err error, n int) failedMessages {
	if err == nil {
		return nil
	}
	failed := make(failedMessages, n)
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, f := range partial.Failed {
			failed[f.Index] = f.Err
		}
		return failed
	}
	for i := range failed {
		failed[i] = err
	}
	return failed
}
