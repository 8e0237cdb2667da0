package kafka

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// ledger counts what came, by key.
type ledger struct {
	mu   sync.Mutex
	last map[string]int
	seen map[string]bool
	// again counts messages that came more than once, wrong those that came for the
	// first time after a later one of their key.
	again, wrong int
}

func newLedger() *ledger { return &ledger{last: map[string]int{}, seen: map[string]bool{}} }

// Handle implements message.Handler.
func (l *ledger) Handle(ctx context.Context, b *message.Batch) error {
	if !run.Pause(ctx, time.Millisecond) {
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range b.Messages {
		var n int
		if _, err := fmt.Sscanf(string(b.Messages[i].Payload), "%d", &n); err != nil {
			return err
		}
		key := string(b.Messages[i].Key)
		id := fmt.Sprintf("%s/%d", key, n)
		switch {
		case l.seen[id]:
			l.again++
		case l.last[key] > n:
			l.wrong++
		}
		l.seen[id] = true
		l.last[key] = max(l.last[key], n)
	}
	return nil
}

func (l *ledger) count() (seen, again, wrong int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen), l.again, l.wrong
}

// storm lets members join and leave every beat, for as long as it lasts, while messages
// are sent. At least one member stays.
func storm(t *testing.T, brokers []string, topic, group string, partitions int, lasts, beat time.Duration, balancer string) {
	t.Helper()
	const keys, members = 50, 3
	l := newLedger()
	stops := make([]func(), members)
	join := func(i int) {
		src := newTestSource(t, testEnv(t), brokers, func(c *SourceConfig) {
			c.Topics, c.Group, c.Balancer, c.SessionTimeout = []string{topic}, group, balancer, 6*time.Second
		})
		stops[i] = startSource(t, src, l)
	}
	for i := range members {
		join(i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	sent, changes := 0, 0
	sender := run.NewGroup(ctx)
	sender.Go("send", func(ctx context.Context) error {
		cl := newClient(t, brokers, kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
		defer cl.Close()
		for ; ctx.Err() == nil; sent++ {
			cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", sent%keys), Value: fmt.Appendf(nil, "%d", sent)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
			if sent%20 == 0 {
				run.Pause(ctx, 2*time.Millisecond)
			}
		}
		return cl.Flush(context.WithoutCancel(ctx))
	})
	for i := 0; run.Pause(ctx, beat); i = (i + 1) % members {
		if stops[i] != nil {
			stops[i]()
			stops[i] = nil
		} else {
			join(i)
		}
		changes++
		if stops[0] == nil && stops[1] == nil && stops[2] == nil {
			join(i)
		}
	}
	if err := sender.Wait(); err != nil {
		t.Fatal(err)
	}
	if stops[0] == nil {
		join(0)
	}
	eventually(t, "all messages", func() bool { n, _, _ := l.count(); return n == sent })
	seen, again, wrong := l.count()
	brokersenv.Print(t, fmt.Sprintf("Kafka, rebalance storm, %s: %d members came or went in %s, %d messages over %d partitions: %d lost, %d reordered, %d came again",
		balancer, changes, lasts, sent, partitions, sent-seen, wrong, again))
	if wrong > 0 || seen != sent {
		t.Errorf("%d of %d messages came, %d were out of order", seen, sent, wrong)
	}
}
