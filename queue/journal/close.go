package journal

import (
	"context"
	"errors"
	"fmt"
)

// Close implements queue.Engine.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	first := !e.closing
	e.closing = true
	subs := e.subs
	e.broadcast()
	close(e.saved)
	e.saved = make(chan struct{})
	e.mu.Unlock()
	if first {
		for _, s := range subs {
			s.stop()
		}
		if e.o.ReadOnly {
			e.closeErr = e.release()
			close(e.closed)
		}
	}
	signal(e.wake)
	select {
	case <-e.closed:
	case <-ctx.Done():
		return fmt.Errorf("close queue %s: %w", e.dir, ctx.Err())
	}
	if e.group != nil {
		_ = e.group.Wait() // the loops report through fail
	}
	return e.closeErr
}

// finish ends the engine after the last commit.
func (e *Engine) finish() {
	close(e.quit)
	<-e.keeperDone
	<-e.stagerDone
	err := e.Health()
	if err == nil {
		err = e.lastSave()
	}
	e.closeErr = errors.Join(err, e.release())
	close(e.closed)
}

// lastSave writes what is not on disk yet: the tail mark and a checkpoint.
func (e *Engine) lastSave() error {
	if err := e.saveCheckpoint(); err != nil {
		return err
	}
	if err := e.markTail(); err != nil {
		return err
	}
	// Twice, because segments that one retires are freed by the next one.
	for range keptCheckpoints {
		if e.committer.dirty.IsZero() && !e.wantCheckpoint {
			break
		}
		e.wantCheckpoint = false
		e.pending = e.snapshot()
		if err := e.saveCheckpoint(); err != nil {
			return err
		}
	}
	return nil
}

// release closes the files and gives the lock back.
func (e *Engine) release() error {
	var errs []error
	for _, list := range [][]*segment{e.index.segments, e.spares, e.retired, e.carried} {
		for _, s := range list {
			if s.file != nil {
				errs = append(errs, s.file.Close())
			}
		}
	}
	errs = append(errs, e.index.files.close())
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}
