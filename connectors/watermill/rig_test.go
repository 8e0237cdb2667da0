package watermill

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testEnv(t testing.TB) connectors.Env {
	return connectors.Env{Pipeline: "p", Name: "n", Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), MaxMessage: 16 << 20}
}

func node(t testing.TB, yaml string) config.Node {
	t.Helper()
	var r config.Report
	f := config.Parse("x.yaml", []byte(yaml), config.Lookup{}, &r)
	if f == nil || r.Failed() {
		t.Fatal(r.Problems())
	}
	return f.Root()
}

func buildSource(t testing.TB, spec *connectors.SourceSpec, yaml string) connectors.Source {
	t.Helper()
	var r config.Report
	build, _ := spec.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	s, err := build(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func buildSink(t testing.TB, spec *connectors.SinkSpec, yaml string) connectors.Sink {
	t.Helper()
	var r config.Report
	build, _, options := spec.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	for i, o := range options {
		o.Index = i
	}
	s, err := build(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a source until the test, or stop, ends it, and returns its error.
func start(t *testing.T, s connectors.Source, next message.HandlerFunc) (stop func() error) {
	group := run.NewGroup(t.Context())
	var once sync.Once
	var err error
	group.Go("source", func(ctx context.Context) error { err = s.Run(ctx, next); return nil })
	stop = func() error {
		once.Do(func() { group.Stop(); _ = group.Wait() })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// pubsub is a Pub/Sub under a test's control. What is subscribed to comes from feed.
type pubsub struct {
	feed chan *wm.Message
	// single: a subscription gives the next message after the answer to the one before.
	single bool

	mu         sync.Mutex
	subscribed int
	closed     int
	published  []string // topic: payload
	calls      [][]string
	// decide is asked for each call of Publish.
	decide func(topic string, messages []*wm.Message) error
}

// Subscribe implements wm.Subscriber. Subscriptions compete for the feed.
func (p *pubsub) Subscribe(ctx context.Context, _ string) (<-chan *wm.Message, error) {
	p.mu.Lock()
	p.subscribed++
	p.mu.Unlock()
	out := make(chan *wm.Message, 16)
	run.NewGroup(ctx).Go("feed", func(context.Context) error {
		defer close(out)
		for {
			select {
			case m, ok := <-p.feed:
				if !ok {
					return nil
				}
				out <- m
				if p.single {
					select {
					case <-m.Acked():
					case <-m.Nacked():
					case <-ctx.Done():
					}
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	return out, nil
}

// Publish implements wm.Publisher.
func (p *pubsub) Publish(topic string, messages ...*wm.Message) error {
	if p.decide != nil {
		if err := p.decide(topic, messages); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var call []string
	for _, m := range messages {
		call = append(call, topic+": "+string(m.Payload))
	}
	p.published = append(p.published, call...)
	p.calls = append(p.calls, call)
	return nil
}

// Close implements both.
func (p *pubsub) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed++
	return nil
}

func (p *pubsub) closedTimes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-limit.C:
			t.Fatalf("%s: not in time", what)
		}
	}
}

var (
	errNotNow = errors.New("not now")
	errNever  = errors.New("never")
)

// owned builds both ends over a Pub/Sub that belongs to them.
func owned(p *pubsub) (*connectors.SourceSpec, *connectors.SinkSpec) {
	return Source(Subscribing[In]{Open: func(context.Context, In, connectors.Env) (wm.Subscriber, error) { return p, nil }}),
		Sink(Publishing[Out]{
			Defaults: NewOut,
			Open:     func(context.Context, Out, connectors.Env) (wm.Publisher, error) { return p, nil },
			Refuses:  func(err error) bool { return errors.Is(err, errNever) },
		})
}
