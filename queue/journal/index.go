package journal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"sync"

	"github.com/linkspan/linkspan/queue/internal/plant"
)

// index knows where the committed messages are: for each topic the blocks that have
// messages of it, with the first offset in each. Its memory grows with the blocks,
// not with the messages.
type index struct {
	mu       sync.RWMutex
	segments []*segment // live, by number; the last is the one that is written
	topics   map[uint32]*topic
	cache    cache

	loading sync.Mutex // one reader fetches a block, the others find it in the cache
}

// topicLog is a topic's part of the index.
type topicLog struct {
	entries []entry
	end     uint64 // the offset after the last committed message
	bytes   uint64 // of all messages so far
}

type entry struct {
	first uint64 // offset
	at    place  // of the block
	bytes uint64 // of the topic's messages before first
	digest
}

// gap is a range of offsets whose messages are lost.
type gap struct {
	topic      *topic
	first, end uint64
}

// activate makes a segment the one that is written.
func (x *index) activate(s *segment, epoch uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s.epoch, s.end, s.blocks = epoch, headerSize, nil
	x.segments = append(x.segments, s)
}

// add takes in a frame that is stable and takes size bytes at pos. It returns the
// topics that have more messages now, and the offsets that were skipped.
func (x *index) add(s *segment, pos, size int64, frame []byte, keep bool) (touched []*topic, gaps []gap) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(s.blocks); n == 0 || pos-blockStart(s, n-1) >= blockSize {
		s.blocks = append(s.blocks, uint32(pos/frameAlign))
	}
	at := placeOf(s.number, blockStart(s, len(s.blocks)-1))
	s.end = pos + size
	body := frame[headerSize : headerSize+frameBody(frame)]
	var t *topic
	for _, r := range records(body) {
		if r.kind != recordPublish {
			continue
		}
		if t == nil || t.id != r.id {
			if t = x.topics[r.id]; !slices.Contains(touched, t) {
				touched = append(touched, t)
			}
		}
		if r.offset < t.log.end {
			continue
		}
		if r.offset > t.log.end {
			gaps = append(gaps, gap{topic: t, first: t.log.end, end: r.offset})
		}
		t.log.add(&r, at, frameTime(frame))
		if r.later {
			t.delays.Store(true)
		}
	}
	if keep {
		x.cache.extend(at, pos-at.pos(), frame, size)
	}
	return touched, gaps
}

func (l *topicLog) add(r *record, at place, time int64) {
	n := len(l.entries)
	if n == 0 || l.entries[n-1].at != at {
		l.entries = append(l.entries, entry{first: r.offset, at: at, bytes: l.bytes})
		n++
	}
	l.entries[n-1].note(r, time)
	l.end = r.offset + 1
	l.bytes += uint64(len(r.body))
}

func blockStart(s *segment, i int) int64 { return int64(s.blocks[i]) * frameAlign }

// blockEnd returns where the block that starts at pos ends.
func blockEnd(s *segment, pos int64) int64 {
	i := sort.Search(len(s.blocks), func(i int) bool { return blockStart(s, i) > pos })
	if i == len(s.blocks) {
		return s.end
	}
	return blockStart(s, i)
}

// live returns the live segment of this number.
func (x *index) live(number uint64) *segment {
	i, ok := slices.BinarySearchFunc(x.segments, number, func(s *segment, n uint64) int {
		return int(int64(s.number) - int64(n))
	})
	if !ok {
		return nil
	}
	return x.segments[i]
}

// drop takes a segment out of the index, with what topics have in it: those messages
// are gone.
func (x *index) drop(s *segment) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.segments = slices.DeleteFunc(x.segments, func(o *segment) bool { return o == s })
	for _, t := range x.topics {
		i, j := t.log.within(s.number)
		if i < j {
			t.gone.add(t.log.span(i, j))
		}
		t.log.entries = slices.Delete(t.log.entries, i, j)
	}
	x.cache.drop(s.number)
}

// within returns which entries are in the segment.
func (l *topicLog) within(segment uint64) (i, j int) {
	search := func(p place) int {
		return sort.Search(len(l.entries), func(i int) bool { return l.entries[i].at >= p })
	}
	return search(placeOf(segment, 0)), search(placeOf(segment+1, 0))
}

// span returns the offsets from entry i up to entry j.
func (l *topicLog) span(i, j int) (first, end uint64) {
	first, end = l.entries[i].first, l.end
	if j < len(l.entries) {
		end = l.entries[j].first
	}
	return first, end
}

// settled reports whether nobody needs the segment any more.
func (x *index) settled(s *segment) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, t := range x.topics {
		if i, j := t.log.within(s.number); i < j && !t.free(i, j) {
			return false
		}
	}
	return true
}

func (x *index) topic(id uint32) *topic {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.topics[id]
}

func (x *index) addTopic(t *topic) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.topics[t.id] = t
}

func (x *index) removeTopic(t *topic) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.topics, t.id)
}

func (x *index) list() []*topic {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Values(x.topics))
}

// sealed returns the live segments that are not written any more.
func (x *index) sealed() []*segment {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.segments) == 0 {
		return nil
	}
	return slices.Clone(x.segments[:len(x.segments)-1])
}

// skip moves the end of a topic over offsets that are lost. It returns where it was.
func (x *index) skip(t *topic, end uint64) uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := t.log.end
	t.log.end = max(was, end)
	return was
}

// end returns the offset after the topic's last committed message.
func (x *index) end(t *topic) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return t.log.end
}

// size returns the end of a topic, the bytes from an offset on, to within a block, and
// the first offset that is there.
func (x *index) size(t *topic, from uint64) (end, size, first uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := &t.log
	if len(l.entries) == 0 {
		return l.end, 0, l.end
	}
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].first > from }) - 1
	return l.end, l.bytes - l.entries[max(i, 0)].bytes, l.entries[0].first
}

// view is what a reader holds of a block. It stays valid whatever happens.
type view struct {
	frames []byte
	run    track
}

// errGone means that no record of this offset is there.
var errGone = errors.New("the message is not there")

// view returns the block that should have the message, or errGone. When it had to be
// read and is damaged, bad says where and gaps what is missing.
func (x *index) view(t *topic, offset uint64) (v view, bad []damage, gaps []gap, err error) {
	x.mu.RLock()
	s, at, size := x.locate(t, offset)
	if s == nil {
		x.mu.RUnlock()
		return v, nil, nil, errGone
	}
	b := x.cache.get(at, size)
	if b != nil {
		v = b.view(t.id)
	}
	x.mu.RUnlock()
	if b != nil {
		return v, nil, nil, nil
	}
	return x.load(t, s, at, offset)
}

func (b *block) view(topic uint32) view {
	v := view{frames: b.frames}
	if r := b.runs[topic]; r != nil {
		v.run = *r
	}
	return v
}

// around returns which offsets are in the same block as this one.
func (x *index) around(t *topic, offset uint64) (first, end uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := &t.log
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].first > offset }) - 1
	if i < 0 {
		return offset, offset
	}
	return l.span(i, i+1)
}

// locate returns the block in which the offset must be, if anywhere.
func (x *index) locate(t *topic, offset uint64) (s *segment, at place, size int64) {
	entries := t.log.entries
	i := sort.Search(len(entries), func(i int) bool { return entries[i].first > offset }) - 1
	if i < 0 || offset >= t.log.end {
		return nil, 0, 0
	}
	at = entries[i].at
	if s = x.live(at.segment()); s == nil {
		return nil, 0, 0
	}
	return s, at, blockEnd(s, at.pos()) - at.pos()
}

// load reads a block from disk.
func (x *index) load(t *topic, s *segment, at place, offset uint64) (v view, bad []damage, gaps []gap, err error) {
	x.loading.Lock()
	defer x.loading.Unlock()
	x.mu.RLock()
	now, _, size := x.locate(t, offset)
	b := x.cache.get(at, size)
	if b != nil {
		v = b.view(t.id)
	}
	x.mu.RUnlock()
	switch {
	case now != s:
		return v, nil, nil, errGone
	case b != nil:
		return v, nil, nil, nil
	}
	data := make([]byte, size)
	_, err = s.file.ReadAt(data, at.pos())
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.live(s.number) != s {
		return v, nil, nil, errGone // freed meanwhile: what was read means nothing
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return v, nil, nil, fmt.Errorf("read segment: %w", err)
	}
	b, bad = parseBlock(at, data, s.epoch)
	x.cache.put(b)
	if len(bad) > 0 {
		gaps = x.missing(b, size)
	}
	return b.view(t.id), bad, gaps, nil
}

// cache keeps recent blocks: those that were just written, and those that were just
// read. The oldest goes first. The index guards it.
type cache struct {
	limit  int64
	bytes  int64
	blocks map[place]*block
	order  []*block
}

func newCache(limit int64) cache { return cache{limit: limit, blocks: map[place]*block{}} }

// get returns the block if it is there and stands for all of its size on disk.
func (c *cache) get(at place, size int64) *block {
	if b := c.blocks[at]; b != nil && (b.covered == size || plant.On(plant.StaleCache)) {
		return b
	}
	return nil
}

// extend adds a frame that was just written at a distance from the block's start.
func (c *cache) extend(at place, distance int64, frame []byte, size int64) {
	b := c.blocks[at]
	switch {
	case size > c.limit/2 || b == nil && distance != 0 || b != nil && b.covered != distance:
		return
	case b == nil:
		b = &block{at: at, runs: map[uint32]*track{}}
		c.blocks[at] = b
		c.order = append(c.order, b)
	}
	before := cap(b.frames)
	b.append(frame, size)
	c.bytes += int64(cap(b.frames) - before)
	c.evict()
}

func (c *cache) put(b *block) {
	if int64(cap(b.frames)) > c.limit/2 {
		return
	}
	c.remove(c.blocks[b.at])
	c.blocks[b.at] = b
	c.order = append(c.order, b)
	c.bytes += int64(cap(b.frames))
	c.evict()
}

func (c *cache) evict() {
	for c.bytes > c.limit && len(c.order) > 1 {
		c.remove(c.order[0])
	}
}

func (c *cache) remove(b *block) {
	if b == nil || c.blocks[b.at] != b {
		return
	}
	delete(c.blocks, b.at)
	c.bytes -= int64(cap(b.frames))
	i := slices.Index(c.order, b)
	c.order = slices.Delete(c.order, i, i+1)
}

func (c *cache) drop(segment uint64) {
	for _, b := range slices.Clone(c.order) {
		if b.at.segment() == segment {
			c.remove(b)
		}
	}
}
