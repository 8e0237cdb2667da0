package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = time.Minute

func startCluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(3, "orders"), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func testEnv(t testing.TB) connectors.Env {
	t.Helper()
	return connectors.Env{Pipeline: "p", Name: "orders", Logger: slog.New(slog.DiscardHandler), Dir: t.TempDir(), MaxMessage: 1 << 20}
}

func newTestSource(t testing.TB, env connectors.Env, brokers []string, change func(*SourceConfig)) *source {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Brokers, cfg.Topics = brokers, []string{"orders"}
	cfg.CommitInterval, cfg.Fetch.MaxWait = 20*time.Millisecond, 50*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, env, newTransactions())
	if err != nil {
		t.Fatal(err)
	}
	return src.(*source)
}

func newTestSink(t testing.TB, brokers []string, change func(*SinkConfig)) *sink {
	t.Helper()
	cfg := sinkDefaults()
	cfg.Brokers, cfg.Topic.Literal = brokers, "orders"
	if change != nil {
		change(&cfg)
	}
	s, err := newSink(cfg, testEnv(t), newTransactions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s.(*sink)
}

// startSource runs a source until stop is called or the test ends.
func startSource(t testing.TB, src connectors.Source, next message.Handler) (stop func()) {
	t.Helper()
	group := run.NewGroup(context.Background())
	group.Go("source", func(ctx context.Context) error { return src.Run(ctx, next) })
	stop = sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func newClient(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func produce(t testing.TB, cl *kgo.Client, records ...*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, r := range records {
		if r.Topic == "" {
			r.Topic = "orders"
		}
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}
}

// read returns all records of a topic, when there are n.
func read(t testing.TB, brokers []string, topic string, n int, opts ...kgo.Opt) (out []*kgo.Record) {
	t.Helper()
	if n == 0 {
		return nil
	}
	cl := newClient(t, brokers, append(opts, kgo.ConsumeTopics(topic), kgo.FetchMaxWait(50*time.Millisecond))...)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(out) < n {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d records in %s, want %d", len(out), topic, n)
		}
		out = append(out, fetches.Records()...)
	}
	return out
}

// committed returns the offset of a group in a partition, or -1.
func committed(t testing.TB, brokers []string, group string, partition int32) int64 {
	t.Helper()
	cl := newClient(t, brokers)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
	if err != nil {
		t.Fatalf("fetch offsets: %v", err)
	}
	if o, ok := got.Lookup("orders", partition); ok {
		return o.At
	}
	return -1
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !ok(); {
		if time.Now().After(limit) {
			t.Fatalf("%s: it did not come to that", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// recorder keeps what it takes. Answer, when it is set, decides per batch.
type recorder struct {
	answer func(ctx context.Context, b *message.Batch) error

	mu  sync.Mutex
	got []message.Message
}

func (h *recorder) Handle(ctx context.Context, b *message.Batch) error {
	var err error
	if h.answer != nil {
		err = h.answer(ctx, b)
	}
	failed := map[int]bool{}
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, f := range partial.Failed {
			failed[f.Index] = true
		}
	} else if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range b.Messages {
		if !failed[i] {
			h.got = append(h.got, b.Messages[i].Clone())
		}
	}
	return err
}

func (h *recorder) all() []message.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]message.Message(nil), h.got...)
}

func (h *recorder) wait(t testing.TB, n int) []message.Message {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages", n), func() bool { return len(h.all()) >= n })
	return h.all()
}

func secret(s string) config.Secret { return config.NewSecret(s) }

// committedOf returns the offset of a group in partition 0 of a topic, or -1.
func committedOf(t testing.TB, brokers []string, group, topic string) int64 {
	t.Helper()
	cl := newClient(t, brokers)
	defer cl.Close()
	got, err := kadm.NewClient(cl).FetchOffsets(context.Background(), group)
	if err != nil {
		t.Fatalf("fetch offsets: %v", err)
	}
	if o, ok := got.Lookup(topic, 0); ok {
		return o.At
	}
	return -1
}
