package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// keeperLoop does what the committer must not wait for: it writes checkpoints, uses
// old segments again and makes new ones ahead of their use. While the disk is full it
// looks once in a while whether that has changed.
func (e *Engine) keeperLoop(context.Context) error {
	defer close(e.keeperDone)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	tick := false
	for {
		if err := e.keep(tick); err != nil {
			e.fail(err)
			return nil
		}
		tick = false
		if wait := e.looksAgain(); wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-e.work:
		case <-timer.C:
			tick = true
		case <-e.quit:
			return nil
		}
		timer.Stop()
	}
}

// keep does what there is to do. tick says that some time has passed since the last try.
func (e *Engine) keep(tick bool) error {
	if err := e.saveCheckpoint(); err != nil {
		return err
	}
	if err := e.makeSpares(); err != nil {
		return err
	}
	e.askForRoom(tick)
	return nil
}

// looksAgain returns when the keeper has to see for itself whether the disk has room, or
// whether what a topic keeps has become too old. 0: events will tell.
func (e *Engine) looksAgain() (wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.full || e.putOff {
		return retryFull
	}
	for _, t := range e.topics {
		if t.o.Keep > 0 {
			if often := min(max(t.o.Keep/10, time.Second), time.Hour); wait == 0 || often < wait {
				wait = often
			}
		}
	}
	return wait
}

// saveCheckpoint writes the snapshot that waits, if there is one. A full disk is no
// failure: what the checkpoint says is in the journal too.
func (e *Engine) saveCheckpoint() error {
	e.mu.Lock()
	s := e.pending
	e.mu.Unlock()
	if s == nil {
		return nil
	}
	if plant.On(plant.RecycleFirst) {
		if err := e.recycle(s); err != nil {
			return err
		}
	}
	err := writeCheckpoint(e.fs, e.dir, s)
	for isFull(err) {
		given, failed := e.giveUp()
		if failed != nil {
			return failed
		}
		if !given {
			break
		}
		err = writeCheckpoint(e.fs, e.dir, s)
	}
	switch {
	case isFull(err):
		e.putOffCheckpoint(s)
	case err != nil:
		return err
	case plant.On(plant.RecycleFirst):
	default:
		if err := e.recycle(s); err != nil {
			return err
		}
		if _, err := removeOldCheckpoints(e.fs, e.dir, keptCheckpoints); err != nil {
			return err
		}
	}
	e.mu.Lock()
	e.pending = nil
	close(e.saved)
	e.saved = make(chan struct{})
	// What this one retired is free when another one is stable; an idle engine would
	// not come to that by itself.
	e.wantCheckpoint = e.wantCheckpoint || len(e.retired) > 0 && !e.putOff
	e.mu.Unlock()
	signal(e.wake)
	signal(e.stage)
	return nil
}

// putOffCheckpoint keeps what a checkpoint that could not be written wanted to retire
// for the next one.
func (e *Engine) putOffCheckpoint(s *snapshot) {
	e.mu.Lock()
	again := e.putOff
	e.carried = append(e.carried, s.retired...)
	e.putOff = true
	e.mu.Unlock()
	if !again {
		e.log.Warn("checkpoint put off: the disk is full", slog.Any("dir", e.dir))
	}
}

// giveUp makes room for a checkpoint, which frees more than it takes: a segment that
// waits to be used, as long as there is another one, then the older checkpoint, which is
// there for the case that the newer one decays, then the last segment.
func (e *Engine) giveUp() (given bool, err error) {
	e.mu.Lock()
	var s *segment
	if n := len(e.spares); n > 1 {
		s, e.spares = e.spares[n-1], slices.Delete(e.spares, n-1, n)
	}
	e.mu.Unlock()
	if s != nil {
		return true, e.removeSegment(s)
	}
	if n, err := removeOldCheckpoints(e.fs, e.dir, 1); n > 0 || err != nil {
		return true, err
	}
	e.mu.Lock()
	if len(e.spares) == 1 {
		s, e.spares = e.spares[0], nil
	}
	e.mu.Unlock()
	if s != nil {
		return true, e.removeSegment(s)
	}
	return false, nil
}

func (e *Engine) removeSegment(s *segment) error {
	if err := errors.Join(s.file.Close(), e.fs.Remove(path.Join(e.dir, s.path()))); err != nil {
		return fmt.Errorf("remove segment: %w", err)
	}
	return nil
}

// recycle gives segments a new life that neither of the two newest checkpoints needs:
// those that the one before this one retired.
func (e *Engine) recycle(s *snapshot) error {
	free := e.retired
	e.mu.Lock()
	e.retired = append(e.carried, s.retired...)
	if plant.On(plant.FreeEarly) || plant.On(plant.RecycleFirst) {
		free, e.retired = append(free, e.retired...), nil
	}
	e.carried, e.putOff = nil, false
	e.mu.Unlock()
	for _, seg := range free {
		if err := e.reuseSegment(seg); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) reuseSegment(s *segment) error {
	if s.topic != nil {
		return e.removeStaged(s)
	}
	e.mu.Lock()
	enough := len(e.spares) >= maxSpares || s.size > e.o.MaxSegmentSize || s.size < e.o.SegmentSize
	number := e.nextSegment
	e.mu.Unlock()
	if open, err := e.inClear(s); err != nil || open || enough {
		return errors.Join(err, e.removeSegment(s))
	}
	if err := nameSegment(e.fs, e.dir, segmentName(s.number), number); err != nil {
		return err
	}
	e.addSpare(&segment{number: number, file: s.file, size: s.size})
	return nil
}

// inClear reports whether a file may have messages in clear of its former life although
// the queue is encrypted now: it must not stay.
func (e *Engine) inClear(s *segment) (bool, error) {
	if e.o.Master == nil {
		return false, nil
	}
	var b [headerSize]byte
	if _, err := s.file.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read segment: %w", err)
	}
	h, ok := decodeSegment(b[:])
	return b != [headerSize]byte{} && (!ok || h.key == 0), nil
}

// addSpare makes a segment available to the committer.
func (e *Engine) addSpare(s *segment) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spares = append(e.spares, s)
	e.nextSegment = max(e.nextSegment, s.number+1)
	e.full = e.full && len(e.spares) < wantSpares
	e.broadcast()
	signal(e.wake)
}

const (
	// wantSpares is how many segments are kept ready once there is work: the next one,
	// and one that stays for acknowledgements when the disk is full.
	wantSpares = 2
	// maxSpares bounds what is kept of a backlog that is gone.
	maxSpares = 4
)

// makeSpares writes new segments until enough are ready, or the disk is full.
func (e *Engine) makeSpares() error {
	for {
		e.mu.Lock()
		want := wantSpares
		if !e.rolled {
			want--
		}
		enough := len(e.spares) >= want || e.err != nil
		number, size := e.nextSegment, e.makeSize
		e.mu.Unlock()
		if enough {
			e.setFull(false)
			return nil
		}
		s, err := e.makeSpare(number, size)
		switch {
		case errors.Is(err, message.ErrDiskFull):
			e.setFull(true)
			return e.makeLean(number)
		case err != nil:
			return err
		}
		e.mu.Lock()
		e.makeSize = min(2*s.size, e.o.MaxSegmentSize)
		e.mu.Unlock()
		e.addSpare(s)
	}
}

// makeLean makes a small segment of the reserve when there is no other: for those who
// free space, such as a consumer that moves a message to the dead letters.
func (e *Engine) makeLean(number uint64) error {
	e.mu.Lock()
	wanted := len(e.spares) == 0 && e.rolled && !e.putOff && len(e.carried) == 0
	e.mu.Unlock()
	if !wanted || !e.hasBytes(e.o.SegmentSize) {
		return nil
	}
	s, err := makeSegment(e.fs, e.dir, number, e.o.SegmentSize, true)
	switch {
	case isFull(err):
		return nil
	case err != nil:
		return err
	}
	e.mu.Lock()
	e.lean = true
	e.mu.Unlock()
	e.addSpare(s)
	return nil
}

// hurried is the time in which a segment that lasts no longer than it is used up in a
// hurry.
const hurried = 2 * time.Second

// hurry reports whether segments are used up quickly. Only the keeper calls it.
func (e *Engine) hurry() bool {
	before := e.lastMade
	e.lastMade = time.Now()
	return !before.IsZero() && e.lastMade.Sub(before) < hurried
}

// makeSpare makes a segment as large as the disk allows, down to the smallest size.
func (e *Engine) makeSpare(number uint64, size int64) (*segment, error) {
	if space, err := e.fs.Space(e.dir); err == nil {
		// On a small disk a few large ones would hold all the room until all of them is free.
		size = max(min(size, int64(min(space.Total/segmentShare, maxSegment))), e.o.SegmentSize)
	}
	for ; ; size = max(size/2, e.o.SegmentSize) {
		if e.hasRoom(size) {
			s, err := makeSegment(e.fs, e.dir, number, size, e.hurry())
			if !isFull(err) {
				return s, err
			}
		}
		if size <= e.o.SegmentSize {
			return nil, message.ErrDiskFull
		}
	}
}

// hasRoom reports whether n more bytes leave the reserve alone. When the system does
// not say, the write itself will.
func (e *Engine) hasRoom(n int64) bool {
	space, err := e.fs.Space(e.dir)
	if err != nil {
		e.log.Warn("free space is unknown", slog.Any("dir", e.dir), slog.Any("error", err.Error()))
		return true
	}
	reserve := e.o.Reserve
	if reserve == 0 {
		reserve = min(defaultReserve, space.Total/reserveShare)
	}
	return space.Free >= uint64(n)+reserve
}

// hasBytes reports whether there is room for n more bytes, the reserve included.
func (e *Engine) hasBytes(n int64) bool {
	space, err := e.fs.Space(e.dir)
	return err == nil && space.Free >= uint64(n)
}

func (e *Engine) setFull(full bool) {
	e.mu.Lock()
	changed := e.full != full
	e.full = full
	e.lean = e.lean && full
	if changed {
		e.broadcast()
	}
	e.mu.Unlock()
	if !changed {
		return
	}
	signal(e.wake)
	if full {
		e.log.Warn("the disk is full: publishing is refused until consumers free space", slog.Any("dir", e.dir))
	} else {
		e.log.Info("publishing goes on: there is space again", slog.Any("dir", e.dir))
	}
}

// askForRoom asks for a checkpoint while the disk is full and it can free segments, or
// if the last one found no room itself.
func (e *Engine) askForRoom(tick bool) {
	if e.looksAgain() == 0 {
		return
	}
	e.mu.Lock()
	ask := e.full && len(e.retired)+len(e.carried) > 0 || e.putOff
	wait := e.putOff && !tick // at once, it would find no more room than the last time
	e.mu.Unlock()
	if wait {
		return
	}
	if ask = ask || slices.ContainsFunc(e.index.closed(), e.index.settled); !ask {
		return
	}
	e.mu.Lock()
	e.wantCheckpoint = e.pending == nil
	e.mu.Unlock()
	signal(e.wake)
}
