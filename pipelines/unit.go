package pipelines

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// unit is one message in flight: its record in the queue, and what is left to do.
type unit struct {
	record queue.Record
	// key orders the unit: units with equal, non-empty keys keep their order.
	key string
	// refused is set when the ordering key could not be computed.
	refused *message.Reason
	// size counts against the bytes in flight.
	size int64
	// origin is the unit's place in the lane's tally.
	origin int
	// parts are what is left to send, once the steps have run.
	parts []part
	// waits counts how often the unit was parked.
	waits  int
	parked bool
}

// part is one message for one sink that was not taken yet.
type part struct {
	sink int
	msg  message.Message
	// attempts counts the refusals of this message by this sink.
	attempts int
}

// place is where the units of one key wait in order.
type place struct {
	units []*unit
	due   time.Time
}

// parking holds the units that wait for another try, by key: a failing message holds
// up the messages of its key, and no others.
type parking struct {
	places map[string]*place
}

func (u *unit) place() string {
	if u.key != "" {
		return "k" + u.key
	}
	return "u" + strconv.FormatUint(u.record.Offset, 10)
}

// behind puts u behind the units of the same key, if some wait.
func (p *parking) behind(u *unit) bool {
	if u.key == "" || len(p.places) == 0 {
		return false
	}
	pl, ok := p.places[u.place()]
	if ok {
		pl.units = append(pl.units, u)
	}
	return ok
}

// park makes u wait until due, behind the units of its key that wait already.
func (p *parking) park(u *unit, due time.Time) {
	if p.places == nil {
		p.places = map[string]*place{}
	}
	key := u.place()
	pl, ok := p.places[key]
	if !ok {
		pl = &place{due: due}
		p.places[key] = pl
	}
	pl.units = append(pl.units, u)
}

// take removes and returns the units of the places that are due, in the order of
// their offsets.
func (p *parking) take(now time.Time) []*unit {
	var due []*unit
	for key, pl := range p.places {
		if !pl.due.After(now) {
			due = append(due, pl.units...)
			delete(p.places, key)
		}
	}
	slices.SortFunc(due, func(a, b *unit) int { return cmp.Compare(a.record.Offset, b.record.Offset) })
	return due
}

// next returns when the first place is due.
func (p *parking) next() (at time.Time, ok bool) {
	for _, pl := range p.places {
		if !ok || pl.due.Before(at) {
			at, ok = pl.due, true
		}
	}
	return at, ok
}
