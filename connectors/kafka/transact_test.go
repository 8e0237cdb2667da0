package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// bridge copies from one topic to another in transactions, as a pipeline without a queue
// does: what is not taken is tried again before Handle returns, unless it is refused for
// good, which counts as a dead letter. Fail, when it is set, is asked before each call.
type bridge struct {
	sink *sink
	fail func() error
	dead *recorder
}

// Handle implements message.Handler.
func (b *bridge) Handle(ctx context.Context, batch *message.Batch) error {
	rest := message.Batch{Messages: make([]message.Message, batch.Len())}
	for i := range batch.Messages {
		rest.Messages[i] = batch.Messages[i].Clone()
	}
	for rest.Len() > 0 {
		if b.fail != nil {
			if err := b.fail(); err != nil {
				return err
			}
		}
		err := b.sink.Handle(ctx, &rest)
		partial, ok := errors.AsType[*message.PartialError](err)
		if err != nil && !ok {
			run.Pause(ctx, 5*time.Millisecond)
			continue
		}
		var again []message.Message
		for i := 0; ok && i < len(partial.Failed); i++ {
			m := rest.Messages[partial.Failed[i].Index]
			if message.IsUnavailable(partial.Failed[i].Err) {
				again = append(again, m)
			} else if b.dead != nil {
				_ = b.dead.Handle(ctx, &message.Batch{Messages: []message.Message{m}})
			}
		}
		rest.Messages = again
	}
	return nil
}

// transacting is a source that reads a topic in transactions, with a sink for another
// topic.
func transacting(t *testing.T, brokers []string, from, to, id string, limit time.Duration) (*source, *sink) {
	book := newTransactions()
	src := newTestSource(t, testEnv(t), brokers, func(c *SourceConfig) {
		c.Topics, c.Group, c.TransactionalID, c.TransactionTimeout = []string{from}, from, id, limit
		c.SessionTimeout, c.RebalanceTimeout = 6*time.Second, 6*time.Second
	})
	snk := newTestSink(t, brokers, func(c *SinkConfig) { c.Topic.Literal, c.Transactional = to, true })
	src.book, snk.book = book, book
	return src, snk
}

// exactlyOnce runs members that fail, abort, come and go while n records are copied, and
// counts what a reader of committed records sees.
func exactlyOnce(t *testing.T, brokers []string, from, to string, n, members int, life time.Duration, meanwhile func()) {
	t.Helper()
	group := run.NewGroup(context.Background())
	for m := range members {
		group.Go("member", func(ctx context.Context) error {
			rng := rand.New(rand.NewPCG(uint64(m), 7))
			for ctx.Err() == nil {
				src, snk := transacting(t, brokers, from, to, fmt.Sprintf("%s-%d", from, m), 20*time.Second)
				alive, leave := context.WithTimeout(ctx, life/5+time.Duration(rng.Int64N(int64(life))))
				b := &bridge{sink: snk, fail: func() error {
					if rng.IntN(20) == 0 {
						return errors.New("the pipeline fails")
					}
					return nil
				}}
				if err := src.Run(alive, serial(b)); err != nil {
					t.Logf("member %d: %v", m, err)
					run.Pause(ctx, 100*time.Millisecond)
				}
				leave()
				_ = snk.Close(ctx)
			}
			return nil
		})
	}
	cl := newClient(t, brokers)
	for i := range n {
		produce(t, cl, &kgo.Record{Topic: from, Partition: int32(i % 3), Value: []byte(strconv.Itoa(i))})
		if i%50 == 0 {
			<-time.After(10 * time.Millisecond)
		}
		if i == n/2 && meanwhile != nil {
			meanwhile()
		}
	}
	got := read(t, brokers, to, n, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	<-time.After(2 * time.Second) // what would come twice had its time
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	all := sentCommitted(t, brokers, to, len(got))
	seen := map[string]int{}
	for _, r := range all {
		seen[string(r.Value)]++
	}
	t.Logf("exactly once: %d records by %d members that fail and come and go: %d arrived, %d lost, %d twice", n, members, len(all), n-len(seen), len(all)-len(seen))
	if len(seen) != n || len(all) != n {
		t.Errorf("%d records arrived, %d different ones, want %d", len(all), len(seen), n)
	}
}

// serial lets one call pass at a time.
func serial(next message.Handler) message.Handler {
	turn := make(chan struct{}, 1)
	return message.HandlerFunc(func(ctx context.Context, b *message.Batch) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		return next.Handle(ctx, b)
	})
}

// sentCommitted reads a topic for as long as something comes, at least n records.
func sentCommitted(t *testing.T, brokers []string, topic string, n int) (out []*kgo.Record) {
	t.Helper()
	cl := newClient(t, brokers, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(50*time.Millisecond))
	defer cl.Close()
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		fetches := cl.PollFetches(ctx)
		cancel()
		out = append(out, fetches.Records()...)
		if len(out) >= n && fetches.NumRecords() == 0 {
			return out
		}
	}
	return out
}

func TestTransactions(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(3, "from", "to"))
	exactlyOnce(t, c.ListenAddrs(), "from", "to", 1500, 2, time.Second, nil)
}

// A message that the broker refuses aborts its transaction; then it is refused alone, and
// the others are committed.
func TestTransactionWithoutWhatIsRefused(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "from", "to"))
	src, snk := transacting(t, c.ListenAddrs(), "from", "to", "id", 20*time.Second)
	dead := &recorder{}
	cl := newClient(t, c.ListenAddrs())
	for _, word := range []string{"alpha", "bravo", "charlie", "delta", "echo"} { // which compression leaves alone
		produce(t, cl, &kgo.Record{Topic: "from", Key: []byte(word), Value: []byte(word)})
	}
	refuse(c, "delta")
	stop := startSource(t, src, &bridge{sink: snk, dead: dead})
	got := read(t, c.ListenAddrs(), "to", 4, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	var order []string
	for _, r := range got {
		order = append(order, string(r.Value[:1]))
	}
	if strings.Join(order, "") != "abce" {
		t.Errorf("got %v", order)
	}
	if d := dead.wait(t, 1); string(d[0].Payload) != "delta" {
		t.Errorf("refused %s", d[0].Payload)
	}
	eventually(t, "the commit", func() bool { return committedOf(t, c.ListenAddrs(), "from", "from") == 5 })
	stop()
}

// Without a transaction the sink waits, and after a doomed one it takes what is left of
// it.
func TestSinkWithoutTransaction(t *testing.T) {
	c := startCluster(t)
	_, snk := transacting(t, c.ListenAddrs(), "orders", "orders", "id", time.Minute)
	b := &message.Batch{Messages: []message.Message{{Payload: []byte("v")}}}
	if err := snk.Handle(t.Context(), b); !message.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	tx := &transaction{brokers: snk.cfg.Brokers}
	tx.doomed.Store(true)
	snk.book.set("p", tx)
	if err := snk.Handle(t.Context(), b); err != nil {
		t.Errorf("got %v", err)
	}
	snk.book.set("p", &transaction{brokers: []string{"elsewhere:9092"}})
	if err := snk.Handle(t.Context(), b); !message.IsUnavailable(err) || !strings.Contains(err.Error(), "brokers differ") {
		t.Errorf("got %v", err)
	}
}
