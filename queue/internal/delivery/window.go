// Package delivery hands out offsets: which message comes next, which are in
// flight, which come again and when, and which are settled. It is what the queue
// engines share, and it knows nothing of storage.
//
// Offsets are handed out in order; what was released comes before what is new.
// Nothing is handed out twice at the same time, and nothing that is settled is
// handed out at all.
package delivery

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/queue"
)

// Handout is an offset that a receiver now owns.
type Handout struct {
	Offset uint64
	// Delivery counts the handouts since the window was opened, from 1.
	Delivery int
}

// Window is the state of one subscription. It is safe for concurrent use.
//
// Receivers that wait share one token, so that an event wakes one of them; who
// wakes and leaves something behind passes the token on.
type Window struct {
	token chan struct{}

	mu       sync.Mutex
	settled  Set
	end      uint64 // messages below it exist
	open     bool
	stop     chan struct{} // closed when this opening ends
	max      int
	cursor   uint64 // the next offset that was never handed out
	inFlight map[uint64]int
	ready    byOffset // given back and due
	delayed  byDue    // given back and not due yet
}

type returned struct {
	Handout
	due time.Time
}

// New returns a closed window over the messages below end.
func New(settled Set, end uint64) *Window {
	return &Window{token: make(chan struct{}, 1), settled: settled, end: end}
}

// Open starts a new opening with up to maxInFlight unsettled handouts and returns a
// channel that is closed when it ends. It returns nil when the window is open.
func (w *Window) Open(maxInFlight int) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open {
		return nil
	}
	if maxInFlight <= 0 {
		maxInFlight = defaultInFlight
	}
	w.open, w.max, w.stop = true, maxInFlight, make(chan struct{})
	w.cursor = w.settled.Floor()
	w.inFlight = map[uint64]int{}
	return w.stop
}

const defaultInFlight = 256

// Close ends the opening that stop belongs to: what is in flight will be handed out
// again by the next one.
func (w *Window) Close(stop <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.open || w.stop != stop {
		return
	}
	w.open = false
	close(w.stop)
	w.inFlight, w.ready, w.delayed = nil, nil, nil
}

// Extend tells that the messages below end exist.
func (w *Window) Extend(end uint64) {
	w.mu.Lock()
	more := end > w.end
	w.end = max(w.end, end)
	w.mu.Unlock()
	if more {
		w.signal()
	}
}

func (w *Window) signal() {
	select {
	case w.token <- struct{}{}:
	default:
	}
}

// Receive waits for at least one offset and appends up to limit of them to dst.
func (w *Window) Receive(ctx context.Context, stop <-chan struct{}, limit int, dst []Handout) ([]Handout, error) {
	for {
		if err := ctx.Err(); err != nil {
			return dst, err
		}
		out, due, err := w.take(stop, limit, dst)
		if err != nil || len(out) > len(dst) {
			return out, err
		}
		if err := w.wait(ctx, stop, due); err != nil {
			return dst, err
		}
	}
}

// wait returns when it is worth trying again.
func (w *Window) wait(ctx context.Context, stop <-chan struct{}, due time.Time) error {
	var later <-chan time.Time
	if !due.IsZero() {
		t := time.NewTimer(time.Until(due))
		defer t.Stop()
		later = t.C
	}
	select {
	case <-w.token:
	case <-later:
	case <-stop:
		return queue.ErrClosed
	case <-ctx.Done():
		w.signal() // the token may have been meant for this receiver
		return ctx.Err()
	}
	return nil
}

// take hands out what is there. due is when the next delayed message comes back, if
// that is what a receiver has to wait for.
func (w *Window) take(stop <-chan struct{}, limit int, dst []Handout) (out []Handout, due time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.open || w.stop != stop {
		return dst, due, queue.ErrClosed
	}
	w.wakeDue()
	room := min(limit, w.max-len(w.inFlight))
	for ; room > 0; room-- {
		h, ok := w.next()
		if !ok {
			break
		}
		w.inFlight[h.Offset] = h.Delivery
		dst = append(dst, h)
	}
	w.skipSettled()
	if len(w.inFlight) < w.max && (len(w.ready) > 0 || w.cursor < w.end) {
		w.signal()
	}
	if len(w.delayed) > 0 && len(w.inFlight) < w.max {
		due = w.delayed[0].due
	}
	return dst, due, nil
}

func (w *Window) wakeDue() {
	if len(w.delayed) == 0 {
		return
	}
	now := time.Now()
	for len(w.delayed) > 0 && !w.delayed[0].due.After(now) {
		heap.Push(&w.ready, heap.Pop(&w.delayed))
	}
}

func (w *Window) next() (Handout, bool) {
	for len(w.ready) > 0 {
		r := heap.Pop(&w.ready).(returned) //nolint:forcetypeassert // the heap holds nothing else
		if !w.settled.Has(r.Offset) {
			r.Delivery++
			return r.Handout, true
		}
	}
	w.skipSettled()
	if w.cursor >= w.end {
		return Handout{}, false
	}
	w.cursor++
	return Handout{Offset: w.cursor - 1, Delivery: 1}, true
}

func (w *Window) skipSettled() {
	w.cursor = max(w.cursor, w.settled.Floor())
	for w.cursor < w.end && w.settled.Above() > 0 && w.settled.Has(w.cursor) {
		w.cursor++
	}
}

// Settle settles offsets and returns those that were not settled before, sorted.
// Offsets that do not exist are left out.
func (w *Window) Settle(offsets ...uint64) []uint64 {
	if len(offsets) == 0 {
		return nil
	}
	fresh := make([]uint64, 0, len(offsets))
	w.mu.Lock()
	for _, o := range offsets {
		delete(w.inFlight, o)
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
			delete(w.inFlight, o)
		}
	}
	w.mu.Unlock()
	w.signal()
}

// Release gives back those of the offsets that are in flight.
func (w *Window) Release(delay time.Duration, offsets ...uint64) {
	w.release(delay, 0, offsets)
}

// Return gives back what could not be handed out after all, as if it never was.
func (w *Window) Return(offsets ...uint64) { w.release(0, 1, offsets) }

func (w *Window) release(delay time.Duration, uncount int, offsets []uint64) {
	w.mu.Lock()
	for _, o := range offsets {
		n, ok := w.inFlight[o]
		if !ok {
			continue
		}
		delete(w.inFlight, o)
		r := returned{Handout: Handout{Offset: o, Delivery: n - uncount}}
		if delay > 0 {
			r.due = time.Now().Add(delay)
			heap.Push(&w.delayed, r)
		} else {
			heap.Push(&w.ready, r)
		}
	}
	w.mu.Unlock()
	w.signal()
}

// View calls f with the settled set while nothing changes it. f must not keep it.
func (w *Window) View(f func(settled *Set)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.settled)
}

// Stats describes the window.
func (w *Window) Stats(name string) queue.SubStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := queue.SubStats{Name: name, Floor: w.settled.Floor(), InFlight: len(w.inFlight)}
	if w.end > s.Floor {
		s.Backlog = w.end - s.Floor - w.settled.Above()
	}
	return s
}

type byOffset []returned

func (h byOffset) Len() int           { return len(h) }
func (h byOffset) Less(i, j int) bool { return h[i].Offset < h[j].Offset }
func (h byOffset) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byOffset) Push(x any)        { *h = append(*h, x.(returned)) } //nolint:forcetypeassert // the heap holds nothing else
func (h *byOffset) Pop() any          { return pop((*[]returned)(h)) }

type byDue []returned

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byDue) Push(x any)        { *h = append(*h, x.(returned)) } //nolint:forcetypeassert // the heap holds nothing else
func (h *byDue) Pop() any          { return pop((*[]returned)(h)) }

func pop(h *[]returned) returned {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
