package message

// Outcome is what became of one part of a message. Each message of a lane ends in
// exactly one outcome per part; there is no other way out.
type Outcome uint8

// The outcomes, from the mildest to the most severe.
const (
	// Pending: not settled yet.
	Pending Outcome = iota
	// Delivered: a sink took responsibility.
	Delivered
	// Dropped: a filter or route decided to let it go, for a stated reason.
	Dropped
	// DeadLettered: the dead letter channel holds the original.
	DeadLettered
)

// String returns the word used in metrics and logs.
func (o Outcome) String() string {
	switch o {
	case Delivered:
		return "delivered"
	case Dropped:
		return "dropped"
	case DeadLettered:
		return "dead_lettered"
	default:
		return "pending"
	}
}

// Tally counts, for each message in flight in a lane (an origin), the parts that are
// not settled. A part is one descendant of the origin on one sink: a fan-out to three
// sinks makes three parts of one, a split into five makes five of one.
//
// An origin is done when its last part is settled, and never before: that is what
// lets its offset be acknowledged without losing a descendant, however often parts
// fail and are tried again. Tally is not safe for concurrent use.
type Tally struct {
	origins []origin
	free    []int
}

type origin struct {
	open  int
	worst Outcome
}

// Begin opens an origin with one part and returns its index, which stays its own
// until the origin is done.
func (t *Tally) Begin() int {
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		t.origins[i] = origin{open: 1}
		return i
	}
	t.origins = append(t.origins, origin{open: 1})
	return len(t.origins) - 1
}

// Fork turns one open part of an origin into n open parts. It panics when the origin
// is done or n is less than one, because either would lose a message.
func (t *Tally) Fork(i, n int) {
	o := &t.origins[i]
	if o.open == 0 || n < 1 {
		panic("message: fork of a settled origin")
	}
	o.open += n - 1
}

// Settle closes one part of an origin. When it was the last, done is true and worst
// is the most severe outcome among all parts; the index is free again then. It panics
// when no part is open, because settling twice would acknowledge a sibling too early.
func (t *Tally) Settle(i int, outcome Outcome) (worst Outcome, done bool) {
	o := &t.origins[i]
	if o.open == 0 || outcome == Pending {
		panic("message: part settled twice")
	}
	o.open--
	o.worst = max(o.worst, outcome)
	if o.open > 0 {
		return Pending, false
	}
	t.free = append(t.free, i)
	return o.worst, true
}

// Parts returns the number of open parts of an origin.
func (t *Tally) Parts(i int) int { return t.origins[i].open }

// Open returns the number of origins that are not done.
func (t *Tally) Open() int { return len(t.origins) - len(t.free) }
