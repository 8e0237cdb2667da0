package journal

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/keyring"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// Engine implements queue.Engine on a data directory.
type Engine struct {
	fs    vfs.FS
	dir   string
	o     Options
	log   *slog.Logger
	lock  io.Closer
	units sync.Pool

	index     index
	committer committer

	group      *run.Group
	wake       chan struct{} // the committer
	work       chan struct{} // the keeper
	quit       chan struct{} // closed when the keeper shall end
	keeperDone chan struct{}
	stage      chan struct{} // the destager
	stagerDone chan struct{}
	closed     chan struct{} // closed when everything is
	closeErr   error         // set before closed is
	ring       *keyring.Ring
	lastMade   time.Time       // the keeper's: when it made a segment
	retired    []*segment      // the keeper's: free when the next checkpoint is stable
	folders    map[string]bool // the destager's: those of topics that are stable

	mu      sync.Mutex
	err     error // why storage failed
	closing bool
	batch   *batch
	buffer  []byte // for the next batch
	topics  map[string]*topic
	subs    []*subscriber
	// Where the next frame goes: the active segment, from pos on, if room is enough.
	active *segment
	pos    int64
	room   int64
	rolled bool // a segment was begun
	// What the keeper keeps.
	spares      []*segment
	changed     chan struct{} // closed and replaced when spares or full change
	nextSegment uint64
	makeSize    int64
	full        bool
	lean        bool // the next segment is of the reserve
	carried     []*segment
	// Topic segments: the number of the next one, and those that the next checkpoint
	// does not need any more.
	nextStaged uint64
	replaced   []*segment
	// Checkpoints.
	pending        *snapshot
	putOff         bool // the last one found no room
	wantCheckpoint bool
	lastCheckpoint uint64
	saved          chan struct{} // closed and replaced when a checkpoint is stable
	journalKey     uint32        // id of the data key of the next segment, or 0
	lastTopic      uint32
	lastSub        uint32
	found          Report
	replayedFrom   map[uint64]int64 // by segment, for Verify
}

// Open opens the data directory and creates it when it is new. What a crash left
// behind is recovered; see [Engine.Report] for what was found.
func Open(ctx context.Context, dir string, o Options) (*Engine, error) {
	o = o.withDefaults()
	e := &Engine{
		fs: o.FS, dir: dir, o: o, log: o.Logger,
		wake: make(chan struct{}, 1), work: make(chan struct{}, 1), changed: make(chan struct{}), stage: make(chan struct{}, 1), saved: make(chan struct{}), stagerDone: make(chan struct{}),
		quit: make(chan struct{}), keeperDone: make(chan struct{}), closed: make(chan struct{}),
		topics: map[string]*topic{}, replayedFrom: map[uint64]int64{}, folders: map[string]bool{}, makeSize: o.SegmentSize, batch: newBatch(nil),
	}
	e.units.New = func() any { return &unit{} }
	e.index = index{
		topics: map[uint32]*topic{}, staged: map[uint64]*segment{}, cache: newCache(o.CacheBytes),
		files: files{fs: o.FS, dir: dir},
	}
	if err := e.prepare(ctx); err != nil {
		return nil, fmt.Errorf("open queue %s: %w", dir, errors.Join(err, e.release()))
	}
	keep := context.WithoutCancel(ctx)
	e.index.cipher = func(s *segment) (cipher.AEAD, error) {
		if s.key == 0 {
			return nil, nil //nolint:nilnil // it is plain
		}
		return e.cipherOf(keep, s)
	}
	r, err := e.recoverState(ctx)
	if err == nil && !o.ReadOnly {
		err = e.resume(ctx, r)
	}
	if err != nil {
		return nil, fmt.Errorf("open queue %s: %w", dir, errors.Join(err, e.release()))
	}
	if o.ReadOnly {
		e.spares = r.spares
		return e, nil
	}
	// The engine lives until Close, not until the caller's context ends.
	e.group = run.NewGroup(keep)
	e.group.Go("queue committer", e.commitLoop)
	e.group.Go("queue keeper", e.keeperLoop)
	e.group.Go("queue destager", e.destageLoop)
	return e, nil
}

// removeDamaged makes room for checkpoints that can be trusted, so that the two that
// are kept are good ones.
func (e *Engine) removeDamaged(names []string) error {
	for _, name := range names {
		e.log.Error("damaged checkpoint removed", slog.Any("checkpoint", name))
		if err := e.fs.Remove(path.Join(e.dir, stateDir, name)); err != nil {
			return fmt.Errorf("remove checkpoint: %w", err)
		}
	}
	return nil
}

// syncReplayed makes what was read stable, and its names.
func (e *Engine) syncReplayed(r *recovery) error {
	for _, s := range r.replayed {
		// The process may have died between write and sync.
		if plant.On(plant.UnsyncedReplay) {
			continue
		}
		if err := s.file.Datasync(); err != nil {
			return fmt.Errorf("sync segment: %w", err)
		}
	}
	// It may also have died between a segment's renaming and the sync of its name.
	if plant.On(plant.UnsyncedNames) {
	} else if err := e.fs.SyncDir(path.Join(e.dir, journalDir)); err != nil {
		return fmt.Errorf("sync folder of segments: %w", err)
	}
	return nil
}

// resume makes what was found stable and decides where to go on.
func (e *Engine) resume(ctx context.Context, r *recovery) error {
	if err := e.beginKeys(ctx); err != nil {
		return err
	}
	if err := e.removeDamaged(r.badCheckpoints); err != nil {
		return err
	}
	if err := e.syncReplayed(r); err != nil {
		return err
	}
	last := uint64(0)
	if n := len(e.index.segments); n > 0 {
		s := e.index.segments[n-1]
		last = s.number
		if r.marked && (s.key != 0) == (e.journalKey != 0) {
			e.active, e.pos, e.room = s, s.end, s.size-s.end
			e.committer.marked = true
		}
	}
	e.nextSegment = last + 1
	if err := e.takeSpares(r.spares, last); err != nil {
		return err
	}
	for number := range r.files {
		if e.index.live(placeOf(number, 0)) == nil && !slices.ContainsFunc(r.spares, func(s *segment) bool { return s.number == number }) {
			if err := e.retire(number); err != nil {
				return err
			}
		}
	}
	return r.discardStaged()
}

// takeSpares makes ready what waited to be used. What does not fit is freed.
func (e *Engine) takeSpares(spares []*segment, last uint64) error {
	for _, s := range spares {
		e.nextSegment = max(e.nextSegment, s.number+1)
		open, err := e.inClear(s)
		if err != nil {
			return err
		}
		if s.number > last && s.size >= e.o.SegmentSize && !open {
			e.spares = append(e.spares, s)
			e.makeSize = min(max(e.makeSize, s.size), e.o.MaxSegmentSize)
		} else {
			e.retired = append(e.retired, s)
		}
	}
	return nil
}

// retire opens a segment that holds nothing any more, to be used again.
func (e *Engine) retire(number uint64) error {
	f, err := e.openSegment(number)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("read segment: %w", err)
	}
	e.retired = append(e.retired, &segment{number: number, file: f, size: size})
	e.nextSegment = max(e.nextSegment, number+1)
	return nil
}

// Topic implements queue.Engine.
func (e *Engine) Topic(ctx context.Context, name string) (queue.Topic, error) {
	e.mu.Lock()
	t := e.topics[name]
	if t != nil {
		err := e.readableLocked()
		e.mu.Unlock()
		if err == nil {
			err = e.settle(ctx, t.made, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("open topic %q: %w", name, err)
		}
		return t, nil
	}
	if e.o.ReadOnly {
		e.mu.Unlock()
		return nil, fmt.Errorf("open topic %q: %w", name, queue.ErrUnknownTopic)
	}
	if err := e.usable(); err != nil {
		e.mu.Unlock()
		return nil, fmt.Errorf("open topic %q: %w", name, err)
	}
	t = e.create(name)
	e.mu.Unlock()
	if err := e.settle(ctx, t.made, func() { e.disown(t) }); err != nil {
		return nil, fmt.Errorf("create topic %q: %w", name, err)
	}
	return t, nil
}

// create adds a topic to the open batch. The lock is held.
func (e *Engine) create(name string) *topic {
	e.lastTopic++
	t := &topic{e: e, id: e.lastTopic, name: name}
	u := e.unit()
	defer e.free(u)
	u.buf = appendTopic(u.buf, t.id, name, queue.TopicOptions{}, false)
	u.parts = append(u.parts, part{count: 1})
	t.made = e.add(u)
	e.topics[name] = t
	e.index.addTopic(t)
	return t
}

// settle waits until a creation is stable, and undoes it when it was refused.
func (e *Engine) settle(ctx context.Context, made *batch, undo func()) error {
	if made == nil {
		return nil
	}
	err := made.wait(ctx)
	if undo != nil && errors.Is(err, message.ErrDiskFull) {
		undo()
	}
	return err
}

func (e *Engine) disown(t *topic) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.topics[t.name] == t {
		delete(e.topics, t.name)
	}
	e.index.removeTopic(t)
}

// adopt takes in a topic that was found on disk.
func (e *Engine) adopt(t *topic) {
	if e.index.topic(t.id) != nil {
		return
	}
	t.e = e
	o := t.o // a copy: readers have no lock
	t.options.Store(&o)
	t.known.window = t.o.Dedup
	e.topics[t.name] = t
	e.lastTopic = max(e.lastTopic, t.id)
	e.index.addTopic(t)
}

// register takes in a subscription.
func (e *Engine) register(s *subscriber) {
	e.lastSub = max(e.lastSub, s.id)
	e.subs = append(slices.Clip(e.subs), s)
	list := append(slices.Clone(s.topic.subscribers()), s)
	s.topic.subs.Store(&list)
}

func (e *Engine) unregister(s *subscriber) {
	e.mu.Lock()
	defer e.mu.Unlock()
	other := func(o *subscriber) bool { return o == s }
	e.subs = slices.DeleteFunc(slices.Clone(e.subs), other)
	list := slices.DeleteFunc(slices.Clone(s.topic.subscribers()), other)
	s.topic.subs.Store(&list)
}

func (e *Engine) subscriber(id uint32) *subscriber {
	for _, s := range e.subs {
		if s.id == id {
			return s
		}
	}
	return nil
}

// now is the wall clock.
func (e *Engine) now() time.Time { return e.o.Now() }

// Topics implements queue.Engine.
func (e *Engine) Topics() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.topics))
}

// Health implements queue.Engine.
func (e *Engine) Health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// readable returns why nothing can be read or settled any more, or nil.
func (e *Engine) readable() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.readableLocked()
}

func (e *Engine) readableLocked() error {
	switch {
	case e.err != nil:
		return e.err
	case e.closing:
		return queue.ErrClosed
	}
	return nil
}

// Caps implements queue.Engine.
func (e *Engine) Caps() queue.Caps {
	return queue.Caps{
		Name: "journal", Durable: true, Atomic: true,
		Delay: true, Priority: true, KeyOrder: true, Expiry: true, Dedup: true, Seek: true,
	}
}

// unit returns an empty unit.
func (e *Engine) unit() *unit {
	u := e.units.Get().(*unit) //nolint:forcetypeassert // the pool holds nothing else
	u.reset()
	return u
}

// free keeps the unit's memory for another call, unless it is large. Sources hand over
// batches of up to 1 MiB, which take a little more here.
func (e *Engine) free(u *unit) {
	if cap(u.buf) <= 2*mib {
		e.units.Put(u)
	}
}

var _ queue.Engine = (*Engine)(nil)
