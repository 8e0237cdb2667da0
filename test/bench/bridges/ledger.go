package main

import (
	"sync"
	"time"
)

// ledger holds what arrives against what was sent.
type ledger struct {
	work    *work
	sources int // partitions of the source; an order's is its number modulo this
	want    int
	done    chan struct{} // closed when every order has arrived

	mu   sync.Mutex
	seen []bool
	last map[lane]int
	got  counts
	at   time.Time // of the last arrival
}

// lane is what has an order: what came from one partition into one partition.
type lane struct {
	destination string
	from, to    int
}

// counts are numbers of orders.
type counts struct{ arrived, twice, disordered, wrong int }

func newLedger(w *work, sources int) *ledger {
	return &ledger{
		work: w, sources: sources, want: w.kept(), done: make(chan struct{}),
		seen: make([]bool, w.n), last: map[lane]int{}, at: time.Now(),
	}
}

// checked is which share of the orders is decoded and compared. The others are only
// counted, because this program and the bridge share the machine.
const checked = 16

// take enters an order that has arrived in a partition of a destination.
func (l *ledger) take(destination string, partition int, payload []byte) {
	seq := seqOf(payload)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = time.Now()
	if seq < 0 || seq >= l.work.n {
		l.got.wrong++
		return
	}
	t := l.work.of(seq)
	if !t.kept || t.Channel != destination || seq/len(l.work.templates)%checked == 0 && !t.right(payload) {
		l.got.wrong++
		return
	}
	if l.seen[seq] {
		l.got.twice++
		return
	}
	l.seen[seq] = true
	way := lane{destination, seq % l.sources, partition}
	if last, ok := l.last[way]; ok && seq < last {
		l.got.disordered++
	} else {
		l.last[way] = seq
	}
	if l.got.arrived++; l.got.arrived == l.want {
		close(l.done)
	}
}

// state returns the counts so far, and how long nothing has arrived.
func (l *ledger) state() (counts, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got, time.Since(l.at)
}
