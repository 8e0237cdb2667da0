package amqp091

import (
	"math"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/message"
)

// batchBytes bounds a batch, in bytes of payload.
const batchBytes = 1 << 20

// bundle is a batch with what its messages are answered by.
type bundle struct {
	batch message.Batch
	tags  []uint64
	// offsets are those of a stream.
	offsets []int64
	bytes   int
}

// arrivals are the messages that were delivered and not handed on yet. Prefetch bounds
// them.
type arrivals struct {
	// arrived has a value when something has changed.
	arrived chan struct{}

	mu       sync.Mutex
	waiting  []*bundle
	spare    []*bundle
	finished bool
}

// add appends a delivery, decoded.
func (a *arrivals) add(c *consumer, d *amqp.Delivery) {
	offset := int64(math.MaxInt64)
	if c.position != nil {
		offset, _ = integer(d.Headers[tableOffset])
	}
	m := message.Message{Key: c.key, Source: c.source.env.Name}
	readMessage(&m, d, time.Now())
	a.mu.Lock()
	b := a.last(len(m.Payload), c.source.cfg.Prefetch)
	b.batch.Messages = append(b.batch.Messages, m)
	b.tags = append(b.tags, d.DeliveryTag)
	b.offsets = append(b.offsets, offset)
	b.bytes += len(m.Payload)
	a.mu.Unlock()
	a.signal()
}

// last returns the bundle that takes one more message of a size.
func (a *arrivals) last(size, prefetch int) *bundle {
	if n := len(a.waiting); n > 0 {
		if b := a.waiting[n-1]; b.bytes+size <= batchBytes && len(b.tags) < prefetch {
			return b
		}
	}
	b := &bundle{}
	if n := len(a.spare); n > 0 {
		b, a.spare = a.spare[n-1], a.spare[:n-1]
	}
	a.waiting = append(a.waiting, b)
	return b
}

// take returns what has gathered, or nil. More is false when nothing will come any more.
func (a *arrivals) take() (b *bundle, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 {
		return nil, !a.finished
	}
	b = a.waiting[0]
	a.waiting = append(a.waiting[:0], a.waiting[1:]...)
	return b, true
}

// recycle takes a bundle back that was handed on.
func (a *arrivals) recycle(b *bundle) {
	clear(b.batch.Messages)
	b.batch.Messages, b.tags, b.offsets, b.bytes = b.batch.Messages[:0], b.tags[:0], b.offsets[:0], 0
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.spare) < 2 {
		a.spare = append(a.spare, b)
	}
}

// finish says that nothing more comes.
func (a *arrivals) finish() {
	a.mu.Lock()
	a.finished = true
	a.mu.Unlock()
	a.signal()
}

func (a *arrivals) signal() {
	select {
	case a.arrived <- struct{}{}:
	default:
	}
}
