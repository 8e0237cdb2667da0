//go:build brokers

package amqp1

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// bridge moves n messages while fault happens: none may be missing.
func (b realPeer) bridge(t *testing.T, n int, fault func()) {
	from, to := b.fresh(t), b.fresh(t)
	got := newRecorder()
	group := run.NewGroup(t.Context())
	sink := testSink(t, b.peer, to, func(c *SinkConfig) { c.Timeout = 3 * time.Second })
	next := message.HandlerFunc(func(ctx context.Context, batch *message.Batch) error {
		err := sink.Handle(ctx, batch)
		if err != nil {
			run.Pause(ctx, 50*time.Millisecond)
		}
		return err
	})
	supervise := func(from string, next message.Handler) {
		group.Go("supervisor", func(ctx context.Context) error {
			for ctx.Err() == nil {
				_ = testSource(t, b.peer, from, func(c *SourceConfig) { c.Credit = 100 }).Run(ctx, next)
				run.Pause(ctx, 50*time.Millisecond)
			}
			return nil
		})
	}
	supervise(from, next)
	feed := testSink(t, b.peer, from, func(c *SinkConfig) { c.Timeout = 3 * time.Second })
	confirmed := map[string]bool{}
	put := func(at int) {
		batch := numbered(at, 100)
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
	supervise(to, got)
	eventually(t, "everything that was confirmed arrives", func() bool {
		seen := map[string]bool{}
		for _, m := range got.all() {
			seen[string(m.Payload)] = true
		}
		for id := range confirmed {
			if !seen[id] {
				return false
			}
		}
		return true
	})
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d confirmed, %d arrived, 0 missing", len(confirmed), len(got.all()))
}

func TestBrokerKill(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		if !b.durable {
			t.Skip("it forgets everything")
		}
		b.bridge(t, 4000, func() {
			brokersenv.Do(t, "kill", b.name)
			brokersenv.Do(t, "up", b.name)
		})
	})
}

// A peer that is silent, with its connection open, is noticed.
func TestBrokerPause(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		s := testSource(t, b.peer, b.fresh(t), func(c *SourceConfig) { c.IdleTimeout = 3 * time.Second })
		h := newRecorder()
		group := run.NewGroup(t.Context())
		group.Go("run", func(ctx context.Context) error { return s.Run(ctx, h) })
		if err := testSink(t, b.peer, s.(*source).cfg.Address, nil).Handle(t.Context(), numbered(0, 1)); err != nil {
			t.Fatal(err)
		}
		h.wait(t, 1)
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

// The bad manners of the peer on Proton.
func TestBrokerMisbehaves(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		if !b.misbehaves {
			t.Skip("it behaves")
		}
		to := func(address string) map[int]error {
			s := testSink(t, b.peer, address, func(c *SinkConfig) { c.Timeout = time.Second })
			return failures(t, s.Handle(t.Context(), numbered(0, 5)))
		}
		n := name(t)
		for address, want := range map[string]string{"reject/" + n: codeRejected, "release/" + n: codeNotTaken, "modify/" + n: codeNotTaken} {
			failed := to(address)
			for i := range 5 {
				if r := reasonOf(failed[i]); r.Code != want || r.Permanent || message.IsUnavailable(failed[i]) || strings.Contains(failed[i].Error(), "takes nothing") {
					t.Errorf("%s: message %d: %v", address, i, failed[i])
				}
			}
		}
		for _, address := range []string{"hang/" + n, "nocredit/" + n, "denied/" + n} {
			failed := to(address)
			for i := range 5 {
				if !message.IsUnavailable(failed[i]) {
					t.Errorf("%s: message %d: %v", address, i, failed[i])
				}
			}
			if address == "denied/"+n && !strings.Contains(failed[0].Error(), "LS4326") {
				t.Errorf("denied: %v", failed[0])
			}
		}
		for _, address := range []string{"detach/3/" + n, "cut/3/" + n} {
			s := testSink(t, b.peer, address, func(c *SinkConfig) { c.Timeout = time.Second })
			taken := map[string]bool{}
			for round := 0; len(taken) < 20 && round < 20; round++ {
				batch := numbered(0, 20)
				failed := failures(t, s.Handle(t.Context(), batch))
				for i, m := range batch.Messages {
					if failed[i] == nil {
						taken[string(m.Payload)] = true
					} else if !message.IsUnavailable(failed[i]) {
						t.Errorf("%s: message %d: %v", address, i, failed[i])
					}
				}
				if len(taken) > 0 {
					break // three in a link; the rest waits for the next
				}
			}
			if len(taken) == 0 && strings.HasPrefix(address, "detach") { // a cut may overtake the outcomes
				t.Errorf("%s: nothing was taken", address)
			}
		}
		settled := testSink(t, b.peer, "queue/"+n, func(c *SinkConfig) { c.Settlement = settleSettled })
		if err := settled.Handle(t.Context(), numbered(0, 100)); err != nil {
			t.Errorf("settled: %v", err)
		}
		collect(t, b.peer, "queue/"+n).wait(t, 100)
		many := testSink(t, b.peer, "", func(c *SinkConfig) { c.Address = computed() })
		batch := numbered(0, 200)
		for i := range batch.Messages {
			batch.Messages[i].Options = []string{"queue/" + n + strconv.Itoa(i)}
		}
		if err := many.Handle(t.Context(), batch); err != nil {
			t.Errorf("200 addresses: %v", err)
		}
	})
}

// What one message costs, both ends together, in CPU of this process.
func TestBrokerCost(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		const n = 20_000
		from, to := b.fresh(t), b.fresh(t)
		sink := testSink(t, b.peer, from, nil)
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
		out := testSink(t, b.peer, to, nil)
		arrived := make(chan int, 1024)
		before, began := cpu(), time.Now()
		start(t, testSource(t, b.peer, from, nil), message.HandlerFunc(func(ctx context.Context, batch *message.Batch) error {
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
