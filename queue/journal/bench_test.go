package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

const benchPayload = 1 << 10

// counted opens an engine on a real disk that counts its syncs.
func counted(b *testing.B) (queue.Engine, *atomic.Int64) {
	b.Helper()
	syncs := new(atomic.Int64)
	fs := vfs.WithHook(vfs.OS(), func(op vfs.Op, _ string) error {
		if op == vfs.OpDatasync {
			syncs.Add(1)
		}
		return nil
	})
	e, err := journal.Open(b.Context(), b.TempDir(), journal.Options{FS: fs})
	if err != nil {
		b.Fatal(err)
	}
	return e, syncs
}

// latencies collects samples of several goroutines.
type latencies struct {
	perWorker [][]time.Duration
}

func (l *latencies) report(b *testing.B) {
	b.Helper()
	all := slices.Concat(l.perWorker...)
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFdatasync is what the disk can do: one 1 KiB write and sync after the
// other, into a file whose blocks are there.
func BenchmarkFdatasync(b *testing.B) {
	const size = 64 << 20
	name := filepath.Join(b.TempDir(), "raw")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := vfs.OS().Open(name)
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, benchPayload)
	l := latencies{perWorker: make([][]time.Duration, 1)}
	at := int64(0)
	for b.Loop() {
		start := time.Now()
		if _, err := f.WriteAt(data, at%size); err != nil {
			b.Fatal(err)
		}
		if err := f.Datasync(); err != nil {
			b.Fatal(err)
		}
		at += benchPayload
		l.perWorker[0] = append(l.perWorker[0], time.Since(start))
	}
	l.report(b)
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// publishers publish b.N messages between them.
func publishers(b *testing.B, topics []queue.Topic, n int) *latencies {
	b.Helper()
	l := &latencies{perWorker: make([][]time.Duration, n)}
	var left atomic.Int64
	left.Store(int64(b.N))
	g := run.NewGroup(b.Context())
	for p := range n {
		g.Go("publisher", func(ctx context.Context) error {
			msgs := []message.Message{{ID: strconv.Itoa(p), Payload: make([]byte, benchPayload)}}
			for left.Add(-1) >= 0 {
				start := time.Now()
				if _, err := topics[p%len(topics)].Publish(ctx, msgs); err != nil {
					return err
				}
				l.perWorker[p] = append(l.perWorker[p], time.Since(start))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return l
}

// BenchmarkPublish measures durable publishing without consumers.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ publishers, topics int }{{1, 1}, {64, 1}, {512, 1}, {64, 64}, {512, 512}} {
		b.Run(fmt.Sprintf("publishers=%d/topics=%d", c.publishers, c.topics), func(b *testing.B) {
			e, syncs := counted(b)
			topics := make([]queue.Topic, c.topics)
			for i := range topics {
				var err error
				if topics[i], err = e.Topic(b.Context(), strconv.Itoa(i)); err != nil {
					b.Fatal(err)
				}
			}
			publishers(b, topics, min(c.publishers, b.N)) // the first segments are made
			before := syncs.Load()
			b.ResetTimer()
			l := publishers(b, topics, c.publishers)
			b.StopTimer()
			l.report(b)
			b.ReportMetric(float64(syncs.Load()-before), "syncs")
			if err := e.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkCycle measures the whole way: publish, receive, acknowledge.
func BenchmarkCycle(b *testing.B) {
	for _, n := range []int{64, 512} {
		b.Run(fmt.Sprintf("publishers=%d/consumers=8", n), func(b *testing.B) {
			e, syncs := counted(b)
			topic, err := e.Topic(b.Context(), "t")
			if err != nil {
				b.Fatal(err)
			}
			sub, err := topic.Subscribe(b.Context(), "s", queue.SubOptions{MaxInFlight: 4096})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var got atomic.Int64
			consumers := run.NewGroup(ctx)
			for range 8 {
				consumers.Go("consumer", func(ctx context.Context) error {
					var offsets []uint64
					for {
						records, err := sub.Receive(ctx, 256)
						if err != nil {
							return nil
						}
						offsets = offsets[:0]
						for i := range records {
							offsets = append(offsets, records[i].Offset)
						}
						if err := sub.Ack(offsets...); err != nil {
							return err
						}
						if got.Add(int64(len(records))) == int64(b.N) {
							cancel()
						}
					}
				})
			}
			b.ResetTimer()
			l := publishers(b, []queue.Topic{topic}, n)
			if err := consumers.Wait(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			l.report(b)
			b.ReportMetric(float64(syncs.Load()), "syncs")
			cancel()
			if err := e.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkBacklog opens a directory with many messages and drains it.
func BenchmarkBacklog(b *testing.B) {
	const n = 200_000
	var opening, draining time.Duration
	for b.Loop() {
		dir := b.TempDir()
		backlog(b, dir, n)
		start := time.Now()
		e, err := journal.Open(b.Context(), dir, journal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		opening += time.Since(start)
		start = time.Now()
		drain(b, e, n)
		draining += time.Since(start)
		if err := e.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(opening.Milliseconds())/float64(b.N), "open-ms")
	b.ReportMetric(float64(b.N)*n/draining.Seconds(), "msg/s")
	b.ReportMetric(0, "ns/op")
}

// backlog fills a directory.
func backlog(b *testing.B, dir string, n int) {
	b.Helper()
	e, err := journal.Open(b.Context(), dir, journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	topic, err := e.Topic(b.Context(), "t")
	if err != nil {
		b.Fatal(err)
	}
	msgs := make([]message.Message, 1000)
	for i := range msgs {
		msgs[i].Payload = make([]byte, benchPayload)
	}
	for range n / len(msgs) {
		if _, err := topic.Publish(b.Context(), msgs); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// drain receives and settles n messages.
func drain(b *testing.B, e queue.Engine, n int) {
	b.Helper()
	topic, err := e.Topic(b.Context(), "t")
	if err != nil {
		b.Fatal(err)
	}
	sub, err := topic.Subscribe(b.Context(), "s", queue.SubOptions{MaxInFlight: 4096})
	if err != nil {
		b.Fatal(err)
	}
	var offsets []uint64
	for got := 0; got < n; got += len(offsets) {
		records, err := sub.Receive(b.Context(), 256)
		if err != nil {
			b.Fatal(err)
		}
		offsets = offsets[:0]
		for i := range records {
			offsets = append(offsets, records[i].Offset)
		}
		if err := sub.Ack(offsets...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublishBatch publishes batches of 900 messages, as a source with a backlog does.
func BenchmarkPublishBatch(b *testing.B) {
	e, _ := counted(b)
	topic, err := e.Topic(b.Context(), "t")
	if err != nil {
		b.Fatal(err)
	}
	msgs := make([]message.Message, 900)
	for i := range msgs {
		msgs[i] = message.Message{ID: strconv.Itoa(i), Topic: "orders", Source: "in", Time: time.Now(), Payload: make([]byte, 1100)}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(msgs) {
		if _, err := topic.Publish(b.Context(), msgs); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := e.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}
