package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"

	"github.com/linkspan/linkspan/internal/vfs"
)

// Verify reads everything in a stopped data directory and changes nothing. The error
// is for what prevents it from verifying; what it finds is in the report.
func Verify(ctx context.Context, fs vfs.FS, dir string) (rep Report, err error) {
	return VerifyWith(ctx, dir, Options{FS: fs})
}

// VerifyWith is Verify with options, of which it needs Master when the directory is
// encrypted.
func VerifyWith(ctx context.Context, dir string, o Options) (rep Report, err error) {
	o.ReadOnly = true
	e, err := Open(ctx, dir, o)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, e.Close(ctx)) }()
	if err := e.verifyOld(ctx); err != nil {
		return Report{}, fmt.Errorf("verify queue %s: %w", dir, err)
	}
	rep = e.Report()
	rep.Messages = e.index.countHeld((*topic).released)
	for _, t := range e.index.list() {
		rep.Topics++
		rep.Subscriptions += len(t.subscribers())
	}
	for _, s := range e.index.segments {
		rep.Segments++
		rep.Bytes += s.end
	}
	for _, s := range e.index.staged {
		rep.TopicSegments++
		rep.Bytes += s.end
	}
	return rep, nil
}

// verifyOld reads what a start does not: topic segments, and the frames before the mark.
func (e *Engine) verifyOld(ctx context.Context) error {
	for _, s := range slices.Clone(e.index.segments) {
		if err := e.verifyHeader(s); err != nil {
			return err
		}
		end := s.end
		if start, ok := e.replayedFrom[s.number]; ok {
			end = start
		}
		if err := e.verifyBlocks(ctx, s, end); err != nil {
			return err
		}
	}
	for _, number := range slices.Sorted(maps.Keys(e.index.staged)) {
		s := e.index.staged[number]
		if err := e.verifyBlocks(ctx, s, s.end); err != nil {
			return err
		}
		if err := e.verifyFooter(s); err != nil {
			return err
		}
	}
	return nil
}

// verifyBlocks reads the blocks of a segment up to a position.
func (e *Engine) verifyBlocks(ctx context.Context, s *segment, end int64) error {
	for i := range s.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		pos := blockStart(s, i)
		if pos >= end {
			break
		}
		// A block may go on behind the mark; that part is counted already.
		if err := e.verifyBlock(s, pos, min(blockEnd(s, pos), end)-pos); err != nil {
			return err
		}
	}
	return nil
}

// verifyHeader reads what a start does not need when a checkpoint says the same.
func (e *Engine) verifyHeader(s *segment) error {
	data := make([]byte, headerSize)
	if _, err := s.file.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read segment: %w", err)
	}
	if h, ok := decodeSegment(data); !ok || h.number != s.number || h.epoch != s.epoch {
		e.report([]damage{{at: placeOf(s.number, 0), data: data}})
	}
	return nil
}

func (e *Engine) verifyBlock(s *segment, pos, size int64) error {
	b, bad, err := e.index.fetch(s, s.at(pos), size)
	if err != nil {
		return err
	}
	e.report(bad)
	if len(bad) > 0 {
		e.loseFrom(b, size)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for at := 0; at < len(b.frames); {
		h, _, _ := decodeFrame(b.frames[at:])
		e.found.Frames++
		e.found.Records += uint64(h.count)
		at += int(h.size())
	}
	return nil
}

// verifyFooter reads what is around the blocks of a topic segment. Nothing is lost with
// it while a checkpoint is there.
func (e *Engine) verifyFooter(s *segment) error {
	data := make([]byte, maxFooter)
	want := topicHeader{file: topicFile{topic: s.topic.id, first: s.first, number: s.number}, epoch: s.epoch, key: s.key, name: s.topic.name}
	head := data[:want.size()]
	if n, err := e.index.read(s, head, 0); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read topic segment: %w", err)
	} else if h, ok := decodeTopicHeader(head[:n]); !ok || h != want {
		e.report([]damage{{at: s.at(0), data: slices.Clone(head[:n])}})
	}
	n, err := e.index.read(s, data, s.end)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read topic segment: %w", err)
	}
	f, err := decodeFooter(data[:n])
	pos, ok := decodeTrailer(data[max(n-trailerSize, 0):n])
	if err != nil || f.topicHeader != want || len(f.blocks) != len(s.blocks) || !ok || pos != s.end {
		e.report([]damage{{at: s.at(s.end), data: slices.Clone(data[:n])}})
	}
	return nil
}

// maxFooter bounds a footer: some ten bytes for each block of a file.
const maxFooter = mib

// loseFrom says which messages of a damaged block are not there any more.
func (e *Engine) loseFrom(b *block, size int64) {
	e.index.mu.RLock()
	gaps := e.index.missing(b, size)
	e.index.mu.RUnlock()
	for _, g := range gaps {
		e.lose(g)
	}
}

// missing returns the offsets that should be in a block and are not. The lock is held.
func (x *index) missing(b *block, size int64) (gaps []gap) {
	s := x.live(b.at)
	if s == nil {
		return nil
	}
	for t := range x.users(s) {
		i, j := t.log.within(s)
		k := i + sort.Search(j-i, func(k int) bool { return t.log.entries[i+k].at >= b.at })
		if k == j || t.log.entries[k].at != b.at {
			continue
		}
		first, end := t.log.span(k, k+1)
		if x.blockGrew(b.at, size) {
			end = first // what came later was not looked at
			if r := b.runs[t.id]; r != nil {
				end = r.first + uint64(len(r.spots))
			}
		}
		for o := first; o < end; o++ {
			if _, ok := b.runs[t.id].find(o); !ok {
				gaps = appendGap(gaps, gap{topic: t, first: o, end: o + 1})
			}
		}
	}
	return gaps
}

// blockGrew reports whether the block is longer on disk than what was read of it.
func (x *index) blockGrew(at place, size int64) bool {
	s := x.live(at)
	return s == nil || blockEnd(s, at.pos())-at.pos() != size
}

func appendGap(list []gap, g gap) []gap {
	if n := len(list); n > 0 && list[n-1].topic == g.topic && list[n-1].end == g.first {
		list[n-1].end = g.end
		return list
	}
	return append(list, g)
}
