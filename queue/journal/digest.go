package journal

import (
	"math"
	"sort"
	"time"

	"github.com/linkspan/linkspan/queue"
)

// digest says what a topic's messages in a block are like, so that a reader that looks
// for some of them need not read the others.
type digest struct {
	// newest is when the last of them was taken, in seconds since 1970, rounded down.
	newest uint32
	// due is before the earliest of them may be delivered, in seconds since 1970; 0 when
	// one of them need not wait.
	due uint32
	// lanes has a bit for each priority that occurs.
	lanes uint16
}

// note adds a message that was taken at a time.
func (d *digest) note(r *record, at int64) {
	due := uint32(0)
	if r.later {
		due = seconds(notBefore(r.body))
	}
	if d.lanes == 0 || due < d.due {
		d.due = due
	}
	d.lanes |= 1 << min(r.priority, 15)
	d.newest = max(d.newest, seconds(time.Unix(0, at)))
}

// seconds clips a time to what a digest can say.
func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// delayed returns the offset behind a block of which no message may be delivered yet,
// and when the first one may, in nanoseconds since 1970.
func (x *index) delayed(t *topic, offset uint64, now time.Time) (end uint64, due int64, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	i := t.log.at(offset)
	if i < 0 || int64(t.log.entries[i].due) <= now.Unix() {
		return 0, 0, false
	}
	_, end = t.log.span(i, i+1)
	return end, int64(t.log.entries[i].due) * int64(time.Second), true
}

// at returns the entry in which an offset is, or -1.
func (l *topicLog) at(offset uint64) int {
	if offset >= l.end {
		return -1
	}
	return sort.Search(len(l.entries), func(i int) bool { return l.entries[i].first > offset }) - 1
}

// lane returns a place from which on the messages of a priority have to be looked for:
// offsets from first up to end are in one block. Without any, first is end.
func (x *index) lane(t *topic, priority uint8, from uint64) (first, end uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := &t.log
	for i := max(l.at(from), 0); i < len(l.entries) && from < l.end; i++ {
		if l.entries[i].lanes&(1<<priority) != 0 {
			first, end = l.span(i, i+1)
			return max(first, from), max(end, from)
		}
	}
	return l.end, l.end
}

// since returns the first offset of the first block that has a message taken at or
// after t.
func (x *index) since(t *topic, at time.Time) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := &t.log
	from := seconds(at)
	for i := range l.entries { // clocks are set back, so this is no order to search in
		if l.entries[i].newest >= from {
			return l.entries[i].first
		}
	}
	return l.end
}

// place finds the offset that a start means.
func (t *topic) place(s queue.Start) (uint64, error) {
	end := t.e.index.end(t)
	switch {
	case s.Latest:
		return end, nil
	case s.Time.IsZero():
		return min(s.Offset, end), nil
	}
	c := cursor{topic: t}
	for o := t.e.index.since(t, s.Time); o < end; o++ {
		switch p, err := c.find(o); {
		case err == errGone: //nolint:errorlint // it is never wrapped
		case err != nil:
			return 0, err
		case !time.Unix(0, p.time).Before(s.Time):
			return o, nil
		}
	}
	return end, nil
}
