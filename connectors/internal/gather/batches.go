package gather

import (
	"sync"

	"github.com/linkspan/linkspan/message"
)

// batchBytes bounds a batch, in bytes of payload.
const batchBytes = 1 << 20

// Bundle is a batch with what its messages are answered by, one mark each.
type Bundle[T any] struct {
	Batch message.Batch
	Marks []T

	bytes int
}

// Batches are the messages that have arrived and are not handed on yet. While a batch is
// being handed on, the next ones gather. The peer's window bounds them.
type Batches[T any] struct {
	// Arrived has a value when something has changed.
	Arrived chan struct{}

	most     int
	mu       sync.Mutex
	waiting  []*Bundle[T]
	spare    []*Bundle[T]
	finished bool
}

// NewBatches returns no batches yet, of at most so many messages each.
func NewBatches[T any](most int) *Batches[T] {
	return &Batches[T]{Arrived: make(chan struct{}, 1), most: most}
}

// Add appends a message.
func (a *Batches[T]) Add(m *message.Message, mark T) {
	a.mu.Lock()
	b := a.last(len(m.Payload))
	b.Batch.Messages = append(b.Batch.Messages, *m)
	b.Marks = append(b.Marks, mark)
	b.bytes += len(m.Payload)
	a.mu.Unlock()
	a.signal()
}

// last returns the bundle that takes one more message of a size.
func (a *Batches[T]) last(size int) *Bundle[T] {
	if n := len(a.waiting); n > 0 {
		if b := a.waiting[n-1]; b.bytes+size <= batchBytes && len(b.Marks) < a.most {
			return b
		}
	}
	b := &Bundle[T]{}
	if n := len(a.spare); n > 0 {
		b, a.spare = a.spare[n-1], a.spare[:n-1]
	}
	a.waiting = append(a.waiting, b)
	return b
}

// Take returns what has gathered, or nil. More is false when nothing will come any more.
func (a *Batches[T]) Take() (b *Bundle[T], more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 {
		return nil, !a.finished
	}
	b = a.waiting[0]
	a.waiting = append(a.waiting[:0], a.waiting[1:]...)
	return b, true
}

// Recycle takes a bundle back that was handed on.
func (a *Batches[T]) Recycle(b *Bundle[T]) {
	clear(b.Batch.Messages)
	clear(b.Marks)
	b.Batch.Messages, b.Marks, b.bytes = b.Batch.Messages[:0], b.Marks[:0], 0
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.spare) < 2 {
		a.spare = append(a.spare, b)
	}
}

// Finish says that nothing more comes.
func (a *Batches[T]) Finish() {
	a.mu.Lock()
	a.finished = true
	a.mu.Unlock()
	a.signal()
}

func (a *Batches[T]) signal() {
	select {
	case a.Arrived <- struct{}{}:
	default:
	}
}
