package message

// Outcome is what became of one part of a message. Each message of a lane ends in
// exactly one outcome per part; there is no other way out.
type Outcome uint8

// The outcomes.
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

// Tally counts, for each origin of a batch, the parts that are not settled. A
// part is one descendant of the origin on one sink: a fan-out to three sinks makes
// three parts of one, a split into five makes five.
//
// An origin is done when its last part is settled, and never before: that is what
// lets its offset be committed without losing a descendant. Tally is not safe for
// concurrent use.
type Tally struct {
	parts []tally
	open  int
}

type tally struct {
	open  int32
	worst Outcome
}

// Reset prepares the tally for n origins with one open part each.
func (t *Tally) Reset(n int) {
	if cap(t.parts) < n {
		t.parts = make([]tally, n)
	}
	t.parts = t.parts[:n]
	for i := range t.parts {
		t.parts[i] = tally{open: 1}
	}
	t.open = n
}

// Fork turns one open part of origin into n open parts. It panics when origin is
// done already or n is less than one, because either would lose a message.
func (t *Tally) Fork(origin, n int) {
	p := &t.parts[origin]
	if p.open == 0 || n < 1 {
		panic("message: fork of a settled origin")
	}
	p.open += int32(n) - 1 //nolint:gosec // a batch has far fewer parts
}

// Settle closes one part of origin and reports whether that was the last one. It
// panics when no part is open: settling twice would commit a sibling too early.
func (t *Tally) Settle(origin int, o Outcome) (done bool) {
	p := &t.parts[origin]
	if p.open == 0 || o == Pending {
		panic("message: part settled twice")
	}
	p.open--
	p.worst = max(p.worst, o)
	if p.open > 0 {
		return false
	}
	t.open--
	return true
}

// Done reports whether every part of origin is settled.
func (t *Tally) Done(origin int) bool { return t.parts[origin].open == 0 }

// Outcome returns the most severe outcome among the settled parts of origin.
func (t *Tally) Outcome(origin int) Outcome { return t.parts[origin].worst }

// Open returns the number of origins that are not done.
func (t *Tally) Open() int { return t.open }
