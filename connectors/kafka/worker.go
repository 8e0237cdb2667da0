package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// batchRecords and batchBytes bound what is handed on at once.
	batchRecords = 2048
	batchBytes   = 1 << 20
	// heldBytes bounds what all partitions of a source hold before nothing more is
	// fetched. A partition that is held up does not count: it is paused.
	heldBytes = 32 << 20
	// retryMin and retryMax are the waits between attempts to hand a batch on.
	retryMin = 100 * time.Millisecond
	retryMax = 10 * time.Second
)

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// position is where to go on in a partition: the offset behind the last message that
// was taken over, with all before it.
type position struct {
	offset int64
	epoch  int32
}

// worker hands on the records of one partition, in order, one batch at a time.
type worker struct {
	place   place
	key     []byte
	convert converter
	next    message.Handler
	log     *slog.Logger
	held    *gauge
	// pause and resume stop and continue the fetches of the partition.
	pause, resume func(place)

	// retry is the range of waits between attempts to hand a batch on.
	retry config.Backoff
	// stop ends the worker's context; done is closed when it has returned.
	stop context.CancelFunc
	done chan struct{}
	// wake says that records came or that the worker is to end.
	wake chan struct{}

	mu sync.Mutex
	// Guarded by mu.
	queue []*kgo.Record
	bytes int
	// ending: nothing more is handed on.
	ending bool
	// stuck: what is being handed on was not taken the last time.
	stuck bool
	// settled is what may be committed; fresh: it was not yet.
	settled position
	fresh   bool
}

// add gives the worker what was fetched.
func (w *worker) add(records []*kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending {
		return
	}
	n := 0
	for _, r := range records {
		n += size(r)
	}
	w.queue = append(w.queue, records...)
	w.count(n)
	w.signal()
}

// count changes what the worker holds. The caller holds the lock.
func (w *worker) count(n int) {
	w.bytes += n
	if !w.stuck {
		w.held.add(n)
	}
}

func (w *worker) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func size(r *kgo.Record) int {
	const overhead = 200 // of the record itself
	n := len(r.Key) + len(r.Value) + overhead
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// end tells the worker to hand on nothing more. What is under way goes on.
func (w *worker) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ending = true
	w.signal()
}

// run works until end is called or ctx ends.
func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	defer w.clear()
	for {
		records := w.take(ctx)
		if records == nil || !w.handOn(ctx, records) {
			return
		}
	}
}

// clear lets go of what was not handed on.
func (w *worker) clear() {
	w.mu.Lock()
	w.ending = true
	w.count(-w.bytes)
	w.queue = nil
	stuck := w.stuck
	w.mu.Unlock()
	if stuck {
		w.resume(w.place) // the client would remember it for the next time
	}
}

// take waits for records and returns a batch of them, or nil at the end.
func (w *worker) take(ctx context.Context) []*kgo.Record {
	for {
		w.mu.Lock()
		if w.ending || ctx.Err() != nil {
			w.mu.Unlock()
			return nil
		}
		if len(w.queue) > 0 {
			records := w.cut()
			w.mu.Unlock()
			return records
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	}
}

// cut takes a batch off the queue. The caller holds the lock.
func (w *worker) cut() []*kgo.Record {
	n, bytes := 0, 0
	for n < len(w.queue) && n < batchRecords {
		bytes += size(w.queue[n])
		if n > 0 && bytes > batchBytes {
			break
		}
		n++
	}
	records := w.queue[:n:n]
	w.queue = w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil
	}
	return records
}

// handOn hands a batch on until all of it was taken over. It returns false at the end.
func (w *worker) handOn(ctx context.Context, records []*kgo.Record) bool {
	b := w.convert.convert(records, w.key)
	// left are the records of the messages that are still in b.
	left := append([]*kgo.Record(nil), records...)
	for wait := time.Duration(0); ; {
		err := w.protect(ctx, b)
		var failed []message.Failed
		left, failed = keep(b, left, err)
		w.settle(records, left)
		if len(left) == 0 {
			w.recovered(ctx)
			return true
		}
		if ctx.Err() != nil || w.isEnding() {
			return false
		}
		wait = min(max(2*wait, w.retry.Min), w.retry.Max)
		w.refused(ctx, left[0], failed[0].Err)
		pause := wait
		if away, ok := errors.AsType[*message.UnavailableError](failed[0].Err); ok && away.After > 0 {
			pause = min(away.After, time.Minute)
		}
		if !w.idle(ctx, pause) {
			return false
		}
	}
}

// protect turns a panic of the pipeline into an error, so that it holds up this
// partition and no other.
func (w *worker) protect(ctx context.Context, b *message.Batch) error {
	return run.Protect("kafka hand-over", func() error { return w.next.Handle(ctx, b) })
}

// keep leaves in b, and in records, what was not taken over.
func keep(b *message.Batch, records []*kgo.Record, err error) ([]*kgo.Record, []message.Failed) {
	if err == nil {
		return nil, nil
	}
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok || !valid(partial.Failed, b.Len()) {
		return records, []message.Failed{{Err: err}}
	}
	for n, f := range partial.Failed {
		b.Messages[n], records[n] = b.Messages[f.Index], records[f.Index]
	}
	b.Messages = b.Messages[:len(partial.Failed)]
	return records[:len(partial.Failed)], partial.Failed
}

// valid reports whether the indexes are in order and in range: what a handler with a
// bug says does not count.
func valid(failed []message.Failed, n int) bool {
	last := -1
	for _, f := range failed {
		if f.Index <= last || f.Index >= n {
			return false
		}
		last = f.Index
	}
	return true
}

// settle notes how far the batch was taken over: up to the first that is left.
func (w *worker) settle(records, left []*kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var to position
	if len(left) > 0 {
		if left[0].Offset == records[0].Offset {
			return
		}
		to = position{left[0].Offset, left[0].LeaderEpoch}
	} else {
		last := records[len(records)-1]
		to = position{last.Offset + 1, last.LeaderEpoch}
		n := 0
		for _, r := range records {
			n += size(r)
		}
		w.count(-n)
	}
	w.settled, w.fresh = to, true
}

func (w *worker) isEnding() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending
}

// refused notes that the partition is held up at a record.
func (w *worker) refused(ctx context.Context, r *kgo.Record, err error) {
	w.mu.Lock()
	first := !w.stuck
	if first {
		w.held.add(-w.bytes)
		w.stuck = true
	}
	w.mu.Unlock()
	if !first {
		return
	}
	w.pause(w.place)
	level, code := slog.LevelWarn, ""
	if !message.IsUnavailable(err) && !errors.Is(err, message.ErrFull) && !errors.Is(err, message.ErrDiskFull) {
		level, code = slog.LevelError, codeHeld+": "
	}
	w.log.LogAttrs(ctx, level, "the pipeline does not take a message; its partition waits", slog.String("topic", r.Topic),
		slog.Int("partition", int(r.Partition)), slog.Int64("offset", r.Offset), slog.String("error", fmt.Sprintf("%s%v", code, err)))
}

// recovered notes that the partition goes on.
func (w *worker) recovered(ctx context.Context) {
	w.mu.Lock()
	was := w.stuck
	if was {
		w.stuck = false
		w.held.add(w.bytes)
	}
	w.mu.Unlock()
	if !was {
		return
	}
	w.resume(w.place)
	w.log.LogAttrs(ctx, slog.LevelInfo, "the partition goes on", slog.String("topic", w.place.topic), slog.Int("partition", int(w.place.partition)))
}

// idle waits, unless the worker is to end.
func (w *worker) idle(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return !w.isEnding()
		case <-ctx.Done():
			return false
		case <-w.wake:
			if w.isEnding() {
				return false
			}
		}
	}
}

// gauge is a sum that somebody waits for to go down.
type gauge struct {
	mu   sync.Mutex
	n    int
	room chan struct{}
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	g.n += n
	g.mu.Unlock()
	if n < 0 {
		select {
		case g.room <- struct{}{}:
		default:
		}
	}
}

// below waits until the sum is below limit. It returns false when ctx ended first.
func (g *gauge) below(ctx context.Context, limit int) bool {
	for {
		g.mu.Lock()
		n := g.n
		g.mu.Unlock()
		if n < limit || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		select {
		case <-g.room:
		case <-ctx.Done():
		}
	}
}
