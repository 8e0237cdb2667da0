//go:build brokers

package amqp091

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// bridge moves n messages from a queue to another while fault happens, and returns how
// many are missing at the end.
func (b realBroker) bridge(t *testing.T, kind string, n int, fault func()) {
	from, to := b.fresh(t, kind, nil), b.fresh(t, kind, nil)
	group := run.NewGroup(t.Context())
	env := testEnv(t)
	sink := testSink(t, b.app, to, func(c *SinkConfig) { c.Timeout = 3 * time.Second })
	next := message.HandlerFunc(func(ctx context.Context, batch *message.Batch) error {
		err := sink.Handle(ctx, batch)
		if err != nil {
			run.Pause(ctx, 50*time.Millisecond)
		}
		return err
	})
	group.Go("supervisor", func(ctx context.Context) error {
		for ctx.Err() == nil {
			_ = testSource(t, b.app, env, from, func(c *SourceConfig) { c.Prefetch, c.Heartbeat = 100, time.Second }).Run(ctx, next)
			run.Pause(ctx, 50*time.Millisecond)
		}
		return nil
	})
	feed := testSink(t, b.app, from, nil)
	confirmed := map[string]bool{}
	put := func(at int) {
		batch := keyed(numbered(at, 100))
		err := feed.Handle(t.Context(), batch)
		failed := map[int]error{}
		if partial, ok := errors.AsType[*message.PartialError](err); ok {
			failed = failures(t, partial)
		} else if err != nil {
			return
		}
		for i, m := range batch.Messages {
			if failed[i] == nil {
				confirmed[string(m.Payload)] = true
			}
		}
	}
	for at := 0; at < n/2; at += 100 {
		put(at)
	}
	fault()
	for at := n / 2; at < n; at += 100 {
		put(at)
	}
	got := collect(t, b.app, to)
	var missing int
	eventually(t, "everything that was confirmed arrives", func() bool {
		seen := map[string]bool{}
		for _, m := range got.all() {
			seen[string(m.Payload)] = true
		}
		missing = 0
		for id := range confirmed {
			if !seen[id] {
				missing++
			}
		}
		return missing == 0
	})
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d confirmed, %d arrived, %d missing", len(confirmed), len(got.all()), missing)
}

func TestBrokerRestart(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		b.bridge(t, "", 4000, func() { brokersenv.Do(t, "restart", b.name) })
	})
}

func TestBrokerKill(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		b.bridge(t, "", 4000, func() {
			brokersenv.Do(t, "kill", b.name)
			brokersenv.Do(t, "up", b.name)
		})
	})
}

// A broker that is silent, with its connection open, is noticed by its heartbeats.
func TestBrokerPause(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		queue := b.fresh(t, "", nil)
		ch := client(t, b.app)
		s := testSource(t, b.app, testEnv(t), queue, func(c *SourceConfig) { c.Heartbeat = 2 * time.Second })
		group := run.NewGroup(t.Context())
		group.Go("run", func(ctx context.Context) error { return s.Run(ctx, newRecorder()) })
		eventually(t, "consumes", func() bool {
			q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err == nil && q.Consumers == 1
		})
		began := time.Now()
		brokersenv.Do(t, "pause", b.name)
		defer brokersenv.Do(t, "resume", b.name)
		err := group.Wait()
		if took := time.Since(began); err == nil || took > 15*time.Second {
			t.Errorf("after %s: %v", took, err)
		} else {
			t.Logf("noticed after %s: %v", took.Round(100*time.Millisecond), err)
		}
	})
}

// What one message costs, both ends together, in CPU of this process.
func TestBrokerCost(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		const n = 50_000
		from, to := b.fresh(t, "", nil), b.fresh(t, "", nil)
		sink := testSink(t, b.app, from, nil)
		body := []byte(strings.Repeat("x", 1024))
		for range n / 500 {
			batch := &message.Batch{}
			for range 500 {
				batch.Messages = append(batch.Messages, message.Message{ID: "id", ContentType: "application/json", Priority: 4, Payload: body})
			}
			if err := sink.Handle(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		}
		out := testSink(t, b.app, to, nil)
		arrived := make(chan int, 1024)
		before, began := cpu(), time.Now()
		start(t, testSource(t, b.app, testEnv(t), from, nil), message.HandlerFunc(func(ctx context.Context, batch *message.Batch) error {
			err := out.Handle(ctx, batch)
			arrived <- batch.Len()
			return err
		}))
		batches := 0
		for sum := 0; sum < n; batches++ {
			sum += <-arrived
		}
		took := time.Since(began)
		t.Logf("%d messages of 1 KiB in %d batches: %.1f µs of CPU a message, %.0f messages a second", n, batches, float64((cpu()-before).Microseconds())/n, n/took.Seconds())
	})
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestBrokerQueueDeleted(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		queue := b.fresh(t, "", nil)
		ch := client(t, b.app)
		s := testSource(t, b.app, testEnv(t), queue, nil)
		group := run.NewGroup(t.Context())
		group.Go("run", func(ctx context.Context) error { return s.Run(ctx, newRecorder()) })
		eventually(t, "consumes", func() bool {
			q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err == nil && q.Consumers == 1
		})
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
		if err := group.Wait(); err == nil || !strings.Contains(err.Error(), "LS4313") {
			t.Errorf("got %v", err)
		}
	})
}
