package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// topicCopy is the part of a copy that belongs to one topic.
type topicCopy struct {
	t        *topic
	old      []entry // what is copied
	span     gap     // its offsets
	bytes    uint64
	sources  []*segment   // topic segments that are copied whole
	released delivery.Set // what nobody needs
	expired  []gap        // what is not kept any more beside that
	w        *topicWriter
	done     bool // it is in the place of what was copied
}

// copySegment copies what is needed of a journal segment. The segment leaves the next
// checkpoint, because no topic has anything in it any more.
// It is false when something else changed meanwhile: then it is for another time.
func (e *Engine) copySegment(ctx context.Context, s *segment) (done bool, err error) {
	plan := e.plan(s)
	for len(plan) > 0 {
		n, size := 0, uint64(0)
		for n < len(plan) && (n == 0 || size+plan[n].bytes <= copyGroup) {
			size += plan[n].bytes
			n++
		}
		if !e.hasRoom(int64(size)) {
			return false, message.ErrDiskFull
		}
		if err := e.copyTopics(ctx, plan[:n]); err != nil {
			return false, err
		}
		plan = plan[n:]
	}
	x := &e.index
	x.mu.Lock()
	done = true
	for t := range x.users(s) {
		i, j := t.log.within(s)
		done = done && i == j
	}
	s.copied = done
	x.mu.Unlock()
	e.touch()
	return done, nil
}

// plan says what is to be copied of a journal segment.
func (e *Engine) plan(s *segment) (plan []*topicCopy) {
	x := &e.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	for t := range x.users(s) {
		l := &t.log
		i, j := l.within(s)
		if i == j {
			continue
		}
		c := &topicCopy{t: t}
		c.bytes = l.before(j) - l.entries[i].bytes
		for i > 0 {
			p := x.live(l.entries[i-1].at)
			if p == nil || p.topic == nil || p.end > smallSegment || p.end > max(int64(c.bytes), smallFile) {
				break
			}
			at, end := l.within(p)
			if end != i {
				break
			}
			i = at
			c.sources, c.bytes = append(c.sources, p), c.bytes+uint64(p.end)
		}
		c.take(i, j)
		if t.free(i, j) {
			c.expired = []gap{c.span}
		}
		plan = append(plan, c)
	}
	return plan
}

// take notes which entries are copied.
func (c *topicCopy) take(i, j int) {
	l := &c.t.log
	c.old = slices.Clone(l.entries[i:j])
	first, end := l.span(i, j)
	c.span = gap{topic: c.t, first: first, end: end}
}

// before returns the topic's bytes before entry j.
func (l *topicLog) before(j int) uint64 {
	if j < len(l.entries) {
		return l.entries[j].bytes
	}
	return l.bytes
}

// copyTopics copies the parts of some topics, each to a segment of its own, reading
// every block once.
func (e *Engine) copyTopics(ctx context.Context, group []*topicCopy) (err error) {
	defer func() {
		for _, c := range group {
			if c.w != nil {
				err = errors.Join(err, c.w.abandon())
			}
		}
	}()
	if err := e.beginCopies(ctx, group); err != nil {
		return err
	}
	places, readers := sources(group)
	for _, at := range places {
		if err := e.copyBlock(at, readers[at]); err != nil {
			return err
		}
	}
	for _, c := range group {
		if err := e.finishCopy(c); err != nil {
			return err
		}
	}
	return nil
}

// sources returns the blocks to be read, those of topic segments first, because they
// have the older messages, and who needs them.
func sources(group []*topicCopy) (places []place, readers map[place][]*topicCopy) {
	readers = map[place][]*topicCopy{}
	for _, c := range group {
		for _, x := range c.old {
			if readers[x.at] == nil {
				places = append(places, x.at)
			}
			readers[x.at] = append(readers[x.at], c)
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		if a.inTopic() || b.inTopic() {
			return order(b.inTopic(), a.inTopic())
		}
		return order(a > b, b > a)
	})
	return places, readers
}

// beginCopies begins a topic segment for each of the topics.
func (e *Engine) beginCopies(ctx context.Context, group []*topicCopy) error {
	ids := make([]uint32, len(group))
	for i, c := range group {
		ids[i] = c.t.id
	}
	keys, err := e.newKeys(ctx, ids...)
	if err != nil {
		return err
	}
	for i, c := range group {
		c.released = c.t.released()
		for _, g := range c.expired {
			c.released.AddRange(g.first, g.end)
		}
		e.mu.Lock()
		number := e.nextStaged
		e.nextStaged++
		e.mu.Unlock()
		if c.w, err = e.newTopicWriter(c.t, number, c.span.first, keys[i]); err != nil {
			return err
		}
	}
	return nil
}

// order returns 1, -1 or 0.
func order(more, less bool) int {
	switch {
	case more == less:
		return 0
	case more:
		return 1
	}
	return -1
}

// copyBlock reads a block and adds its messages to the copies that need it.
func (e *Engine) copyBlock(at place, readers []*topicCopy) error {
	if e.stopping() {
		return errStopping
	}
	x := &e.index
	x.mu.RLock()
	s := x.live(at)
	size := int64(0)
	if s != nil {
		size = blockEnd(s, at.pos()) - at.pos()
	}
	x.mu.RUnlock()
	if s == nil {
		return nil // nobody needs it any more
	}
	b, bad, err := x.fetch(s, at, size)
	switch {
	case errors.Is(err, errMoved):
		return nil
	case err != nil:
		return err
	}
	if len(bad) > 0 {
		e.report(bad)
		e.loseFrom(b, size)
	}
	for _, c := range readers {
		if err := c.add(b); err != nil {
			return err
		}
	}
	return nil
}

// add copies the topic's messages of a block.
func (c *topicCopy) add(b *block) error {
	if b.runs[c.t.id] == nil {
		return nil
	}
	run := *b.runs[c.t.id]
	run.clip(c.within(b.at))
	for i, at := range run.spots {
		offset := run.first + uint64(i)
		if at.record == 0 || offset < c.w.end || c.released.Has(offset) {
			continue
		}
		frame := b.frames[at.frame:]
		if err := c.w.add(b.frames[at.record:], binary.LittleEndian.Uint64(frame[16:]), frameTime(frame)); err != nil {
			return err
		}
	}
	return nil
}

// within returns which offsets are in a block that is copied.
func (c *topicCopy) within(at place) (first, end uint64) {
	i := slices.IndexFunc(c.old, func(n entry) bool { return n.at == at })
	if i+1 < len(c.old) {
		return c.old[i].first, c.old[i+1].first
	}
	return c.old[i].first, c.span.end
}

// finishCopy makes a copy stable and puts it in the place of what was copied.
func (e *Engine) finishCopy(c *topicCopy) error {
	w := c.w
	w.skip(c.span.end)
	s, err := w.finish()
	if err != nil {
		return err
	}
	for _, g := range c.missing() {
		e.lose(g)
	}
	if c.done = e.exchange(c, s); !c.done && s != nil {
		e.mu.Lock()
		e.replaced = append(e.replaced, s) // no checkpoint names it
		e.mu.Unlock()
	}
	return nil
}

// exchange puts a copy in the place of what was copied, if that is all still there.
func (e *Engine) exchange(c *topicCopy, s *segment) bool {
	x := &e.index
	e.mu.Lock()
	x.mu.Lock()
	i, ok := c.find(x)
	// A seek may have asked for messages that nobody needed when the copy began.
	ok = ok && !slices.ContainsFunc(c.w.holes, func(h gap) bool { return len(c.t.needed(h.first, h.end)) > 0 })
	if ok {
		c.replace(i)
		for _, p := range c.sources {
			x.remove(p)
		}
		if s != nil {
			x.staged[s.number] = s
		}
		e.replaced = append(e.replaced, c.sources...)
		for _, h := range c.w.holes {
			c.t.gone.add(h.first, h.end)
		}
	}
	x.mu.Unlock()
	e.mu.Unlock()
	return ok
}

// missing returns the offsets that somebody needs and that were not found.
func (c *topicCopy) missing() (lost []gap) {
	for _, h := range c.w.holes {
		for o := h.first; o < h.end; o++ {
			if !c.released.Has(o) {
				lost = appendGap(lost, gap{topic: c.t, first: o, end: o + 1})
			}
		}
	}
	return lost
}

// find returns where the entries are that were copied.
func (c *topicCopy) find(x *index) (int, bool) {
	if x.topics[c.t.id] != c.t {
		return 0, false
	}
	l := &c.t.log
	i := slices.IndexFunc(l.entries, func(n entry) bool { return n.at == c.old[0].at })
	if i < 0 || len(l.entries)-i < len(c.old) {
		return 0, false
	}
	same := func(a, b entry) bool { return a.at == b.at && a.first == b.first }
	if !slices.EqualFunc(l.entries[i:i+len(c.old)], c.old, same) {
		return 0, false
	}
	_, end := l.span(i, i+len(c.old))
	return i, end == c.span.end
}

// replace exchanges the entries from i on for those of the copy.
func (c *topicCopy) replace(i int) {
	l := &c.t.log
	j := i + len(c.old)
	next := l.before(j)
	base := next - min(c.w.bytes, next)
	cut := base - min(base, l.entries[i].bytes) // what was left out
	for k := range i {
		l.entries[k].bytes += cut
	}
	for k := range c.w.entries {
		c.w.entries[k].bytes += base
	}
	l.entries = slices.Replace(l.entries, i, j, c.w.entries...)
}
