package journal_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

func small(disk vfs.FS) journal.Options {
	return journal.Options{
		FS: disk, SegmentSize: 8 << 10, MaxSegmentSize: 16 << 10, CheckpointBytes: 12 << 10,
		CacheBytes: 32 << 10, AckDelay: time.Millisecond, Reserve: 1,
	}
}

// script works with an engine on disk until n messages were published, closing and
// opening it in between.
func script(ctx context.Context, disk vfs.FS, l *ledger, seed uint64, n, openings int) error {
	for opening := range openings {
		e, err := journal.Open(ctx, "/data", small(disk))
		if err != nil {
			return err
		}
		if err := work(ctx, e, l, seed+uint64(opening)*100, n); err != nil {
			return errors.Join(err, e.Close(ctx))
		}
		if err := e.Close(ctx); err != nil {
			return err
		}
	}
	return nil
}

func work(ctx context.Context, e *journal.Engine, l *ledger, seed uint64, n int) error {
	in, err := e.Topic(ctx, "in")
	if err != nil {
		return err
	}
	sub, err := in.Subscribe(ctx, "s", queue.SubOptions{MaxInFlight: 8})
	if err != nil {
		return err
	}
	out, err := e.Topic(ctx, "out")
	if err != nil {
		return err
	}
	kept, err := e.Topic(ctx, "kept")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	consumers := run.NewGroup(ctx)
	consumers.Go("consumer", func(ctx context.Context) error {
		rng := rand.New(rand.NewPCG(seed, 99))
		for {
			if err := l.consume(ctx, e, sub, out, rng); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
	})
	publishers := run.NewGroup(consumers.Context())
	for p := range 3 {
		publishers.Go("publisher", func(ctx context.Context) error {
			rng := rand.New(rand.NewPCG(seed, uint64(p)))
			for i := range n / 3 {
				topic := in
				if rng.IntN(10) == 0 {
					topic = kept
				}
				ids := []string{fmt.Sprintf("%d-%d-%d", seed, p, i)}
				for k := range rng.IntN(3) {
					ids = append(ids, fmt.Sprintf("%d-%d-%d-%d", seed, p, i, k))
				}
				if err := l.publish(ctx, topic, ids...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = publishers.Wait()
	cancel()
	if cerr := consumers.Wait(); cerr != nil {
		return cerr
	}
	return err
}

// TestCrash cuts the power at every call that changes the disk, in every way.
func TestCrash(t *testing.T) {
	n, openings, budget := 180, 5, 20*time.Second
	if testing.Short() {
		n, openings, budget = 60, 2, 10*time.Second
	}
	c := &crashes{t: t, mem: vfs.NewMem(), ledger: newLedger(), rng: rand.New(rand.NewPCG(7, 7)), deadline: time.Now().Add(budget)}
	if err := script(t.Context(), vfs.WithHook(c.mem, c.hook), c.ledger, 1, n, openings); err != nil {
		t.Fatalf("script: %v", err)
	}
	c.wg.Lock()
	defer c.wg.Unlock()
	t.Logf("%d crash points, %d recoveries, %d of them after a second crash; %d torn tails seen by verify; %d messages promised; 0 lost, 0 wrong, 0 refused: %v",
		c.points, c.recoveries, c.double, c.torn, len(c.ledger.promised), !t.Failed())
}

type crashes struct {
	t        *testing.T
	mem      *vfs.Mem
	ledger   *ledger
	deadline time.Time

	wg         sync.Mutex // one crash at a time
	rng        *rand.Rand
	points     int
	recoveries int
	double     int
	torn       int
}

func (c *crashes) hook(op vfs.Op, name string) error {
	if !op.Changes() {
		return nil
	}
	c.wg.Lock()
	defer c.wg.Unlock()
	if c.t.Failed() || time.Now().After(c.deadline) {
		return nil
	}
	c.points++
	where := fmt.Sprintf("before %s %s (point %d)", op, name, c.points)
	for _, mode := range vfs.Survivals() {
		for _, names := range []bool{false, true} {
			// What was promised before the cut must be found; what was offered after it may be.
			before := c.ledger.clone()
			disk := c.mem.Crash(c.rng, mode, names)
			after := c.ledger.clone()
			how := fmt.Sprintf("%s, survival %d, names kept %v", where, mode, names)
			if c.rng.IntN(10) == 0 {
				disk = c.again(disk, how)
			}
			c.recover(disk, before, after, how)
		}
	}
	return nil
}

// again cuts the power a second time, during the recovery.
func (c *crashes) again(disk *vfs.Mem, how string) *vfs.Mem {
	c.double++
	left := c.rng.IntN(12)
	mode := vfs.Survivals()[c.rng.IntN(4)]
	var mu sync.Mutex
	var second *vfs.Mem
	rng := rand.New(rand.NewPCG(c.rng.Uint64(), 1))
	e, err := journal.Open(c.t.Context(), "/data", small(vfs.WithHook(disk, func(op vfs.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Changes() {
			if left--; left < 0 && second == nil {
				second = disk.Crash(rng, mode, rng.IntN(2) == 0)
			}
		}
		return nil
	})))
	if err != nil {
		c.t.Errorf("%s: open: %v", how, err)
		return disk
	}
	if err := e.Close(c.t.Context()); err != nil {
		c.t.Errorf("%s: close: %v", how, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if second == nil {
		return disk
	}
	return second
}

// verify looks at what the cut left behind: a torn tail perhaps, never damage.
func (c *crashes) verify(disk *vfs.Mem, how string) {
	rep, err := journal.Verify(c.t.Context(), disk, "/data")
	switch {
	case errors.Is(err, fs.ErrNotExist): // the power went before there was a directory
	case err != nil:
		c.t.Errorf("%s: verify: %v", how, err)
	case rep.Status == journal.Torn:
		c.torn++
	case rep.Status != journal.Clean:
		c.t.Errorf("%s: verify: %+v", how, rep)
	}
}

func (c *crashes) recover(disk *vfs.Mem, before, l *ledger, how string) {
	c.recoveries++
	ctx := c.t.Context()
	if c.rng.IntN(4) == 0 {
		c.verify(disk, how)
	}
	e, err := journal.Open(ctx, "/data", small(disk))
	if err != nil {
		c.t.Errorf("%s: open: %v", how, err)
		return
	}
	if err := l.check(ctx, e, before); err != nil {
		c.t.Errorf("%s: %v", how, err)
	}
	more := c.rng.IntN(4) == 0
	if more { // the recovered engine works, and stays right when it is opened again
		more := &ledger{offered: l.offered, promised: maps.Clone(before.promised), settled: l.settled, moves: before.moves}
		before = more
		if t, err := e.Topic(ctx, "in"); err != nil {
			c.t.Errorf("%s: topic: %v", how, err)
		} else if err := more.publish(ctx, t, fmt.Sprintf("after-%d", c.recoveries)); err != nil {
			c.t.Errorf("%s: publish: %v", how, err)
		}
		if c.rng.IntN(2) == 0 { // and after a third crash
			disk = disk.Crash(c.rng, vfs.Survivals()[c.rng.IntN(4)], false)
		}
	}
	if err := e.Close(ctx); err != nil {
		c.t.Errorf("%s: close: %v", how, err)
	}
	if !more {
		return
	}
	if e, err = journal.Open(ctx, "/data", small(disk)); err != nil {
		c.t.Errorf("%s: open again: %v", how, err)
		return
	}
	if err := l.check(ctx, e, before); err != nil {
		c.t.Errorf("%s: after going on: %v", how, err)
	}
	if err := e.Close(ctx); err != nil {
		c.t.Errorf("%s: close: %v", how, err)
	}
}
