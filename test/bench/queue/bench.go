package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"
)

// plan says how much is measured.
type plan struct {
	rounds    int
	warmUp    time.Duration // before each window
	length    time.Duration // of each window
	hotWarmUp time.Duration // before bytes are counted
	hotLength time.Duration
	backlog   int // messages
	longRuns  int // of what takes long: bytes written and the backlog
}

func fullPlan(backlog int) plan {
	return plan{
		rounds: 5, warmUp: 500 * time.Millisecond, length: 2 * time.Second,
		hotWarmUp: 3 * time.Second, hotLength: 5 * time.Second, backlog: backlog, longRuns: 3,
	}
}

func shortPlan(backlog int) plan {
	return plan{
		rounds: 1, warmUp: 200 * time.Millisecond, length: 700 * time.Millisecond,
		hotWarmUp: time.Second, hotLength: time.Second, backlog: backlog, longRuns: 1,
	}
}

// offer is a load of publishers.
type offer struct {
	name       string
	publishers int
	topics     int
}

const (
	one       = "1 publisher"
	some      = "64 publishers"
	many      = "512 publishers"
	someTopic = "64 publishers on 64 topics"
	manyTopic = "512 publishers on 512 topics"
	full      = "64 publishers, 8 consumers"
	hot       = "bytes written per payload byte, consumed at once"
	waiting   = "backlog"
	disk      = "raw"
)

// offers are in an order that puts those side by side which are compared.
func offers() []offer {
	return []offer{{one, 1, 1}, {some, 64, 1}, {someTopic, 64, 64}, {many, 512, 1}, {manyTopic, 512, 512}}
}

// bench measures all variants in turn and collects the results.
type bench struct {
	dir      string
	plan     plan
	variants []variant
	pool     []byte
	results  results
	progress io.Writer
}

func (b *bench) run(ctx context.Context) error {
	for round := range b.plan.rounds {
		b.say("round %d of %d", round+1, b.plan.rounds)
		if err := b.round(ctx); err != nil {
			return err
		}
		slices.Reverse(b.variants) // nobody is always the first
	}
	for range b.plan.longRuns {
		for _, v := range b.variants {
			b.say("bytes written and a backlog of %d, %s", b.plan.backlog, v.name)
			if err := b.hot(ctx, v); err != nil {
				return fmt.Errorf("%s, bytes written: %w", v.name, err)
			}
			if err := b.backlog(ctx, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, format+"\n", args...) // it is a comfort only
}

// round measures everything that is short, once.
func (b *bench) round(ctx context.Context) error {
	l, err := raw(b.dir, b.pool, newWindow(b.plan.warmUp, b.plan.length))
	if err != nil {
		return fmt.Errorf("raw: %w", err)
	}
	b.record(disk, disk, l)
	for _, o := range offers() {
		for _, v := range b.variants {
			err := b.with(ctx, v, o.topics, func(s store) error {
				l, err := publish(ctx, s, o.publishers, o.topics, b.pool, newWindow(b.plan.warmUp, b.plan.length))
				b.record(o.name, v.name, l)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s, %s: %w", v.name, o.name, err)
			}
		}
	}
	for _, v := range b.variants {
		err := b.with(ctx, v, 1, func(s store) error {
			w := newWindow(2*b.plan.warmUp, b.plan.length)
			l, consumed, err := cycle(ctx, s, 64, b.pool, w)
			b.record(full, v.name, l)
			b.results.set(key{full, v.name, rate}, w.perSecond(consumed))
			return err
		})
		if err != nil {
			return fmt.Errorf("%s, %s: %w", v.name, full, err)
		}
	}
	return nil
}

// with opens the variant in an empty directory and removes it afterwards.
func (b *bench) with(ctx context.Context, v variant, topics int, f func(s store) error) error {
	dir, err := os.MkdirTemp(b.dir, v.name)
	if err != nil {
		return err
	}
	runtime.GC() // the garbage of the one before is not this one's
	s, err := v.open(ctx, dir, topics)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.close(ctx), os.RemoveAll(dir))
}

// record keeps the figures of one window.
func (b *bench) record(what, variant string, l latencies) {
	b.results.add(key{what, variant, rate}, float64(len(l))/b.plan.length.Seconds())
	b.results.add(key{what, variant, p50}, l.quantile(0.5))
	b.results.add(key{what, variant, p99}, l.quantile(0.99))
}

// hot counts the bytes that a full cycle writes once it runs.
func (b *bench) hot(ctx context.Context, v variant) error {
	return b.with(ctx, v, 1, func(s store) error {
		if _, _, err := cycle(ctx, s, 64, b.pool, newWindow(0, b.plan.hotWarmUp)); err != nil {
			return err
		}
		before, err := written()
		if err != nil {
			return err
		}
		l, _, err := cycle(ctx, s, 64, b.pool, newWindow(0, b.plan.hotLength))
		if err != nil {
			return err
		}
		after, err := written()
		b.results.add(key{hot, v.name, count}, float64(after-before)/float64(len(l))/payloadSize)
		return err
	})
}

func (b *bench) backlog(ctx context.Context, v variant) error {
	l, d, err := backlog(ctx, v, b.dir, b.plan.backlog)
	if err != nil {
		return err
	}
	for metric, value := range map[string]float64{
		loadRate: l.PerSecond, loadWritten: l.Written, loadMemory: float64(l.Resident),
		opening: d.Opening.Seconds(), openMemory: float64(d.OpenResident),
		drainRate: d.PerSecond, drainMemory: float64(d.DrainingResident),
	} {
		b.results.add(key{waiting, v.name, metric}, value)
	}
	return nil
}
