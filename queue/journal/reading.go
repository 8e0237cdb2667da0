package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"

	"github.com/linkspan/linkspan/queue"
)

// view is what a reader holds of a block. It stays valid whatever happens.
type view struct {
	frames []byte
	run    track
}

// errGone means that no record of this offset is there.
var errGone = errors.New("the message is not there")

// errMoved means that a block was copied to another place while it was being read.
var errMoved = errors.New("the block was moved")

// view returns the block that should have the message, or errGone. When it had to be
// read and is damaged, bad says where and gaps what is missing.
func (x *index) view(t *topic, offset uint64) (v view, bad []damage, gaps []gap, err error) {
	for {
		x.mu.RLock()
		s, at, size := x.locate(t, offset)
		var b *block
		if s != nil {
			if b = x.cache.get(at, size); b != nil {
				v = b.view(t.id)
			}
		}
		x.mu.RUnlock()
		switch {
		case s == nil:
			return v, nil, nil, errGone
		case b != nil:
			return v, nil, nil, nil
		}
		if v, bad, gaps, err = x.load(t, s, at, offset); !errors.Is(err, errMoved) {
			return v, bad, gaps, err
		}
	}
}

func (b *block) view(topic uint32) view {
	v := view{frames: b.frames}
	if r := b.runs[topic]; r != nil {
		v.run = *r
	}
	return v
}

// locate returns the block in which the offset must be, if anywhere.
func (x *index) locate(t *topic, offset uint64) (s *segment, at place, size int64) {
	entries := t.log.entries
	i := sort.Search(len(entries), func(i int) bool { return entries[i].first > offset }) - 1
	if i < 0 || offset >= t.log.end {
		return nil, 0, 0
	}
	at = entries[i].at
	if s = x.live(at); s == nil {
		return nil, 0, 0
	}
	return s, at, blockEnd(s, at.pos()) - at.pos()
}

// load reads a block from disk.
func (x *index) load(t *topic, s *segment, at place, offset uint64) (v view, bad []damage, gaps []gap, err error) {
	x.loading.Lock()
	defer x.loading.Unlock()
	x.mu.RLock()
	now, where, size := x.locate(t, offset)
	b := x.cache.get(where, size)
	if b != nil {
		v = b.view(t.id)
	}
	x.mu.RUnlock()
	switch {
	case now != s || where != at:
		return v, nil, nil, errMoved
	case b != nil:
		return v, nil, nil, nil
	}
	if b, bad, err = x.fetch(s, at, size); err != nil {
		return v, nil, nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.holds(s) {
		return v, nil, nil, errMoved
	}
	x.cache.put(b)
	if len(bad) > 0 {
		gaps = x.missing(b, size)
	}
	return b.view(t.id), bad, gaps, nil
}

// fetch reads and verifies a block. The error is errMoved when the segment was freed
// meanwhile, because what was read means nothing then.
func (x *index) fetch(s *segment, at place, size int64) (*block, []damage, error) {
	data := make([]byte, size)
	n, err := x.read(s, data, at.pos())
	x.mu.RLock()
	live := x.holds(s)
	x.mu.RUnlock()
	switch {
	case !live:
		return nil, nil, errMoved
	case errors.Is(err, fs.ErrClosed):
		return nil, nil, fmt.Errorf("read segment: %w", queue.ErrClosed)
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, nil, fmt.Errorf("read segment: %w", err)
	}
	clear(data[n:]) // what is missing at the end is damage
	if s.topic == nil {
		b, bad := parseBlock(at, data, s.epoch, s.aead)
		return b, bad, nil
	}
	aead, err := x.cipher(s)
	if err != nil {
		return nil, nil, fmt.Errorf("read topic segment %s: %w", s.path(), err)
	}
	b, bad := x.codec.parse(s, at, data, aead)
	return b, bad, nil
}

// read reads from a segment. A file that is not there reads as an empty one.
func (x *index) read(s *segment, data []byte, pos int64) (int, error) {
	if s.topic == nil {
		return s.file.ReadAt(data, pos)
	}
	f, err := x.files.open(s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, io.EOF
	case err != nil:
		return 0, err
	}
	defer x.files.release(f)
	return f.file.ReadAt(data, pos)
}
