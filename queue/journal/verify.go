package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/linkspan/linkspan/internal/vfs"
)

// Verify reads everything in a stopped data directory and changes nothing. The error
// is for what prevents it from verifying; what it finds is in the report.
func Verify(ctx context.Context, fs vfs.FS, dir string) (rep Report, err error) {
	e, err := Open(ctx, dir, Options{FS: fs, ReadOnly: true})
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
	return rep, nil
}

// verifyOld reads the frames that a start does not replay: those before the mark.
func (e *Engine) verifyOld(ctx context.Context) error {
	for _, s := range slices.Clone(e.index.segments) {
		if err := e.verifyHeader(s); err != nil {
			return err
		}
		end := s.end
		if start, ok := e.replayedFrom[s.number]; ok {
			end = start
		}
		for i := range s.blocks {
			if err := ctx.Err(); err != nil {
				return err
			}
			pos := blockStart(s, i)
			if pos >= end {
				break
			}
			// A block may go on behind the mark; that part is counted already.
			size := min(blockEnd(s, pos), end) - pos
			if err := e.verifyBlock(s, pos, size); err != nil {
				return err
			}
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
	data := make([]byte, size)
	// What is missing at the end stays zero, and is damage.
	if _, err := s.file.ReadAt(data, pos); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read segment: %w", err)
	}
	b, bad := parseBlock(placeOf(s.number, pos), data, s.epoch)
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
	for _, t := range x.topics {
		i, ok := slices.BinarySearchFunc(t.log.entries, b.at, func(e entry, at place) int {
			switch {
			case e.at < at:
				return -1
			case e.at > at:
				return 1
			}
			return 0
		})
		if !ok {
			continue
		}
		first, end := t.log.span(i, i+1)
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
	s := x.live(at.segment())
	return s == nil || blockEnd(s, at.pos())-at.pos() != size
}

func appendGap(list []gap, g gap) []gap {
	if n := len(list); n > 0 && list[n-1].topic == g.topic && list[n-1].end == g.first {
		list[n-1].end = g.end
		return list
	}
	return append(list, g)
}
