package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/keyring"
)

// ErrPlain means that a directory is not encrypted, so it has no keys.
var ErrPlain = errors.New("the queue is not encrypted; configure a key to encrypt what is new")

// Keys lists the data keys, in the order of their creation.
func (e *Engine) Keys() []Key { return e.ring.Keys() }

// RotateKeys wraps all data keys with another master key, and makes new ones for what
// is written from now on. The old master key is not needed any more when it returns
// nil. It may be called while the engine is in use.
func (e *Engine) RotateKeys(ctx context.Context, next Master) error {
	if err := e.encrypts(); err != nil {
		return fmt.Errorf("rotate keys of %s: %w", e.dir, err)
	}
	if err := e.renew(ctx, func() error { return e.ring.Rotate(ctx, next, e.uses()) }); err != nil {
		return fmt.Errorf("rotate keys of %s: %w", e.dir, err)
	}
	return nil
}

// RotateKeys is Engine.RotateKeys for a stopped directory. o.Master is the old master
// key.
func RotateKeys(ctx context.Context, dir string, o Options, next Master) error {
	return with(ctx, dir, o, func(e *Engine) error { return e.RotateKeys(ctx, next) })
}

// Shred deletes a topic for good: its messages, and every key with which they could be
// read from old copies of the files. It returns when nothing in the directory can be
// read any more, which takes as long as the other messages of the journal need to be
// copied; when ctx ends before that, call it again. Backups of the keyring are not its
// business.
func (e *Engine) Shred(ctx context.Context, topic string) error {
	if err := e.shred(ctx, topic); err != nil {
		return fmt.Errorf("shred topic %q: %w", topic, err)
	}
	return nil
}

// Shred is Engine.Shred for a stopped directory.
func Shred(ctx context.Context, dir string, o Options, topic string) error {
	return with(ctx, dir, o, func(e *Engine) error { return e.Shred(ctx, topic) })
}

func with(ctx context.Context, dir string, o Options, f func(e *Engine) error) error {
	e, err := Open(ctx, dir, o)
	if err != nil {
		return err
	}
	return errors.Join(f(e), e.Close(context.WithoutCancel(ctx)))
}

// encrypts returns why there are no keys to change, or nil.
func (e *Engine) encrypts() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.usable(); err != nil {
		return err
	}
	if e.o.Master == nil {
		return ErrPlain
	}
	return nil
}

// renew changes the keyring, after which the journal goes on with another key.
func (e *Engine) renew(ctx context.Context, change func() error) error {
	err := change()
	if err == nil {
		var keys []uint32
		if keys, err = e.ring.Active(ctx, 0); err == nil {
			e.mu.Lock()
			e.journalKey = keys[0]
			e.mu.Unlock()
		}
	}
	return e.keyringFailed(err)
}

// keyringFailed stops the engine when the keyring could not be written. What the master
// key's keeper says, and a full disk, are no failures of storage.
func (e *Engine) keyringFailed(err error) error {
	if errors.Is(err, keyring.ErrWrite) && !isFull(err) {
		e.fail(err)
	}
	return err
}

// uses returns a function that says whether a segment may need a key.
func (e *Engine) uses() func(id uint32) bool {
	used := map[uint32]bool{}
	unknown := false
	e.mu.Lock()
	for _, s := range e.all() {
		used[s.key] = true
		unknown = unknown || s.epoch == 0
	}
	e.mu.Unlock()
	return func(id uint32) bool { return unknown || used[id] }
}

// all returns the segments that are live, or that a checkpoint on disk may name. The
// lock is held.
func (e *Engine) all() []*segment {
	list := slices.Concat(e.retired, e.carried, e.replaced)
	if e.pending != nil {
		list = append(list, e.pending.retired...)
	}
	x := &e.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	list = append(list, x.segments...)
	for _, s := range x.staged {
		list = append(list, s)
	}
	return list
}

func (e *Engine) shred(ctx context.Context, name string) error {
	if err := e.encrypts(); err != nil {
		return err
	}
	if err := e.intend(ctx, name); err != nil {
		return err
	}
	if err := e.Delete(ctx, name); err != nil && (!errors.Is(err, queue.ErrUnknownTopic) || !e.hasOrphans()) {
		return err
	}
	if err := e.renew(ctx, func() error { return e.ring.Renew(ctx, false) }); err != nil {
		return err
	}
	doomed := map[uint32]bool{0: true} // also what the journal has in clear
	for _, k := range e.ring.Keys() {
		if k.Topic == 0 && !k.Active || k.Topic != 0 && e.index.topic(k.Topic) == nil {
			doomed[k.ID] = true
		}
	}
	if err := e.leave(ctx, doomed); err != nil {
		return err
	}
	if err := e.drain(ctx, doomed); err != nil {
		return err
	}
	return e.keyringFailed(e.ring.Shred(func(k Key) bool { return doomed[k.ID] }))
}

// intend makes sure that the topic has a key, also when nothing of it was copied yet. A
// key whose topic is gone says, after an interruption, what is to be finished.
func (e *Engine) intend(ctx context.Context, name string) error {
	e.mu.Lock()
	t := e.topics[name]
	e.mu.Unlock()
	if t == nil {
		return nil
	}
	_, err := e.ring.Active(ctx, t.id)
	return e.keyringFailed(err)
}

// hasOrphans reports whether there are keys of topics that do not exist any more.
func (e *Engine) hasOrphans() bool {
	return slices.ContainsFunc(e.ring.Keys(), func(k Key) bool { return k.Topic != 0 && e.index.topic(k.Topic) == nil })
}

// leave makes the journal go on in a segment that has none of the keys.
func (e *Engine) leave(ctx context.Context, keys map[uint32]bool) error {
	for {
		if !keys[e.index.lastKey()] {
			return nil
		}
		e.mu.Lock()
		e.room = 0
		e.mu.Unlock()
		err := e.command(ctx, func(u *unit) {
			var at int
			u.buf, at = beginRecord(u.buf, recordMark, 0, 0)
			endRecord(u.buf, at)
		})
		if err != nil {
			return err
		}
	}
}

// lastKey returns the key of the segment that is written, or was last.
func (x *index) lastKey() uint32 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if n := len(x.segments); n > 0 {
		return x.segments[n-1].key
	}
	return 0
}

// under reports whether the segment has one of the keys. 0 stands for those of the
// journal that are in clear; what other topics have in clear is their business.
func (s *segment) under(keys map[uint32]bool) bool {
	return keys[s.key] && (s.key != 0 || s.topic == nil)
}

// drain waits until no segment with one of the keys is left.
func (e *Engine) drain(ctx context.Context, keys map[uint32]bool) error {
	x := &e.index
	x.mu.Lock()
	for _, s := range x.segments {
		if s.under(keys) {
			x.copyThrough = max(x.copyThrough, s.number)
		}
	}
	x.mu.Unlock()
	e.touch()
	signal(e.stage)
	for {
		e.mu.Lock()
		err, saved := e.usable(), e.saved
		left := e.pending != nil || slices.ContainsFunc(e.all(), func(s *segment) bool { return s.under(keys) })
		e.mu.Unlock()
		switch {
		case err != nil:
			return err
		case !left:
			return nil
		}
		select {
		case <-saved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
