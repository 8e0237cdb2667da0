package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

const (
	payloadSize  = 1 << 10
	consumers    = 8
	receiveLimit = 256
)

// payloads returns a function that cuts payloads which do not compress out of one
// pool. Each goroutine has its own.
func payloads(pool []byte, seed uint64) func() []byte {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // no secrets are made of it
	return func() []byte {
		at := r.IntN(len(pool) - payloadSize)
		return pool[at : at+payloadSize]
	}
}

// newPool returns bytes that do not compress.
func newPool() []byte {
	pool := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(pool) // it never fails
	return pool
}

// window is when samples count.
type window struct{ from, to time.Time }

func newWindow(warmUp, length time.Duration) window {
	from := time.Now().Add(warmUp)
	return window{from: from, to: from.Add(length)}
}

func (w window) has(t time.Time) bool { return !t.Before(w.from) && t.Before(w.to) }

func (w window) perSecond(n int) float64 { return float64(n) / w.to.Sub(w.from).Seconds() }

// latencies are the times of one measurement.
type latencies []time.Duration

// quantile returns the latency in seconds below which the share q lies. l is sorted.
func (l latencies) quantile(q float64) float64 {
	if len(l) == 0 {
		return 0
	}
	return l[min(int(q*float64(len(l))), len(l)-1)].Seconds()
}

// publish runs publishers until the window ends and returns the latencies of what was
// stable within it, sorted.
func publish(ctx context.Context, s store, publishers, topics int, pool []byte, w window) (latencies, error) {
	perWorker := make([]latencies, publishers)
	g := run.NewGroup(ctx)
	for p := range publishers {
		g.Go("publisher", func(ctx context.Context) error {
			send, payload := s.publisher(p%topics), payloads(pool, uint64(p))
			for start := time.Now(); start.Before(w.to); {
				if err := send(ctx, payload()); err != nil {
					return err
				}
				end := time.Now()
				if w.has(end) {
					perWorker[p] = append(perWorker[p], end.Sub(start))
				}
				start = end
			}
			return nil
		})
	}
	err := g.Wait()
	all := slices.Concat(perWorker...)
	slices.Sort(all)
	return all, err
}

// cycle is publish with consumers. It also returns how many messages they acknowledged
// within the window, and leaves none behind.
func cycle(ctx context.Context, s store, publishers int, pool []byte, w window) (latencies, int, error) {
	if err := s.subscribe(ctx); err != nil {
		return nil, 0, err
	}
	var counted, consumed atomic.Int64
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g := run.NewGroup(ctx)
	for range consumers {
		g.Go("consumer", func(ctx context.Context) error {
			for {
				n, err := s.consume(ctx, receiveLimit)
				if errors.Is(err, context.Canceled) {
					return nil
				}
				if err != nil {
					return err
				}
				consumed.Add(int64(n))
				if w.has(time.Now()) {
					counted.Add(int64(n))
				}
			}
		})
	}
	sent := &tally{store: s}
	l, err := publish(ctx, sent, publishers, 1, pool, w)
	for err == nil && consumed.Load() < sent.count.Load() && run.Pause(g.Context(), time.Millisecond) { //nolint:contextcheck // the group ends when a consumer fails
	}
	stop()
	return l, int(counted.Load()), errors.Join(err, g.Wait())
}

// tally counts what was published.
type tally struct {
	store

	count atomic.Int64
}

func (t *tally) publisher(topic int) func(ctx context.Context, payload []byte) error {
	send := t.store.publisher(topic)
	return func(ctx context.Context, payload []byte) error {
		err := send(ctx, payload)
		if err == nil {
			t.count.Add(1)
		}
		return err
	}
}
