package delivery

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// Receive waits for at least one message and returns up to limit of them.
func (w *Window) Receive(ctx context.Context, stop <-chan struct{}, limit int, store Store) (got []queue.Record, err error) {
	defer func() {
		if err != nil && !plant.On(plant.LostWakeup) {
			w.signal() // who gives up may have taken the token that another one waits for
		}
	}()
	var space [64]Handout
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		got, dead, due, err := w.round(ctx, stop, limit, store, space[:0])
		if err != nil {
			return nil, err
		}
		if err := w.retire(ctx, store, dead); err != nil {
			w.GiveBack(0, got)
			return nil, err
		}
		switch {
		case len(got) > 0:
			return got, nil
		case due == again:
			continue
		}
		if err := w.wait(ctx, stop, due); err != nil {
			return nil, err
		}
	}
}

// Values of due besides a time: nothing will become due by itself; try at once.
const (
	never = 0
	again = -1
)

// round hands out what is there, reads it, and sorts out what a receiver does not get.
func (w *Window) round(ctx context.Context, stop <-chan struct{}, limit int, store Store, space []Handout) (got []queue.Record, dead []Dead, due int64, err error) {
	if w.inTurn() {
		select {
		case w.turn <- struct{}{}:
			defer func() { <-w.turn }()
		case <-ctx.Done():
			return nil, nil, never, ctx.Err()
		}
	}
	t, err := w.take(stop, limit, space)
	if err != nil {
		return nil, nil, never, err
	}
	if len(t.failed) > 0 {
		if err := store.Log(t.failed); err != nil {
			return nil, nil, never, err
		}
	}
	if len(t.handouts) == 0 {
		if t.refill {
			return nil, nil, again, w.refill(store, t.lane)
		}
		return nil, nil, t.due, nil
	}
	records, err := store.Fetch(t.handouts)
	if err != nil {
		w.giveBack(0, 1, offsetsOf(t.handouts))
		return nil, nil, never, err
	}
	got, dead = w.admit(records)
	return got, dead, again, nil
}

// inTurn reports whether receivers take turns: two that fetch at the same time could
// otherwise admit two messages of a key in the wrong order.
func (w *Window) inTurn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.o.Order == queue.ByKey
}

func offsetsOf(handouts []Handout) []uint64 {
	out := make([]uint64, len(handouts))
	for i := range handouts {
		out[i] = handouts[i].Offset
	}
	return out
}

// refill reads on in the messages of a priority.
func (w *Window) refill(store Store, priority uint8) error {
	w.mu.Lock()
	if int(priority) >= len(w.lanes) {
		w.mu.Unlock()
		return nil
	}
	from := w.lanes[priority].cursor
	w.mu.Unlock()
	offsets, next, err := store.Lane(priority, from)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Another receiver may have been faster, or a seek may have moved the place.
	if int(priority) < len(w.lanes) && w.lanes[priority].cursor == from && len(w.lanes[priority].pending) == 0 {
		w.lanes[priority] = lane{cursor: next, pending: offsets}
	}
	return nil
}

// retire moves away what nobody gets. What finds no room comes again later.
func (w *Window) retire(ctx context.Context, store Store, dead []Dead) error {
	if len(dead) == 0 {
		return nil
	}
	err := store.Retire(ctx, dead)
	if err != nil {
		delay := time.Duration(0)
		if errors.Is(err, message.ErrDiskFull) || errors.Is(err, queue.ErrHeld) {
			delay, err = retireAgain, nil
		}
		for _, d := range dead {
			w.giveBack(delay, 1, []uint64{d.Record.Offset})
		}
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range dead {
		if d.Expired {
			w.expired++
		} else {
			w.deadLettered++
		}
	}
	return nil
}

// wait returns when it is worth trying again.
func (w *Window) wait(ctx context.Context, stop <-chan struct{}, due int64) error {
	var later <-chan time.Time
	if due != never {
		t := time.NewTimer(min(max(time.Duration(due-w.now().UnixNano()), 0), tick))
		defer t.Stop()
		later = t.C
	}
	select {
	case <-w.token:
	case <-later:
	case <-stop:
		return queue.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// taken is what one look at the window gave.
type taken struct {
	handouts []Handout
	failed   []Failed // timed out since the last look
	due      int64    // when the next message becomes due, or never
	refill   bool     // lane has to be read on before anything can be handed out
	lane     uint8
}

// take hands out what is there.
func (w *Window) take(stop <-chan struct{}, limit int, dst []Handout) (t taken, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.open || w.stop != stop {
		return t, queue.ErrClosed
	}
	w.wake()
	t.failed, w.timedOut = w.timedOut, nil
	for room := min(limit, w.o.MaxInFlight-len(w.inFlight)); room > 0; room-- {
		next, ok := w.next(&t)
		if !ok {
			break
		}
		next.delivery++
		f := flight{delivery: next.delivery, lane: next.lane}
		if w.o.AckTimeout > 0 {
			f.deadline = w.now().Add(w.o.AckTimeout).UnixNano()
			heap.Push(&w.leases, item{offset: next.offset, due: f.deadline})
		}
		w.inFlight[next.offset] = f
		dst = append(dst, Handout{Offset: next.offset, Delivery: int(next.delivery), Attempt: int(w.failed[next.offset].Attempts) + 1})
	}
	w.skipSettled()
	t.handouts = dst
	free := len(w.inFlight) < w.o.MaxInFlight
	if free && (len(w.ready) > 0 || w.hasNew() || t.refill && len(dst) > 0) {
		w.signal()
	}
	t.due = w.nextDue(free)
	return t, nil
}

// hasNew reports whether there is something that was never handed out.
func (w *Window) hasNew() bool {
	if w.blocked() {
		return false
	}
	if w.lanes == nil {
		return w.cursor < w.end
	}
	for i := range w.lanes {
		if len(w.lanes[i].pending) > 0 {
			return true
		}
	}
	return false
}

// nextDue returns when the next message becomes due. Without room for it only a
// time-out can change anything.
func (w *Window) nextDue(free bool) int64 {
	due := int64(never)
	earlier := func(at int64) {
		if due == never || at < due {
			due = max(at, 1)
		}
	}
	if len(w.leases) > 0 {
		earlier(w.leases[0].due)
	}
	if free && len(w.delayed) > 0 {
		earlier(w.delayed[0].due)
	}
	if free && len(w.runs) > 0 {
		earlier(w.runs[0].due)
	}
	return due
}

// wake moves what has become due to where it is handed out from.
func (w *Window) wake() {
	if len(w.delayed)+len(w.runs)+len(w.leases) == 0 {
		return
	}
	now := w.now().UnixNano()
	for len(w.delayed) > 0 && w.delayed[0].due <= now {
		heap.Push(&w.ready, heap.Pop(&w.delayed))
	}
	for len(w.runs) > 0 && w.runs[0].due <= now {
		r := heap.Pop(&w.runs).(span) //nolint:forcetypeassert // the heap holds nothing else
		for o := r.first; o < r.end; o++ {
			if !w.settled.Has(o) {
				heap.Push(&w.ready, item{offset: o})
			}
		}
	}
	for len(w.leases) > 0 && w.leases[0].due <= now {
		l := heap.Pop(&w.leases).(item) //nolint:forcetypeassert // the heap holds nothing else
		f, ok := w.inFlight[l.offset]
		switch {
		case !ok || f.deadline == 0:
		case f.deadline > now:
			heap.Push(&w.leases, item{offset: l.offset, due: f.deadline})
		default:
			w.timedOut = append(w.timedOut, w.fail(l.offset, queue.Backoff, now))
		}
	}
}

// next returns what is to be handed out next.
func (w *Window) next(t *taken) (item, bool) {
	for len(w.ready) > 0 && w.taken(w.ready[0].offset) {
		heap.Pop(&w.ready)
	}
	if w.lanes != nil && plant.On(plant.PriorityIgnored) {
		w.lanes = nil
	}
	if w.lanes != nil {
		return w.nextByPriority(t)
	}
	if len(w.ready) > 0 {
		return heap.Pop(&w.ready).(item), true //nolint:forcetypeassert // the heap holds nothing else
	}
	for !w.blocked() {
		w.skipSettled()
		if w.cursor >= w.end {
			break
		}
		w.cursor++
		// With order by key it is read all the same, because it holds up those behind it.
		if it := (item{offset: w.cursor - 1}); w.o.Order == queue.ByKey || !w.putOff(it) {
			return it, true
		}
	}
	return item{}, false
}

// taken reports whether an offset that comes again is settled, or was faster in another
// way: after a clock was set back it may wait twice.
func (w *Window) taken(o uint64) bool {
	_, out := w.inFlight[o]
	return out || w.settled.Has(o)
}

// blocked reports whether too much waits for something new to be looked at.
func (w *Window) blocked() bool { return w.keys.waiting >= maxWaiting || len(w.failed) >= maxFailed }

// putOff delays a message that failed before this opening and is not due yet.
func (w *Window) putOff(it item) bool {
	f, ok := w.failed[it.offset]
	if !ok || f.Due <= w.now().UnixNano() {
		return false
	}
	it.due = f.Due
	heap.Push(&w.delayed, it)
	return true
}

// nextByPriority looks into the lanes from the highest priority down. A lane that has
// not been read to its end may hide something more urgent, so it is read on first.
func (w *Window) nextByPriority(t *taken) (item, bool) {
	for p := Priorities - 1; p >= 0; p-- {
		l := &w.lanes[p]
		for len(l.pending) > 0 && !w.blocked() {
			if len(w.ready) > 0 && int(w.ready[0].lane) >= p && w.ready[0].offset < l.pending[0] {
				break
			}
			it := item{offset: l.pending[0], lane: uint8(p)}
			l.pending = l.pending[1:]
			if !w.settled.Has(it.offset) && !w.putOff(it) {
				return it, true
			}
		}
		if len(w.ready) > 0 && int(w.ready[0].lane) >= p {
			return heap.Pop(&w.ready).(item), true //nolint:forcetypeassert // the heap holds nothing else
		}
		if len(l.pending) == 0 && l.cursor < w.end && !w.blocked() {
			t.refill, t.lane = true, uint8(p)
			return item{}, false
		}
	}
	return item{}, false
}

func (w *Window) skipSettled() {
	w.cursor = max(w.cursor, w.settled.Floor())
	for w.cursor < w.end && w.settled.Above() > 0 && w.settled.Has(w.cursor) {
		w.cursor++
	}
}
