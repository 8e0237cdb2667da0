package journal_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// TestCrash cuts the power at every call that changes the disk, in every way: each of
// the four survivals of what was not synced, with the names that were not synced kept
// and lost; and a second time during one recovery of ten.
func TestCrash(t *testing.T) {
	c := &crashes{t: t, pool: newPool()}
	target := int64(amount(t, 1_200, 24_000))
	first := seedOf(t)
	for seed := first; c.recoveries.Load() < target && !t.Failed(); seed++ {
		c.start(seed)
		if err := script(t.Context(), varied(vfs.WithHook(c.mem, c.hook), seed), c.ledger, seed, 36, 2); err != nil {
			t.Errorf("seed %d: script: %v", seed, err)
		}
		c.scripts++
	}
	c.pool.wait()
	t.Logf("%d scripts, %d crash points, %d recoveries, %d of them after a second crash, %d went on and were opened again, %d of those after a third crash; %d torn tails seen by verify; 0 acknowledged lost, 0 wrong bytes, 0 refused opens: %v",
		c.scripts, c.points, c.recoveries.Load(), c.double.Load(), c.onward.Load(), c.third.Load(), c.torn.Load(), !t.Failed())
	if c.double.Load() == 0 || c.third.Load() == 0 || c.torn.Load() == 0 {
		t.Error("a way to crash was never taken")
	}
}

type crashes struct {
	t    *testing.T
	pool *pool

	mu      sync.Mutex // one crash at a time
	seed    uint64
	mem     *vfs.Mem
	ledger  *ledger
	rng     *rand.Rand
	scripts int
	points  int

	recoveries, double, torn, onward, third atomic.Int64
}

func (c *crashes) start(seed uint64) {
	c.seed, c.mem, c.ledger = seed, vfs.NewMem(), newLedger()
	c.rng = rand.New(rand.NewPCG(seed, 7))
}

// hook cuts the power before the call.
func (c *crashes) hook(op vfs.Op, name string) error {
	if !op.Changes() || c.t.Failed() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.points++
	// What was promised before the cuts must be found; what was offered after them may be.
	before := c.ledger.clone()
	var all []*recovered
	for _, mode := range vfs.Survivals() {
		for _, names := range []bool{false, true} {
			all = append(all, &recovered{
				c: c, disk: c.mem.Crash(c.rng, mode, names), before: before, seed: c.seed, rng: rand.New(rand.NewPCG(c.rng.Uint64(), 1)),
				how: fmt.Sprintf("seed %d, before %s %s (point %d), survival %d, names kept %v", c.seed, op, name, c.points, mode, names),
			})
		}
	}
	after := c.ledger.clone()
	c.pool.do(func() {
		for _, r := range all {
			r.after = after
			if err := r.run(c.t.Context()); err != nil {
				c.t.Errorf("%s: %v", r.how, err)
			}
		}
	})
	return nil
}

// recovered is a disk after a cut.
type recovered struct {
	c             *crashes
	disk          *vfs.Mem
	before, after *ledger
	seed          uint64
	rng           *rand.Rand
	how           string
}

func (r *recovered) open(ctx context.Context, disk vfs.FS) (*journal.Engine, error) {
	e, err := journal.Open(ctx, "/data", varied(disk, r.seed))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return e, nil
}

func (r *recovered) run(ctx context.Context) error {
	r.c.recoveries.Add(1)
	if r.rng.IntN(10) == 0 {
		r.c.double.Add(1)
		if err := r.again(ctx); err != nil {
			return fmt.Errorf("second crash: %w", err)
		}
	}
	if r.rng.IntN(4) == 0 {
		if err := r.verify(ctx); err != nil {
			return err
		}
	}
	e, err := r.open(ctx, r.disk)
	if err != nil {
		return err
	}
	if err := r.after.check(ctx, e, r.before); err != nil {
		return errors.Join(err, e.Close(ctx))
	}
	if r.rng.IntN(3) != 0 {
		return e.Close(ctx)
	}
	r.c.onward.Add(1)
	return r.goOn(ctx, e)
}

// goOn works with a recovered engine and opens it again, half of the time after a third
// cut: what it promises must hold too.
func (r *recovered) goOn(ctx context.Context, e *journal.Engine) error {
	l := r.before.clone()
	l.offered, l.settled, l.units = r.after.offered, r.after.settled, r.after.units
	l = l.clone()
	l.waiting = nil // whether these acknowledgements were stable is not known
	if err := r.work(ctx, l, e); err != nil {
		return errors.Join(fmt.Errorf("going on: %w", err), e.Close(ctx))
	}
	disk := r.disk
	if r.rng.IntN(2) == 0 {
		r.c.third.Add(1)
		disk = disk.Crash(r.rng, vfs.Survivals()[r.rng.IntN(4)], r.rng.IntN(2) == 0)
	}
	if err := e.Close(ctx); err != nil {
		return err
	}
	e, err := r.open(ctx, disk)
	if err != nil {
		return fmt.Errorf("after going on: %w", err)
	}
	if err := l.check(ctx, e, l); err != nil {
		return errors.Join(fmt.Errorf("after going on: %w", err), e.Close(ctx))
	}
	return e.Close(ctx)
}

// work publishes and consumes a little.
func (r *recovered) work(ctx context.Context, l *ledger, e *journal.Engine) error {
	in, err := e.Topic(ctx, "in")
	if err != nil {
		return err
	}
	out, err := e.Topic(ctx, "out")
	if err != nil {
		return err
	}
	sub, err := in.Subscribe(ctx, "s", queue.SubOptions{})
	if err != nil {
		return err
	}
	for i := range 1 + r.rng.IntN(6) {
		if err := l.publish(ctx, in, fmt.Sprintf("after-%d", i), fmt.Sprintf("after-%d-too", i)); err != nil {
			return err
		}
		if sub.Stats().Backlog > uint64(sub.Stats().InFlight) && r.rng.IntN(3) > 0 {
			if err := l.consume(ctx, e, sub, out, r.rng); err != nil {
				return err
			}
		}
	}
	return l.check(ctx, e, l.clone())
}

// again cuts the power a second time, during the recovery.
func (r *recovered) again(ctx context.Context) error {
	left := r.rng.IntN(12)
	mode, names := vfs.Survivals()[r.rng.IntN(4)], r.rng.IntN(2) == 0
	var mu sync.Mutex
	var second *vfs.Mem
	e, err := r.open(ctx, vfs.WithHook(r.disk, func(op vfs.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Changes() {
			if left--; left < 0 && second == nil {
				second = r.disk.Crash(r.rng, mode, names)
			}
		}
		return nil
	}))
	if err != nil {
		return err
	}
	if err := e.Close(ctx); err != nil {
		return err
	}
	if second != nil {
		r.disk = second
	}
	return nil
}

// verify looks at what the cut left behind: a torn tail perhaps, never damage.
func (r *recovered) verify(ctx context.Context) error {
	rep, err := journal.VerifyWith(ctx, "/data", varied(r.disk, r.seed))
	switch {
	case errors.Is(err, fs.ErrNotExist): // the power went before there was a directory
		return nil
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	case rep.Status == journal.Torn:
		r.c.torn.Add(1)
	case rep.Status != journal.Clean:
		return fmt.Errorf("verify: %+v", rep)
	}
	return nil
}
