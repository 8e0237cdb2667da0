package journal_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// ledger is what the clients of a queue know: what they offered, what they were
// promised, and what they settled. It is the measure for what a recovery finds.
type ledger struct {
	mu       sync.Mutex
	offered  map[string][]byte // payload by id, before the call
	promised map[string]string // id → topic, after the call returned
	settled  map[string]bool   // before the call
	moves    map[string]string // id that was settled → id that was published with it
}

func newLedger() *ledger {
	return &ledger{offered: map[string][]byte{}, promised: map[string]string{}, settled: map[string]bool{}, moves: map[string]string{}}
}

func (l *ledger) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// clone copies the ledger; offered and settled may be ahead of promised.
func (l *ledger) clone() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &ledger{
		offered: maps.Clone(l.offered), promised: maps.Clone(l.promised),
		settled: maps.Clone(l.settled), moves: maps.Clone(l.moves),
	}
}

// payloadOf derives a payload from an id, so that wrong bytes show.
func payloadOf(id string) []byte {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	n := rng.IntN(600)
	switch rng.IntN(20) {
	case 0:
		n = 6000 + rng.IntN(12000)
	case 1:
		n = 0
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	return out
}

func msg(id string) message.Message {
	return message.Message{ID: id, Payload: payloadOf(id), Headers: message.Headers{{Name: "h", Value: message.String(id)}}}
}

func (l *ledger) publish(ctx context.Context, t queue.Topic, ids ...string) error {
	msgs := make([]message.Message, len(ids))
	for i, id := range ids {
		msgs[i] = msg(id)
	}
	l.do(func() {
		for i, id := range ids {
			l.offered[id] = msgs[i].Payload
		}
	})
	if _, err := t.Publish(ctx, msgs); err != nil {
		return err
	}
	l.do(func() {
		for _, id := range ids {
			l.promised[id] = t.Name()
		}
	})
	return nil
}

// consume receives once and settles, moves or releases what came.
func (l *ledger) consume(ctx context.Context, e queue.Engine, sub queue.Subscription, out queue.Topic, rng *rand.Rand) error {
	records, err := sub.Receive(ctx, 1+rng.IntN(4))
	if err != nil {
		return err
	}
	for _, r := range records {
		id := r.Message.ID
		switch rng.IntN(8) {
		case 0:
			err = sub.Release(0, r.Offset)
		case 1:
			moved := "moved-" + id
			copied := msg(moved)
			l.do(func() { l.offered[moved], l.settled[id], l.moves[id] = copied.Payload, true, moved })
			err = e.Atomic(ctx, queue.Tx{
				Publish: []queue.TxPublish{{Topic: out, Messages: []message.Message{copied}}},
				Ack:     []queue.TxAck{{Subscription: sub, Offsets: []uint64{r.Offset}}},
			})
			if err == nil {
				l.do(func() { l.promised[moved] = out.Name() })
			}
		default:
			l.do(func() { l.settled[id] = true })
			err = sub.Ack(r.Offset)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check compares an opened engine with the ledger. promised is from before the crash,
// l from after it.
func (l *ledger) check(ctx context.Context, e *journal.Engine, promised map[string]string) error {
	held := map[string]bool{}
	for _, name := range e.Topics() {
		t, err := e.Topic(ctx, name)
		if err != nil {
			return err
		}
		last := -1
		for r, err := range t.Browse(ctx, 0) {
			if err != nil {
				return fmt.Errorf("browse %s: %w", name, err)
			}
			id := r.Message.ID
			payload, offered := l.offered[id]
			if !offered || held[id] || int(r.Offset) <= last {
				return fmt.Errorf("topic %s offset %d: unexpected message %q", name, r.Offset, id)
			}
			last, held[id] = int(r.Offset), true
			if string(r.Message.Payload) != string(payload) || r.Message.Headers.Text("h") != id {
				return fmt.Errorf("topic %s offset %d: wrong bytes in %q", name, r.Offset, id)
			}
		}
	}
	for id, topic := range promised {
		if !held[id] && !l.settled[id] {
			return fmt.Errorf("promised message %q of %s is lost", id, topic)
		}
	}
	for id, moved := range l.moves {
		if held[id] == held[moved] {
			return fmt.Errorf("atomic move of %q: held %v, its copy %v", id, held[id], held[moved])
		}
	}
	if r := e.Report(); r.Status == journal.Damaged {
		return fmt.Errorf("damage reported where there is none: %+v", r)
	}
	return nil
}

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
	n, openings, budget := 180, 5, 25*time.Second
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
			before := c.ledger.clone().promised
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

func (c *crashes) recover(disk *vfs.Mem, promised map[string]string, l *ledger, how string) {
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
	if err := l.check(ctx, e, promised); err != nil {
		c.t.Errorf("%s: %v", how, err)
	}
	more := c.rng.IntN(4) == 0
	if more { // the recovered engine works, and stays right when it is opened again
		promised = maps.Clone(promised)
		more := &ledger{offered: l.offered, promised: promised, settled: l.settled, moves: l.moves}
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
	if err := l.check(ctx, e, promised); err != nil {
		c.t.Errorf("%s: after going on: %v", how, err)
	}
	if err := e.Close(ctx); err != nil {
		c.t.Errorf("%s: close: %v", how, err)
	}
}
