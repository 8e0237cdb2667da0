package delivery

import (
	"container/heap"
	"slices"
	"time"

	"github.com/linkspan/linkspan/queue"
)

// Settle settles offsets and returns those that were not settled before, sorted.
// Offsets that do not exist are left out.
func (w *Window) Settle(offsets ...uint64) []uint64 {
	if len(offsets) == 0 {
		return nil
	}
	fresh := make([]uint64, 0, len(offsets))
	w.mu.Lock()
	for _, o := range offsets {
		w.forget(o)
		if o < w.end && w.settled.Add(o) {
			fresh = append(fresh, o)
		}
	}
	w.mu.Unlock()
	w.signal()
	slices.Sort(fresh)
	return fresh
}

// SettleRange settles the offsets from first up to end, whoever holds them.
func (w *Window) SettleRange(first, end uint64) {
	w.mu.Lock()
	w.settled.AddRange(first, end)
	for o := range w.inFlight {
		if o >= first && o < end {
			w.forget(o)
		}
	}
	for o := range w.failed {
		if o >= first && o < end {
			w.forget(o)
		}
	}
	for _, o := range w.keys.heldIn(first, end) {
		w.forget(o)
	}
	w.mu.Unlock()
	w.signal()
}

// forget drops what is known of an offset that is settled.
func (w *Window) forget(o uint64) {
	delete(w.inFlight, o)
	if len(w.failed) > 0 {
		delete(w.failed, o)
	}
	if it, ok := w.keys.release(o, w.settled.Has); ok {
		heap.Push(&w.ready, it)
	}
}

// Nack gives back those of the offsets that are in flight, as failed, and returns what
// has to be logged.
func (w *Window) Nack(delay time.Duration, offsets ...uint64) []Failed {
	out := make([]Failed, 0, len(offsets))
	w.mu.Lock()
	now := w.now().UnixNano()
	for _, o := range offsets {
		if _, ok := w.inFlight[o]; ok {
			out = append(out, w.fail(o, delay, now))
		}
	}
	w.mu.Unlock()
	w.signal()
	return out
}

// fail gives an offset back after a failed attempt.
func (w *Window) fail(o uint64, delay time.Duration, now int64) Failed {
	f := w.failed[o]
	f.Offset = o
	f.Attempts++
	if delay == queue.Backoff {
		delay = backoff(w.o.MinBackoff, w.o.MaxBackoff, f.Attempts)
	}
	f.Due = now + int64(max(delay, 0))
	w.failed[o] = f
	w.putBack(o, f.Due, delay > 0, 0)
	return f
}

// backoff doubles with each attempt.
func backoff(first, most time.Duration, attempts uint32) time.Duration {
	most = max(first, most)
	d := first
	for ; attempts > 1 && d < most; attempts-- {
		d *= 2
	}
	return min(d, most)
}

// Fail restores what was logged of a failed message.
func (w *Window) Fail(f Failed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.Offset < w.end && !w.settled.Has(f.Offset) {
		w.failed[f.Offset] = f
	}
}

// Failures returns the failed messages, by offset.
func (w *Window) Failures() []Failed {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]Failed, 0, len(w.failed))
	for _, f := range w.failed {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Failed) int {
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	return out
}

// Release gives back those of the offsets that are in flight.
func (w *Window) Release(delay time.Duration, offsets ...uint64) { w.giveBack(delay, 0, offsets) }

// Return gives back what could not be handed out after all, as if it never was.
func (w *Window) Return(offsets ...uint64) { w.giveBack(0, 1, offsets) }

// GiveBack returns records, as if they had never been handed out.
func (w *Window) GiveBack(delay time.Duration, records []queue.Record) {
	for i := range records {
		w.giveBack(delay, 1, []uint64{records[i].Offset})
	}
}

func (w *Window) giveBack(delay time.Duration, uncount int32, offsets []uint64) {
	w.mu.Lock()
	due := int64(0)
	if delay > 0 {
		due = w.now().Add(delay).UnixNano()
	}
	for _, o := range offsets {
		if _, ok := w.inFlight[o]; ok {
			w.putBack(o, due, delay > 0, uncount)
		}
	}
	w.mu.Unlock()
	w.signal()
}

// putBack takes an offset out of flight.
func (w *Window) putBack(o uint64, due int64, later bool, uncount int32) {
	f := w.inFlight[o]
	delete(w.inFlight, o)
	it := item{offset: o, due: due, delivery: f.delivery - uncount, lane: f.lane}
	if later {
		heap.Push(&w.delayed, it)
	} else {
		heap.Push(&w.ready, it)
	}
}

// Prolong moves the time-outs of messages in flight to by from now.
func (w *Window) Prolong(by time.Duration, offsets ...uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	deadline := w.now().Add(by).UnixNano()
	for _, o := range offsets {
		f, ok := w.inFlight[o]
		if !ok || f.deadline == 0 {
			continue
		}
		if deadline < f.deadline { // the lease in the heap would come too late
			heap.Push(&w.leases, item{offset: o, due: deadline})
		}
		f.deadline = deadline
		w.inFlight[o] = f
	}
	w.signal()
}

// PutOff takes the offsets from first up to end out of what is handed out until due,
// in nanoseconds since 1970: none of them may be delivered earlier. It reports false,
// and does nothing, when the order of delivery does not allow it.
func (w *Window) PutOff(first, end uint64, due int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lanes != nil {
		return false
	}
	end = min(end, w.end)
	for o := first; o < end; o++ {
		delete(w.inFlight, o)
	}
	heap.Push(&w.runs, span{first: first, end: end, due: due})
	w.cursor = max(w.cursor, end)
	return true
}
