package journal_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// -memory scales the memory battery: 100 is the size of the bars in percent. It needs
// 12 GB of disk at full size, and the quiet of one test alone in its process.
var memorySize = flag.Int("memory", 0, "percent of the memory battery's size; 0: leave it out")

// resident returns the memory of this process after a collection, in MiB.
func resident(t *testing.T) int {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc: resident memory is unknown")
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb / 1024
}

// fill publishes n messages from 256 publishers.
func fill(t *testing.T, topics []queue.Topic, n int, of func(i int) message.Message) {
	t.Helper()
	const publishers = 256
	g := run.NewGroup(t.Context())
	for p := range publishers {
		g.Go("publisher", func(ctx context.Context) error {
			batch := make([]message.Message, 0, 20)
			for i := p; i < n; i += publishers {
				batch = append(batch, of(i))
				if len(batch) == cap(batch) || i+publishers >= n {
					if _, err := topics[i/publishers%len(topics)].Publish(ctx, batch); err != nil {
						return err
					}
					batch = batch[:0]
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestMemory holds what the queue may need for much that waits, and that a start of it
// is quick.
func TestMemory(t *testing.T) {
	if *memorySize == 0 {
		t.Skip("needs -memory, and 12 GB of disk at -memory 100")
	}
	size := func(full int) int { return full * *memorySize / 100 }
	payload := make([]byte, 1000)
	o := journal.Options{FS: vfs.OS(), Reserve: 1}
	for _, tt := range []struct {
		name string
		n    int
		most int // MiB more than an empty engine
		open time.Duration
		fill func(t *testing.T, e *journal.Engine, n int)
	}{
		{"a backlog of 2M messages", size(2_000_000), 80, 500 * time.Millisecond, func(t *testing.T, e *journal.Engine, n int) {
			fill(t, []queue.Topic{openTopic(t, e, "t")}, n, func(int) message.Message { return message.Message{Payload: payload} })
		}},
		{"a backlog of 10M messages", size(10_000_000), 150, 2 * time.Second, func(t *testing.T, e *journal.Engine, n int) {
			fill(t, []queue.Topic{openTopic(t, e, "t")}, n, func(int) message.Message { return message.Message{Payload: payload} })
		}},
		{"1M messages delayed to next week", size(1_000_000), 100, 2 * time.Second, func(t *testing.T, e *journal.Engine, n int) {
			topic := openTopic(t, e, "t")
			later := time.Now().Add(7 * 24 * time.Hour)
			fill(t, []queue.Topic{topic}, n, func(i int) message.Message {
				return message.Message{Payload: payload, NotBefore: later.Add(time.Duration(i) * time.Millisecond)}
			})
			idle(t, topic)
		}},
		{"1M messages delayed for seconds to weeks, mixed", size(1_000_000), 150, 2 * time.Second, func(t *testing.T, e *journal.Engine, n int) {
			topic := openTopic(t, e, "t")
			start := time.Now().Add(time.Hour)
			fill(t, []queue.Topic{topic}, n, func(i int) message.Message {
				return message.Message{Payload: payload[:100], NotBefore: start.Add(time.Duration(i*7919%n) * time.Second)}
			})
			idle(t, topic)
		}},
		{"1M remembered IDs", size(1_000_000), 150, 2 * time.Second, func(t *testing.T, e *journal.Engine, n int) {
			topic := openTopic(t, e, "t")
			if err := topic.Configure(t.Context(), queue.TopicOptions{Dedup: time.Hour}); err != nil {
				t.Fatal(err)
			}
			fill(t, []queue.Topic{topic}, n, func(i int) message.Message { return message.Message{ID: strconv.Itoa(i)} })
		}},
		{"5,000 topics", size(5000), 100, 2 * time.Second, func(t *testing.T, e *journal.Engine, n int) {
			topics := make([]queue.Topic, n)
			for i := range topics {
				topics[i] = openTopic(t, e, fmt.Sprint("t", i))
			}
			fill(t, topics, n*100, func(int) message.Message { return message.Message{Payload: payload[:100]} })
		}},
		{"1M acknowledgements out of order", size(1_000_000), 80, 2 * time.Second, func(t *testing.T, e *journal.Engine, n int) {
			topic := openTopic(t, e, "t")
			fill(t, []queue.Topic{topic}, n, func(int) message.Message { return message.Message{Payload: payload[:10]} })
			sub, err := topic.Subscribe(t.Context(), "s", queue.SubOptions{MaxInFlight: n})
			if err != nil {
				t.Fatal(err)
			}
			for got := 0; got < n; {
				records, err := sub.Receive(t.Context(), 1000)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range records {
					if r.Offset%2 == 1 {
						if err := sub.Ack(r.Offset); err != nil {
							t.Fatal(err)
						}
					}
				}
				got += len(records)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			empty := resident(t)
			e, err := journal.Open(t.Context(), dir, o)
			if err != nil {
				t.Fatal(err)
			}
			before := runtime.NumGoroutine()
			start := time.Now()
			tt.fill(t, e, tt.n)
			took := time.Since(start)
			used := resident(t) - empty
			if n := runtime.NumGoroutine(); n > before+2 {
				t.Errorf("%d goroutines, %d before", n, before)
			}
			if err := e.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			start = time.Now()
			if e, err = journal.Open(t.Context(), dir, o); err != nil {
				t.Fatal(err)
			}
			opened := time.Since(start)
			reopened := resident(t) - empty
			t.Logf("%d: filled in %v, %d MiB; opened in %v, %d MiB", tt.n, took.Round(time.Millisecond), used, opened.Round(time.Millisecond), reopened)
			if used > tt.most || reopened > tt.most {
				t.Errorf("%d and %d MiB, at most %d", used, reopened, tt.most)
			}
			if opened > tt.open {
				t.Errorf("opened in %v, at most %v", opened, tt.open)
			}
			if err := e.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// idle has a receiver look at everything that waits.
func idle(t *testing.T, topic queue.Topic) {
	t.Helper()
	sub, err := topic.Subscribe(t.Context(), "s", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	end := topic.Stats().Next
	ctx, cancel := context.WithCancel(t.Context())
	g := run.NewGroup(ctx)
	g.Go("receiver", func(ctx context.Context) error {
		if r, err := sub.Receive(ctx, 256); err == nil {
			return fmt.Errorf("message %d came early", r[0].Offset)
		}
		return nil
	})
	for uint64(sub.Stats().Delayed) < end {
		select {
		case <-g.Context().Done():
			t.Fatal(g.Wait())
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func openTopic(t *testing.T, e *journal.Engine, name string) queue.Topic {
	t.Helper()
	topic, err := e.Topic(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}
