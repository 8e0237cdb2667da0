package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// committer is the state of the only goroutine that writes to the journal.
type committer struct {
	number uint64 // of the next frame
	prev   uint32 // header CRC of the frame before
	marked bool   // the tail mark is written
	since  int64  // bytes since the last checkpoint
	dirty  time.Time
	sealed []byte // the encrypted frame, behind room for the header of a segment
}

// commitLoop makes batches stable, one after the other, until the engine is closed
// or fails. It sleeps when there is nothing to do: no timer runs then.
func (e *Engine) commitLoop(ctx context.Context) error {
	defer e.finish()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		b, due, more := e.take()
		if !more {
			return nil
		}
		if b != nil {
			if err := e.commit(ctx, b); err != nil && plant.On(plant.GoOnAfterError) {
				b.finish(err)
			} else if err != nil {
				e.fail(err)
				b.finish(e.Health())
				return nil
			}
		}
		due = e.checkpointIfDue(due)
		if b != nil {
			runtime.Gosched() // those who were just told may have more for the next batch
			continue
		}
		if err := e.markTail(); err != nil {
			e.fail(err)
			continue
		}
		if !due.IsZero() {
			timer.Reset(time.Until(due))
		}
		select {
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// take closes the open batch if it is time to commit it, and decides where it goes.
// Otherwise due is when it will be time, if that is known. more is false at the end.
func (e *Engine) take() (b *batch, due time.Time, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b = e.batch
	switch {
	case e.err != nil:
		return nil, due, false
	case b.count == 0:
		return nil, due, !e.closing
	case !b.urgent && !e.closing && time.Now().Before(b.due):
		return nil, b.due, true
	}
	need := e.needFor(len(b.records()), int(b.count))
	b.need = need
	switch {
	case need <= e.room:
		b.seg, b.pos = e.active, e.pos
	case len(e.spares) > 0 && grow(e.spares[0], need):
		b.seg, b.pos, b.fresh = e.spares[0], headerSize, true
		e.spares = slices.Delete(e.spares, 0, 1)
		e.active, e.room, e.rolled = b.seg, b.seg.size-headerSize, true
		signal(e.work)
		signal(e.stage)
	case e.full || len(e.spares) > 0:
		e.turnAway(b)
		return nil, due, true
	default:
		return nil, due, true // the keeper will wake us with a spare
	}
	e.pos = b.pos + need
	e.room -= need
	e.batch = newBatch(e.buffer)
	e.buffer = nil
	close(b.taken)
	return b, due, true
}

// grow makes sure that a segment has room for a frame that is larger than it. It reports
// false when the disk has not: found out by the write itself, that would be the end. The
// size that the segment's header will promise stays what is stable.
func grow(s *segment, need int64) bool {
	size := headerSize + need
	return size <= s.size || !isFull(s.file.Allocate(size))
}

// turnAway refuses a batch for which there is no room. Nothing of it was written and
// no batch follows it, so the offsets can be given back. Acknowledgements hold in
// memory and become stable with the next checkpoint.
func (e *Engine) turnAway(b *batch) {
	for _, t := range e.topics {
		if !plant.On(plant.OffsetGap) {
			t.next = e.index.end(t)
		}
	}
	e.batch = newBatch(nil)
	e.wantCheckpoint = true
	close(b.taken)
	b.finish(message.ErrDiskFull)
}

// commit writes the batch and returns when it is stable and visible.
func (e *Engine) commit(ctx context.Context, b *batch) error {
	c := &e.committer
	if b.fresh {
		if err := e.begin(ctx, b.seg); err != nil {
			return err
		}
	}
	stored, frame, crc := e.seal(b)
	size := int64(len(stored) - headerSize)
	data, pos := stored[headerSize:], b.pos
	if b.fresh {
		h := segmentHeader{number: b.seg.number, epoch: b.seg.epoch, frame: c.number, size: b.seg.size, key: b.seg.key}
		data, pos = stored, 0
		h.encode(data)
	}
	if _, err := b.seg.file.WriteAt(data, pos); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if plant.On(plant.AckBeforeSync) {
		b.finish(nil)
	}
	if plant.On(plant.ReadUncommitted) {
		touched, _ := e.index.add(b.seg, b.pos, int64(len(frame)), frame, true)
		for _, t := range touched {
			t.extend(t.log.end)
		}
	}
	if err := b.seg.file.Datasync(); err != nil && (!plant.On(plant.RetrySync) || b.seg.file.Datasync() != nil) {
		return fmt.Errorf("sync journal: %w", err)
	}
	e.giveBack(b.need - size)
	touched, _ := e.index.add(b.seg, b.pos, size, frame, true)
	c.number, c.prev, c.marked = c.number+1, crc, false
	c.since += size
	if c.dirty.IsZero() {
		c.dirty = time.Now()
	}
	for _, f := range b.then {
		f()
	}
	// Receivers see the messages before their publisher goes on, so that a publisher
	// who then looks at the backlog finds them.
	for _, t := range touched {
		t.extend(t.log.end)
	}
	if !plant.On(plant.AckBeforeSync) {
		b.finish(nil)
	}
	e.reuse(b.buf)
	return nil
}

// begin brings a segment into use.
func (e *Engine) begin(ctx context.Context, s *segment) error {
	e.mu.Lock()
	s.key = e.journalKey
	e.mu.Unlock()
	s.epoch = newEpoch()
	if err := e.unlock(ctx, s); err != nil {
		return err
	}
	e.index.activate(s, s.epoch)
	return nil
}

// giveBack returns room that a frame turned out not to need.
func (e *Engine) giveBack(n int64) {
	if n == 0 {
		return
	}
	e.mu.Lock()
	e.pos -= n
	e.room += n
	e.mu.Unlock()
}

// seal completes the frame of a batch. stored is what goes to disk, behind room for the
// header of a segment; frame is the same in clear.
func (e *Engine) seal(b *batch) (stored, frame []byte, crc uint32) {
	c := &e.committer
	body := b.records()
	sealRecords(body, seed(b.seg.epoch))
	h := frameHeader{
		epoch: b.seg.epoch, number: c.number, body: uint32(len(body)), count: b.count,
		stable: c.number - 1, time: e.now().UnixNano(), prev: c.prev, key: b.seg.key,
	}
	if b.seg.aead != nil {
		return c.encrypt(b, h)
	}
	h.bodyCRC = checksum(body)
	for int64(len(b.frame())) < h.size() {
		b.buf = append(b.buf, 0)
	}
	return b.buf, b.frame(), h.encode(b.frame())
}

// encrypt is seal for an encrypted segment.
func (c *committer) encrypt(b *batch, h frameHeader) (stored, frame []byte, crc uint32) {
	if cap(c.sealed) > 2*maxBatch {
		c.sealed = nil
	}
	body := b.records()
	c.sealed = append(c.sealed[:0], make([]byte, batchHead)...)
	c.sealed = sealBody(c.sealed, &h, body, b.seg.aead)
	for int64(len(b.frame())) < h.size() {
		b.buf = append(b.buf, 0)
	}
	h.encode(b.frame()) // in clear, for the cache
	h.flags, h.body = flagEncrypted, uint32(len(c.sealed)-batchHead)
	h.bodyCRC = checksum(c.sealed[batchHead:])
	for int64(len(c.sealed)) < headerSize+h.size() {
		c.sealed = append(c.sealed, 0)
	}
	return c.sealed, b.frame(), h.encode(c.sealed[headerSize:])
}

// reuse keeps the buffer for the batch after the next one.
func (e *Engine) reuse(buf []byte) {
	if cap(buf) > 2*maxBatch {
		return
	}
	e.mu.Lock()
	e.buffer = buf
	e.mu.Unlock()
}

// markTail says on disk that everything before the tail is stable, so that damage to
// the last frame cannot be taken for a frame that was never finished. It is a hint
// that needs no sync, so it is left out while there is work to do.
func (e *Engine) markTail() error {
	c := &e.committer
	e.mu.Lock()
	seg, pos, size := e.active, e.pos, e.activeSize()
	e.mu.Unlock()
	if plant.On(plant.NoTailMark) || c.marked || seg == nil || seg.epoch == 0 || pos+headerSize > size {
		return nil
	}
	h := frameHeader{epoch: seg.epoch, number: c.number, key: seg.key, stable: c.number - 1, time: e.now().UnixNano(), prev: c.prev}
	var b [headerSize]byte
	h.encode(b[:])
	if _, err := seg.file.WriteAt(b[:], pos); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	c.marked = true
	return nil
}

func (e *Engine) activeSize() int64 {
	if e.active == nil {
		return 0
	}
	return e.active.size
}

// fail stops the engine for good: what the disk holds is known only after a restart.
func (e *Engine) fail(cause error) {
	e.mu.Lock()
	if e.err != nil {
		e.mu.Unlock()
		return
	}
	e.err = errors.Join(queue.ErrStorageFailed, cause)
	b, subs := e.batch, e.subs
	e.batch = newBatch(nil)
	close(b.taken)
	b.finish(e.err)
	e.broadcast()
	close(e.saved)
	e.saved = make(chan struct{})
	e.mu.Unlock()
	e.log.Error("queue storage failed", slog.Any("dir", e.dir), slog.Any("error", cause.Error()))
	for _, s := range subs {
		s.stop()
	}
	signal(e.wake)
	signal(e.work)
}

// broadcast wakes those who wait for spares.
func (e *Engine) broadcast() {
	close(e.changed)
	e.changed = make(chan struct{})
}
