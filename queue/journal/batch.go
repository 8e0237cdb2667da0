package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// batchHead is the room in front of the records for the header of the frame, and for
// that of the segment if the batch begins one.
const batchHead = 2 * headerSize

// batch is what one commit makes stable: a frame that fills while the one before it
// is being synced.
type batch struct {
	buf    []byte
	count  uint32
	urgent bool          // somebody waits for it
	due    time.Time     // when it is committed although nobody waits
	then   []func()      // run when it is stable, before anybody is told
	taken  chan struct{} // closed when nothing can be added any more
	done   chan struct{} // closed when it is stable, or err is set
	err    error
	// Where it goes; set when it is taken.
	seg   *segment
	pos   int64
	fresh bool
	need  int64 // what it takes at most
}

func newBatch(buf []byte) *batch {
	return &batch{
		buf:   append(buf[:0], make([]byte, batchHead)...),
		taken: make(chan struct{}), done: make(chan struct{}),
	}
}

// frame returns the frame, with room for its header in front.
func (b *batch) frame() []byte { return b.buf[headerSize:] }

func (b *batch) records() []byte { return b.buf[batchHead:] }

func (b *batch) finish(err error) {
	b.err = err
	close(b.done)
}

// wait returns when the batch is stable.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unit is what one call adds to a batch. It is encoded before any lock is taken.
type unit struct {
	buf   []byte
	parts []part
	then  func()
}

// part is a run of records of a unit. Those of a topic get their offsets when the
// unit joins a batch.
type part struct {
	topic *topic // nil: not a publish
	count int
	first uint64
	ids   []fingerprint // of the messages, when the topic remembers them
}

func (u *unit) reset() {
	u.buf, u.then = u.buf[:0], nil
	clear(u.parts)
	u.parts = u.parts[:0]
}

// count returns how many records the unit has.
func (u *unit) count() (n int) {
	for i := range u.parts {
		n += u.parts[i].count
	}
	return n
}

// usualProperties is what the properties of a message take, besides its headers.
const usualProperties = 128

// publish encodes messages for a topic.
func (u *unit) publish(t *topic, msgs []message.Message) error {
	size := 0
	for i := range msgs {
		n := msgs[i].Size()
		if n > maxMessage {
			return fmt.Errorf("publish to topic %q: %w", t.name, message.ErrTooLarge)
		}
		size += n + recordHeader + usualProperties
	}
	u.buf = slices.Grow(u.buf, min(size, maxUnit)) // growing step by step copies a batch several times
	for i := range msgs {
		var at int
		u.buf, at = beginRecord(u.buf, recordPublish, t.id, 0)
		u.buf[at+recordPriority] = min(msgs[i].Priority, delivery.Priorities-1)
		if !msgs[i].NotBefore.IsZero() {
			u.buf[at+recordFlags] = flagLater
		}
		u.buf = appendMessage(u.buf, &msgs[i])
		if len(u.buf) > maxUnit {
			return fmt.Errorf("publish to topic %q: %w", t.name, message.ErrTooLarge)
		}
		endRecord(u.buf, at)
	}
	u.parts = append(u.parts, part{topic: t, count: len(msgs), ids: t.fingerprints(msgs)})
	return nil
}

// ack encodes acknowledgements. The offsets are sorted.
func (u *unit) ack(s *subscriber, offsets []uint64) {
	u.buf = appendAck(u.buf, s.id, offsets)
	u.parts = append(u.parts, part{count: 1})
}

// appendAck encodes sorted offsets as ranges: the length of the first, and for each
// other one the distance to the end of the one before and the length.
func appendAck(b []byte, id uint32, offsets []uint64) []byte {
	b, at := beginRecord(b, recordAck, id, offsets[0])
	end := offsets[0]
	for i := 0; i < len(offsets); {
		j := i + 1
		for j < len(offsets) && offsets[j] <= offsets[j-1]+1 {
			j++
		}
		if i > 0 {
			b = binary.AppendUvarint(b, offsets[i]-end)
		}
		end = offsets[j-1] + 1
		b = binary.AppendUvarint(b, end-offsets[i])
		i = j
	}
	endRecord(b, at)
	return b
}

// decodeAck calls f for each range of an acknowledgement until it returns false.
func decodeAck(r *record, f func(first, end uint64) bool) {
	at, b := r.offset, r.body
	for i := 0; len(b) > 0; i++ {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > maxOffset-min(at, maxOffset) {
			return
		}
		b = b[n:]
		if i%2 == 0 && !f(at, at+v) {
			return
		}
		at += v
	}
}

// maxOffset keeps arithmetic on offsets away from overflow.
const maxOffset = 1 << 62

// use says what a unit does to the space of the disk.
type use int

const (
	fills use = iota // publishes
	moves            // publishes what it settles elsewhere
	frees            // settles
)

// join adds the unit to the open batch, giving its messages their offsets. It waits
// while the batch is full, and refuses while the disk is.
func (e *Engine) join(ctx context.Context, u *unit, what use) (*batch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if err := e.usable(); err != nil {
			return nil, err
		}
		if err := u.usable(); err != nil {
			return nil, err
		}
		wait := e.sift(u)
		if len(u.buf) == 0 { // all of it is stored already
			b := newBatch(nil)
			b.finish(nil)
			return b, nil
		}
		var err error
		if wait == nil {
			wait, err = e.admit(u, what)
		}
		if err != nil {
			return nil, err
		}
		if wait == nil {
			return e.add(u), nil
		}
		e.mu.Unlock()
		select {
		case <-wait:
			e.mu.Lock()
		case <-ctx.Done():
			e.mu.Lock()
			return nil, ctx.Err()
		}
	}
}

// usable returns why the engine takes nothing any more, or nil.
func (e *Engine) usable() error {
	switch {
	case e.err != nil:
		return e.err
	case e.closing:
		return queue.ErrClosed
	case e.o.ReadOnly:
		return fmt.Errorf("write to a queue that is open for reading: %w", queue.ErrUnsupported)
	}
	return nil
}

// usable returns why a topic of the unit takes nothing, or nil. The lock is held.
func (u *unit) usable() error {
	for i := range u.parts {
		if t := u.parts[i].topic; t != nil {
			if err := t.usable(); err != nil {
				return fmt.Errorf("publish to topic %q: %w", t.name, err)
			}
		}
	}
	return nil
}

// admit decides whether the unit may join the open batch. It returns a channel to wait
// on when the answer may change.
func (e *Engine) admit(u *unit, what use) (<-chan struct{}, error) {
	used, n := len(e.batch.records()), len(u.buf)
	if used > 0 && used+n > maxBatch {
		return e.batch.taken, nil
	}
	need := e.needFor(used+n, int(e.batch.count)+u.count())
	switch {
	case what == frees:
		return nil, nil //nolint:nilnil // no need to wait
	case what == fills && e.full && !e.mayFill(need):
		return nil, message.ErrDiskFull
	case need <= e.room:
		return nil, nil //nolint:nilnil // no need to wait
	case len(e.spares) == 0 && e.full:
		return nil, message.ErrDiskFull
	case len(e.spares) == 0:
		return e.changed, nil
	case need <= e.spares[0].size-headerSize || what == moves && e.hasBytes(need) || e.hasRoom(need):
		return nil, nil //nolint:nilnil // no need to wait
	}
	return nil, message.ErrDiskFull // the segment would have to grow
}

// needFor returns what a frame takes in the segment, at most.
func (e *Engine) needFor(n, records int) int64 {
	if e.journalKey != 0 {
		n = sealedBound(n, records)
	}
	return frameSize(n)
}

// mayFill reports whether publishes may use the active segment, or the spare behind
// it, although the disk is full. What is left is for those who free space; but a
// segment that is consumed can be freed only when there is a next one.
func (e *Engine) mayFill(need int64) bool {
	if len(e.spares) == 0 {
		return false
	}
	return need <= e.room && !e.lean || e.active != nil && need <= e.spares[0].size-headerSize && e.index.settled(e.active)
}

// add appends the unit to the open batch. The lock is held.
func (e *Engine) add(u *unit) *batch {
	b := e.batch
	at := len(b.buf)
	b.buf = append(b.buf, u.buf...)
	for i := range u.parts {
		p := &u.parts[i]
		if p.topic != nil {
			p.first = p.topic.next
			p.topic.next += uint64(p.count)
			p.topic.begin(p.ids, b)
		}
		for k := range p.count {
			r := b.buf[at:]
			if p.topic != nil {
				binary.LittleEndian.PutUint64(r[12:], p.first+uint64(k))
			}
			at += recordHeader + int(binary.LittleEndian.Uint32(r))
		}
		b.count += uint32(p.count)
	}
	if u.then != nil {
		b.then = append(b.then, u.then)
	}
	if !b.urgent {
		b.urgent = true
		signal(e.wake)
	}
	return b
}

// addAck appends an acknowledgement, which waits for company.
func (e *Engine) addAck(s *subscriber, offsets []uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.usable(); err != nil {
		return err
	}
	if plant.On(plant.AckForgotten) && e.batch.urgent {
		return nil
	}
	if plant.On(plant.FullRefusesAcks) && e.full {
		return message.ErrDiskFull
	}
	e.batch.buf = appendAck(e.batch.buf, s.id, offsets)
	e.addQuietly(1)
	return nil
}

// addFailed appends notes of failed attempts, which wait for company too.
func (e *Engine) addFailed(s *subscriber, failed []delivery.Failed) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.usable(); err != nil {
		return err
	}
	for _, f := range failed {
		var at int
		e.batch.buf, at = beginRecord(e.batch.buf, recordFailed, s.id, f.Offset)
		e.batch.buf = appendFailed(e.batch.buf, f)
		endRecord(e.batch.buf, at)
	}
	e.addQuietly(len(failed))
	return nil
}

// appendFailed encodes what is noted besides the offset.
func appendFailed(b []byte, f delivery.Failed) []byte {
	b = binary.AppendUvarint(b, uint64(f.Attempts))
	return binary.AppendVarint(b, f.Due)
}

// addQuietly counts records that were appended and for which nobody waits.
func (e *Engine) addQuietly(n int) {
	b := e.batch
	b.count += uint32(n)
	if b.due.IsZero() {
		b.due = time.Now().Add(e.o.AckDelay)
		if !b.urgent {
			signal(e.wake)
		}
	}
}

// signal leaves a token in a channel of capacity one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
