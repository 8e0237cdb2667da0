package message

// Tally counts, for each message in flight in a lane (an origin), the parts that are
// not settled. A part is one descendant of the origin on one sink: a fan-out to three
// sinks makes three parts of one, a split into five makes five of one.
//
// An origin is done when its last part is settled, and never before: that is what
// lets its offset be acknowledged without losing a descendant, however often parts
// fail and are tried again. Tally is not safe for concurrent use.
type Tally struct {
	open []int // by origin
	free []int
}

// Begin opens an origin with one part and returns its index, which stays its own
// until the origin is done.
func (t *Tally) Begin() int {
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		t.open[i] = 1
		return i
	}
	t.open = append(t.open, 1)
	return len(t.open) - 1
}

// Fork turns one open part of an origin into n open parts. It panics when the origin
// is done or n is less than one, because either would lose a message.
func (t *Tally) Fork(i, n int) {
	if t.open[i] == 0 || n < 1 {
		panic("message: fork of a settled origin")
	}
	t.open[i] += n - 1
}

// Settle closes one part of an origin: it was delivered, dropped for a stated reason,
// or stored as a dead letter; there is no other way out. When it was the last, done is
// true and the index is free again. It panics when no part is open, because settling
// twice would acknowledge a sibling too early.
func (t *Tally) Settle(i int) (done bool) {
	if t.open[i] == 0 {
		panic("message: part settled twice")
	}
	t.open[i]--
	if t.open[i] > 0 {
		return false
	}
	t.free = append(t.free, i)
	return true
}

// Parts returns the number of open parts of an origin.
func (t *Tally) Parts(i int) int { return t.open[i] }

// Open returns the number of origins that are not done.
func (t *Tally) Open() int { return len(t.open) - len(t.free) }
