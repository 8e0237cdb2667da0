package journal_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// TestFlip damages directories in every way: wrong bytes are never handed out, what is
// lost is lost from the damaged frames alone, it is reported, and named by topic and
// offset; and the engine goes on.
func TestFlip(t *testing.T) {
	n := amount(t, 900, 12_000)
	all := bases(t)
	names := slices.Sorted(maps.Keys(kinds()))
	d := &damages{seen: map[string]int{}}
	p := newPool()
	seed := seedOf(t)
	for i := range n {
		if t.Failed() {
			break
		}
		b, kind := &all[i%len(all)], names[i/len(all)%len(names)]
		p.do(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			disk := b.mem.Crash(rng, vfs.KeepAll, true)
			h, err := inflict(rng, disk, kind, files(t, disk))
			if err == nil {
				err = d.judge(t.Context(), b, disk, h, rng)
			}
			if err != nil {
				t.Errorf("case %d: %s: %s %s: %s: %v", i, b.name, h.kind, h.file.name, h.what, err)
			}
		})
	}
	p.wait()
	for _, k := range slices.Sorted(maps.Keys(d.seen)) {
		t.Logf("%-40s %d", k, d.seen[k])
	}
	t.Logf("%d damages of %d kinds in %d directories; 0 wrong bytes, 0 silent losses, 0 refused opens: %v", n, len(names), len(all), !t.Failed())
}

type damages struct {
	mu   sync.Mutex
	seen map[string]int
}

func (d *damages) count(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[what]++
}

func (d *damages) judge(ctx context.Context, b *base, disk *vfs.Mem, h *harm, rng *rand.Rand) error {
	verified, err := journal.Verify(ctx, disk, "/data")
	missingFormat := h.gone && h.file.name == "/data/FORMAT"
	if err != nil && !missingFormat {
		return fmt.Errorf("verify: %w", err)
	}
	e, err := journal.Open(ctx, "/data", small(disk))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	held, err := b.l.browse(ctx, e, b.l)
	if err != nil {
		return errors.Join(err, e.Close(ctx))
	}
	rep := e.Report()
	d.count(h.kind + " → " + rep.Status.String())
	if err := b.losses(h, held, rep, verified); err != nil {
		return errors.Join(err, e.Close(ctx))
	}
	if strings.Contains(h.file.name, "checkpoint-") && (len(rep.Damage) > 0 || len(rep.Lost) > 0) {
		return errors.Join(fmt.Errorf("one checkpoint is enough: %+v", rep), e.Close(ctx))
	}
	return b.goOn(ctx, e, disk, held, rng)
}

// losses compares what is there with what should be.
func (b *base) losses(h *harm, held map[string]bool, rep, verified journal.Report) error {
	named := map[spot]bool{}
	for _, l := range rep.Lost {
		for o := l.First; o <= l.Last; o++ {
			named[spot{l.Topic, o}] = true
		}
	}
	lost := 0
	for id, at := range b.l.promised {
		switch {
		case held[id] && named[at]:
			return fmt.Errorf("message %q is reported as lost and is not", id)
		case held[id] || b.l.settled[id]:
			continue
		}
		lost++
		switch exempt := b.unmarked[id] || h.tailGone(b, at); {
		case !exempt && rep.Status != journal.Damaged:
			return fmt.Errorf("message %q at %v is lost, and the report says %v", id, at, rep.Status)
		case !exempt && verified.Status != journal.Damaged:
			return fmt.Errorf("message %q at %v is lost, and verify says %v", id, at, verified.Status)
		case !exempt && !named[at]:
			return fmt.Errorf("message %q at %v is lost and not named: %+v", id, at, rep)
		}
	}
	if reach := h.reach(); lost > reach {
		return fmt.Errorf("%d messages lost, %d at most were in the damaged frames: %+v", lost, reach, rep)
	}
	if h.kind == "cut" && h.file.segment() && lost > 0 && verified.Status != journal.Damaged {
		return fmt.Errorf("a cut file that cost %d messages reads as %v", lost, verified.Status)
	}
	return nil
}

// tailGone reports whether the end of the journal is missing, so that nothing tells
// which messages were there.
func (h *harm) tailGone(b *base, at spot) bool {
	if h.kind != "cut" && h.kind != "missing" {
		return false
	}
	for _, other := range b.l.promised {
		if other.topic == at.topic && other.offset > at.offset {
			return false
		}
	}
	return true
}

// goOn publishes behind the damage, cuts the power, and finds it all again.
func (b *base) goOn(ctx context.Context, e *journal.Engine, disk *vfs.Mem, held map[string]bool, rng *rand.Rand) error {
	for _, name := range []string{"a", "b"} {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			return errors.Join(err, e.Close(ctx))
		}
		for i := range 3 {
			if _, err := topic.Publish(ctx, newLedger().offer(fmt.Sprintf("more-%s-%d", name, i))); err != nil {
				return errors.Join(fmt.Errorf("publish behind the damage: %w", err), e.Close(ctx))
			}
		}
	}
	cut := disk.Crash(rng, vfs.Survivals()[rng.IntN(4)], false)
	if err := e.Close(ctx); err != nil {
		return err
	}
	e, err := journal.Open(ctx, "/data", small(cut))
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	found := map[string]bool{}
	for _, name := range e.Topics() {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			return errors.Join(err, e.Close(ctx))
		}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				return errors.Join(err, e.Close(ctx))
			}
			if string(r.Message.Payload) != string(payloadOf(r.Message.ID)) || found[r.Message.ID] {
				return errors.Join(fmt.Errorf("after going on: wrong bytes in %q", r.Message.ID), e.Close(ctx))
			}
			found[r.Message.ID] = true
		}
	}
	for i := range 3 {
		for _, name := range []string{"a", "b"} {
			held[fmt.Sprintf("more-%s-%d", name, i)] = true
		}
	}
	for id := range held {
		if !found[id] {
			return errors.Join(fmt.Errorf("after going on: message %q is gone: %+v", id, e.Report()), e.Close(ctx))
		}
	}
	return e.Close(ctx)
}
