package journal

import (
	"crypto/cipher"
	"iter"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"
)

// index knows where the committed messages are: for each topic the blocks that have
// messages of it, with the first offset in each. Its memory grows with the blocks,
// not with the messages.
type index struct {
	mu          sync.RWMutex
	segments    []*segment          // live, by number; the last is the one that is written
	copyThrough uint64              // journal segments up to this one are copied at once
	staged      map[uint64]*segment // those of topics, by number
	topics      map[uint32]*topic
	cache       cache
	files       files
	codec       codec
	cipher      func(*segment) (cipher.AEAD, error) // of a topic segment; nil when it is plain

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
	if n := len(x.segments); n > 0 {
		x.segments[n-1].sealed = time.Now()
	}
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
	at := s.at(blockStart(s, len(s.blocks)-1))
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

// holds reports whether the segment is live.
func (x *index) holds(s *segment) bool { return x.live(s.at(0)) == s }

// live returns the live segment of a place.
func (x *index) live(at place) *segment {
	if at.inTopic() {
		return x.staged[at.segment()]
	}
	number := at.segment()
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
	for _, g := range x.take(s) {
		g.topic.gone.add(g.first, g.end)
	}
}

// lose takes a segment out of the index that is not there. It returns what topics had in
// it.
func (x *index) lose(s *segment) []gap {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.take(s)
}

// take takes a segment out of the index. The lock is held.
func (x *index) take(s *segment) (spans []gap) {
	for t := range x.users(s) {
		if i, j := t.log.within(s); i < j {
			first, end := t.log.span(i, j)
			spans = append(spans, gap{topic: t, first: first, end: end})
			t.log.entries = slices.Delete(t.log.entries, i, j)
		}
	}
	x.remove(s)
	return spans
}

// remove takes a segment in which no topic has anything out of the index.
func (x *index) remove(s *segment) {
	if s.topic != nil {
		delete(x.staged, s.number)
	} else {
		x.segments = slices.DeleteFunc(x.segments, func(o *segment) bool { return o == s })
	}
	x.cache.drop(s)
}

// users yields the topics that may have messages in the segment.
func (x *index) users(s *segment) iter.Seq[*topic] {
	if s.topic == nil {
		return maps.Values(x.topics)
	}
	return func(yield func(*topic) bool) {
		if x.topics[s.topic.id] == s.topic {
			yield(s.topic)
		}
	}
}

// within returns which entries are in the segment. What is in topic segments comes
// before what is in the journal.
func (l *topicLog) within(s *segment) (i, j int) {
	if s.topic != nil {
		i = sort.Search(len(l.entries), func(i int) bool { return l.entries[i].first >= s.first })
		for i < len(l.entries) && l.entries[i].at.inTopic() && l.entries[i].at.segment() != s.number {
			i++ // its beginning is in another one too
		}
		for j = i; j < len(l.entries) && l.entries[j].at.inTopic() && l.entries[j].at.segment() == s.number; j++ {
		}
		return i, j
	}
	search := func(p place) int {
		return sort.Search(len(l.entries), func(i int) bool { return !l.entries[i].at.inTopic() && l.entries[i].at >= p })
	}
	return search(s.at(0)), search(placeOf(s.number+1, 0))
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
	for t := range x.users(s) {
		if i, j := t.log.within(s); i < j && !t.free(i, j) {
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

// closed returns all live segments that are not written any more.
func (x *index) closed() []*segment {
	list := x.sealed()
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.AppendSeq(list, maps.Values(x.staged))
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
