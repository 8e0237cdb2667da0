package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// script works with an engine on disk until n messages were published, closing and
// opening it in between.
func script(ctx context.Context, o journal.Options, l *ledger, seed uint64, n, openings int) error {
	for opening := range openings {
		e, err := journal.Open(ctx, "/data", o)
		if err != nil {
			return err
		}
		if err := work(ctx, e, l, seed*100+uint64(opening), n); err != nil {
			return errors.Join(err, e.Close(ctx))
		}
		if err := l.finish(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// finish checks the running engine and closes it, after which all is stable.
func (l *ledger) finish(ctx context.Context, e *journal.Engine) error {
	kept, err := e.Topic(ctx, "kept")
	if err == nil { // when this returns, calls that were given up have happened or not
		err = l.publish(ctx, kept, fmt.Sprintf("last-%d", len(l.units)))
	}
	if err == nil {
		err = l.check(ctx, e, l.clone())
	}
	if err := errors.Join(err, e.Close(ctx)); err != nil {
		return err
	}
	l.do(func() {
		for _, id := range l.waiting {
			l.final[id] = true
		}
	})
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
