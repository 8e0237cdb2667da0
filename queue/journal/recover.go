package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// recovery rebuilds the state from the disk: the newest intact checkpoint, and every
// frame after its mark.
//
// What does not verify is suspect until the next intact frame judges it by its
// number. If that is the expected one, the suspect was a frame that was never
// finished, and an earlier start has gone on behind it. If it is a later one, frames
// that were stable are damaged. If there is no next frame, it is a torn tail.
type recovery struct {
	e        *Engine
	expected uint64 // number of the next frame
	prev     uint32
	suspects []suspect
	marked   bool // the last thing seen was the tail mark
	files    map[uint64]bool
	spares   []*segment
	replayed []*segment
	staged   map[uint64]topicFile // topic segments that no checkpoint names
	lost     []gap                // what was in segments that are not there

	badCheckpoints []string
	unfinished     []string
}

type suspect struct {
	seg      *segment
	pos, end int64
	known    bool // where it ends
	torn     bool // it looks like a frame of this segment
	like     frameHeader
}

// recoverState fills the engine from the disk.
func (e *Engine) recoverState(ctx context.Context) (*recovery, error) {
	cp, seq, damaged, err := loadCheckpoint(e.fs, e.dir, e.now)
	if err != nil {
		return nil, err
	}
	e.lastCheckpoint, e.found.Checkpoints = seq, len(damaged)
	if len(damaged) > 0 {
		e.found.Status = Damaged
	}
	blank := cp == nil
	if blank {
		cp = &checkpoint{number: 1}
	}
	r := &recovery{e: e, expected: cp.number, prev: cp.prev, badCheckpoints: damaged}
	if r.staged, r.unfinished, err = e.listStaged(); err != nil {
		return nil, err
	}
	e.nextStaged = max(cp.nextStaged, 1)
	for number := range r.staged {
		e.nextStaged = max(e.nextStaged, number+1)
	}
	if r.files, err = listSegments(e.fs, e.dir); err != nil {
		return nil, err
	}
	if err := r.install(ctx, cp); err != nil {
		return nil, err
	}
	if blank {
		if err := r.restore(); err != nil {
			return nil, err
		}
	}
	for _, number := range slices.Sorted(maps.Keys(r.files)) {
		if number < cp.mark.segment() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.segment(ctx, number, cp.mark); err != nil {
			return nil, err
		}
	}
	r.judgeTail()
	for _, g := range r.lost { // now that it is known what was settled
		e.lose(g)
	}
	e.committer.number, e.committer.prev = r.expected, r.prev
	for _, t := range e.index.list() {
		t.next = e.index.end(t)
	}
	return r, nil
}

func listSegments(fsys vfs.FS, dir string) (map[uint64]bool, error) {
	names, err := fsys.List(path.Join(dir, journalDir))
	if err != nil {
		return nil, fmt.Errorf("list segments: %w", err)
	}
	files := map[uint64]bool{}
	for _, name := range names {
		if number, ok := parseSegmentName(name); ok {
			files[number] = true
		}
	}
	return files, nil
}

func (e *Engine) openSegment(number uint64) (vfs.File, error) {
	open := e.fs.Open
	if e.o.ReadOnly {
		open = e.fs.OpenRead
	}
	f, err := open(path.Join(e.dir, journalDir, segmentName(number)))
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	return f, nil
}

// install puts the checkpoint's state in place.
func (r *recovery) install(ctx context.Context, cp *checkpoint) error {
	e := r.e
	e.lastTopic, e.lastSub = cp.lastTopic, cp.lastSub
	for _, t := range cp.topics {
		e.adopt(t)
	}
	for _, s := range cp.subs {
		e.register(s)
	}
	var missing []*segment
	for _, s := range cp.segments {
		f, err := e.openSegment(s.number)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, s)
			continue
		}
		if err != nil {
			return err
		}
		s.file = f
		if s.size, err = f.Size(); err != nil {
			return fmt.Errorf("read segment: %w", err)
		}
		if err := e.unlock(ctx, s); err != nil {
			return errors.Join(err, f.Close())
		}
		s.sealed = time.Now()
		e.index.segments = append(e.index.segments, s)
	}
	for _, s := range missing {
		e.report([]damage{{at: s.at(0)}})
		r.lost = append(r.lost, e.index.lose(s)...)
	}
	r.installStaged(cp)
	return nil
}

// segment replays a segment from the mark on, or finds that it is a spare.
func (r *recovery) segment(ctx context.Context, number uint64, mark place) error {
	e := r.e
	s, from := e.index.live(placeOf(number, 0)), int64(headerSize)
	if s == nil {
		f, err := e.openSegment(number)
		if err != nil {
			return err
		}
		s = &segment{number: number, file: f}
		if s.size, err = f.Size(); err != nil {
			return fmt.Errorf("read segment: %w", err)
		}
	} else if number == mark.segment() {
		from = mark.pos()
	}
	sc, err := newScanner(s.file)
	if err != nil {
		return err
	}
	if cut, err := sc.cut(number); err != nil {
		return err
	} else if (cut || s.end > sc.size) && !plant.On(plant.IgnoreCut) {
		e.report([]damage{{at: placeOf(number, sc.size)}})
	}
	if s.epoch == 0 {
		if used, err := r.identify(ctx, sc, s); err != nil || !used {
			return err
		}
	}
	r.replayed = append(r.replayed, s)
	e.replayedFrom[number] = from
	return r.scan(sc, s, from)
}

// scan replays the frames of a segment.
func (r *recovery) scan(sc *scanner, s *segment, pos int64) error {
	r.marked = false
	for pos+headerSize <= sc.size {
		data, err := sc.at(pos, headerSize)
		if err != nil {
			return err
		}
		h, crc, ok := decodeFrame(data)
		ok = ok && h.epoch == s.epoch && (h.number >= r.expected || plant.On(plant.OldFrames)) && pos+h.size() <= sc.size
		if ok {
			r.chain(s, pos, &h)
		}
		switch {
		case ok && h.count == 0:
			r.judge(h.number)
			r.marked = true
			return nil
		case ok:
			stored, err := sc.at(pos, h.size())
			if err != nil {
				return err
			}
			r.frame(s, pos, h, crc, stored)
			pos += h.size()
		default:
			torn := looksTorn(data, s.epoch)
			next, err := sc.find(pos+frameAlign, s.epoch)
			if err != nil {
				return err
			}
			if next < 0 {
				r.suspects = append(r.suspects, suspect{seg: s, pos: pos, end: sc.size, torn: torn})
				return nil
			}
			r.suspects = append(r.suspects, suspect{seg: s, pos: pos, end: next, known: true, torn: torn})
			pos = next
		}
	}
	return nil
}

// judge decides about the suspects when a frame of this number turns up intact.
func (r *recovery) judge(number uint64) {
	missing := number - r.expected
	if missing == 0 {
		r.suspects = nil
		return
	}
	r.expected = number
	if len(r.suspects) == 0 {
		r.e.log.Error("frames are missing", slog.Any("before", number), slog.Any("frames", missing))
		r.e.found.Status = Damaged
	}
	for _, s := range r.suspects {
		r.damaged(s, missing)
	}
	r.suspects = nil
}

// damaged saves what can be saved of a range.
func (r *recovery) damaged(s suspect, missing uint64) {
	d := damage{at: placeOf(s.seg.number, s.pos), frames: missing}
	data := make([]byte, s.end-s.pos)
	if n, err := s.seg.file.ReadAt(data, s.pos); err != nil {
		r.e.log.Error("damaged range cannot be read", slog.Any("segment", s.seg.number), slog.Any("error", err.Error()))
		data = data[:n]
	}
	d.data = data
	if s.known {
		var frame []byte
		frame, d.lost = repair(data, s.like, s.seg.epoch, s.seg.aead)
		r.apply(s.seg, s.pos, s.end-s.pos, frame)
		for _, l := range d.lost {
			if t := r.e.index.topic(l.id); t != nil && l.kind == recordPublish {
				if first := r.e.index.skip(t, l.offset+1); first <= l.offset {
					r.e.lose(gap{topic: t, first: first, end: l.offset + 1})
				}
			}
		}
	}
	r.e.report([]damage{d})
}

// judgeTail decides about suspects behind which no frame follows.
func (r *recovery) judgeTail() {
	i := slices.IndexFunc(r.suspects, func(s suspect) bool { return s.torn })
	if i < 0 {
		return
	}
	r.marked = false
	if plant.On(plant.NumberTornTail) {
		r.expected++
	}
	if s := r.suspects[i]; plant.On(plant.ReuseTornTail) && s.known {
		r.marked, s.seg.end = true, s.end
	}
	e := r.e
	tail := e.positionOf(placeOf(r.suspects[i].seg.number, r.suspects[i].pos))
	e.found.Tail = &tail
	e.found.Status = max(e.found.Status, Torn)
	e.log.Warn("torn tail cut: the last frame was never finished", slog.Any("segment", tail.Segment), slog.Any("position", tail.Pos))
}
