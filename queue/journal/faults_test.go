package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// TestFaults makes each call to the filesystem fail once, in each way. Nothing may be
// promised that a restart does not find, and a restart finds everything that was
// promised. A sync that failed has lost what it was to make stable, as on Linux.
func TestFaults(t *testing.T) {
	target := int64(amount(t, 400, 6_000))
	f := &faults{t: t}
	p := newPool()
	first := seedOf(t)
	for seed := first; f.injected.Load() < target && !t.Failed(); seed++ {
		calls := f.run(seed, 0, nil)
		for nth := int64(1); nth <= calls; nth++ {
			for _, fault := range []error{syscall.EIO, syscall.ENOSPC, vfs.ErrShortWrite, syscall.EINTR} {
				if f.injected.Load() < target && !t.Failed() {
					p.do(func() { f.run(seed, nth, fault) })
				}
			}
		}
	}
	p.wait()
	t.Logf("%d faults: %d stopped the storage, %d filled the disk, %d refused an open or a read, %d were harmless; 0 acknowledged lost: %v",
		f.injected.Load(), f.storage.Load(), f.full.Load(), f.refused.Load(), f.harmless.Load(), !t.Failed())
	if f.injected.Load() == 0 || f.storage.Load() == 0 {
		t.Error("nothing was tested")
	}
}

type faults struct {
	t                                          *testing.T
	injected, storage, full, refused, harmless atomic.Int64
}

// run lets the nth call fail and returns how many there were.
func (f *faults) run(seed uint64, nth int64, fault error) int64 {
	t := f.t
	var calls atomic.Int64
	var where atomic.Pointer[string]
	var must atomic.Bool
	mem, l := vfs.NewMem(), newLedger()
	fs := vfs.WithHook(mem, func(op vfs.Op, name string) error {
		if calls.Add(1) != nth || errors.Is(fault, vfs.ErrShortWrite) && op != vfs.OpWrite {
			return nil
		}
		s := fmt.Sprintf("%s %s with %v", op, name, fault)
		if op == vfs.OpDatasync || op == vfs.OpSync {
			mem.Forget(name)
		}
		must.Store(fatal(op, name, fault))
		where.Store(&s)
		return fault
	})
	err := script(t.Context(), varied(fs, seed), l, seed, 24, 2)
	at := where.Load()
	if at == nil {
		if err != nil {
			t.Errorf("seed %d without a fault: %v", seed, err)
		}
		return calls.Load()
	}
	f.injected.Add(1)
	switch {
	case err == nil:
		f.harmless.Add(1)
	case errors.Is(err, queue.ErrStorageFailed):
		f.storage.Add(1)
	case errors.Is(err, message.ErrDiskFull):
		f.full.Add(1)
	case errors.Is(err, fault) || errors.Is(err, queue.ErrClosed):
		f.refused.Add(1)
	default:
		t.Errorf("seed %d, call %d, %s: unexpected error %v", seed, nth, *at, err)
	}
	if must.Load() && err == nil {
		t.Errorf("seed %d, call %d, %s: the engine went on", seed, nth, *at)
	}
	// After a failed sync only what was synced before counts.
	for _, mode := range []vfs.Survival{vfs.LoseAll, vfs.KeepPages} {
		disk := mem.Crash(rand.New(rand.NewPCG(seed, uint64(nth))), mode, false)
		if found := reopened(t.Context(), varied(disk, seed), l); found != nil {
			t.Errorf("seed %d, call %d, %s, survival %d, script ended with %v: %v", seed, nth, *at, mode, err, found)
		}
	}
	return calls.Load()
}

// fatal reports whether an error leaves no choice but to stop: a write to the journal or
// a sync that failed. A full disk is another matter before a file is in use.
func fatal(op vfs.Op, name string, fault error) bool {
	journal := path.Ext(name) == ".lj"
	switch op {
	case vfs.OpWrite:
		return journal
	case vfs.OpDatasync, vfs.OpSync:
		return journal || !errors.Is(fault, syscall.ENOSPC) && !strings.Contains(name, "quarantine")
	case vfs.OpSyncDir:
		return !errors.Is(fault, syscall.ENOSPC)
	default:
		return false
	}
}

// TestScripts runs many scripts without any fault, with the engine's own report as the
// judge.
func TestScripts(t *testing.T) {
	n := amount(t, 60, 400)
	p := newPool()
	first := seedOf(t)
	for i := range uint64(n) {
		p.do(func() {
			if err := script(t.Context(), varied(vfs.NewMem(), first+i), newLedger(), first+i, 60, 2); err != nil {
				t.Errorf("seed %d: %v", first+i, err)
			}
		})
	}
	p.wait()
	t.Logf("%d scripts", n)
}

// reopened opens the directory and compares it with the ledger.
func reopened(ctx context.Context, o journal.Options, l *ledger) error {
	e, err := journal.Open(ctx, "/data", o)
	if err != nil {
		return err
	}
	return errors.Join(l.check(ctx, e, l.clone()), e.Close(ctx))
}
