// Package delivery decides which message a subscription hands out next, and when: what
// is new, what was given back, what waits for its time or for an earlier message of its
// key, what is in flight, and what is settled. It is what the queue engines share, and
// it knows nothing of storage.
//
// Nothing is handed out twice at the same time, and nothing that is settled is handed
// out at all.
package delivery

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/linkspan/linkspan/queue"
)

// Store is what a window needs of the engine that it belongs to. Its methods are called
// without a lock.
type Store interface {
	// Fetch reads messages that are handed out, in their order. It leaves out those that
	// it could not read and has given back, put off or settled.
	Fetch(handouts []Handout) ([]queue.Record, error)
	// Lane returns offsets of messages with a priority, from an offset on, and where to
	// go on behind them. It returns as many as it finds without going far.
	Lane(priority uint8, from uint64) (offsets []uint64, next uint64, err error)
	// Retire settles messages that are not handed out after all, moving them to where
	// the subscription's options say.
	Retire(ctx context.Context, dead []Dead) error
	// Log keeps note of failed attempts.
	Log(failed []Failed) error
}

// Handout is an offset that a receiver now owns.
type Handout struct {
	Offset uint64
	// Delivery counts the handouts since the window was opened, from 1.
	Delivery int
	// Attempt is one more than the failed attempts.
	Attempt int
}

// Dead is a message that is not handed out any more.
type Dead struct {
	Record queue.Record
	// Expired: its time is over. Otherwise its attempts are used up.
	Expired bool
}

// Failed is a message whose attempts have failed so far.
type Failed struct {
	Offset   uint64
	Attempts uint32
	// Due is when it may come again, in nanoseconds since 1970.
	Due int64
}

// Priorities is the number of priorities.
const Priorities = 10

const (
	defaultInFlight = 256
	// maxWaiting bounds the messages that wait for their key, maxFailed those that failed
	// and are not settled: beyond it nothing new is handed out.
	maxWaiting = 10_000
	maxFailed  = 1 << 16
	// tick is how long a receiver sleeps at most while something is to become due, so
	// that a clock that was set forward is noticed.
	tick = time.Minute
	// retireAgain is the wait after a dead letter that found no room.
	retireAgain = time.Second
)

// Window is the state of one subscription. It is safe for concurrent use.
//
// Receivers that wait share one token, so that an event wakes one of them; who
// wakes and leaves something behind passes the token on.
type Window struct {
	token chan struct{}
	turn  chan struct{} // held from handing out to admitting, where order by key needs it
	now   func() time.Time

	mu      sync.Mutex
	settled Set
	end     uint64            // messages below it exist
	failed  map[uint64]Failed // with failed attempts, and not settled

	open     bool
	stop     chan struct{} // closed when this opening ends
	o        queue.SubOptions
	cursor   uint64 // the next offset that was never handed out
	lanes    []lane // instead of the cursor, for order by priority
	inFlight map[uint64]flight
	ready    byRank // given back and due
	delayed  byDue  // not due yet
	runs     runs   // not due yet as a whole
	leases   byDue
	keys     keyring
	timedOut []Failed // to be logged

	expired, deadLettered uint64
}

type flight struct {
	delivery int32
	lane     uint8
	deadline int64 // 0: none
}

// lane is the place in the messages of a priority.
type lane struct {
	cursor  uint64
	pending []uint64
}

// New returns a closed window over the messages below end. A nil clock is the
// system's.
func New(settled Set, end uint64, now func() time.Time) *Window {
	if now == nil {
		now = time.Now
	}
	return &Window{
		token: make(chan struct{}, 1), turn: make(chan struct{}, 1), now: now,
		settled: settled, end: end, failed: map[uint64]Failed{},
	}
}

// Open starts a new opening and returns a channel that is closed when it ends. It
// returns nil when the window is open.
func (w *Window) Open(o queue.SubOptions) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open {
		return nil
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	w.open, w.o, w.stop = true, o, make(chan struct{})
	w.restart()
	return w.stop
}

// restart begins at the floor again.
func (w *Window) restart() {
	w.cursor = w.settled.Floor()
	w.lanes = nil
	if w.o.Order == queue.ByPriority {
		w.lanes = make([]lane, Priorities)
		for i := range w.lanes {
			w.lanes[i].cursor = w.cursor
		}
	}
	w.inFlight = map[uint64]flight{}
	w.ready, w.delayed, w.runs, w.leases = nil, nil, nil, nil
	w.keys = newKeyring()
}

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
	w.restart()
}

// Seek replaces what is settled and starts from there.
func (w *Window) Seek(settled Set) {
	w.mu.Lock()
	w.settled = settled
	for o := range w.failed {
		if settled.Has(o) {
			delete(w.failed, o)
		}
	}
	w.restart()
	w.mu.Unlock()
	w.signal()
}

// Grow tells that the messages below end exist.
func (w *Window) Grow(end uint64) {
	w.mu.Lock()
	more := end > w.end
	w.end = max(w.end, end)
	w.mu.Unlock()
	if more {
		w.signal()
	}
}

// Wake lets a receiver look again.
func (w *Window) Wake() { w.signal() }

func (w *Window) signal() {
	select {
	case w.token <- struct{}{}:
	default:
	}
}

// Options returns the options of this opening.
func (w *Window) Options() queue.SubOptions {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.o
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
	s := queue.SubStats{
		Name: name, Floor: w.settled.Floor(), InFlight: len(w.inFlight),
		Delayed: len(w.delayed) + w.runs.count(), Waiting: w.keys.waiting,
		Expired: w.expired, DeadLettered: w.deadLettered,
	}
	if w.end > s.Floor {
		s.Backlog = w.end - s.Floor - w.settled.Above()
	}
	return s
}

// item is an offset that comes again.
type item struct {
	offset   uint64
	due      int64 // nanoseconds since 1970
	delivery int32 // how often it was handed out
	lane     uint8
}

type byRank []item

func (h byRank) Len() int { return len(h) }
func (h byRank) Less(i, j int) bool {
	if h[i].lane != h[j].lane {
		return h[i].lane > h[j].lane
	}
	return h[i].offset < h[j].offset
}
func (h byRank) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byRank) Push(x any)   { *h = append(*h, x.(item)) } //nolint:forcetypeassert // the heap holds nothing else
func (h *byRank) Pop() any     { return pop((*[]item)(h)) }

type byDue []item

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due < h[j].due }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byDue) Push(x any)        { *h = append(*h, x.(item)) } //nolint:forcetypeassert // the heap holds nothing else
func (h *byDue) Pop() any          { return pop((*[]item)(h)) }

// span is a run of offsets none of which is due before due.
type span struct {
	first, end uint64
	due        int64
}

type runs []span

func (h runs) Len() int           { return len(h) }
func (h runs) Less(i, j int) bool { return h[i].due < h[j].due }
func (h runs) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runs) Push(x any)        { *h = append(*h, x.(span)) } //nolint:forcetypeassert // the heap holds nothing else
func (h *runs) Pop() any          { return pop((*[]span)(h)) }

func (h runs) count() (n int) {
	for _, r := range h {
		n += int(r.end - r.first)
	}
	return n
}

func pop[T any](h *[]T) T {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

var (
	_ heap.Interface = (*byRank)(nil)
	_ heap.Interface = (*byDue)(nil)
	_ heap.Interface = (*runs)(nil)
)
