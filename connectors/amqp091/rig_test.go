package amqp091

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// peer is a broker that a test talks to.
type peer struct{ address, user, password string }

func (b *double) peer() peer { return peer{"amqp://" + b.addr() + "/", "u", "p"} }

// url is the address with credentials, for the library.
func (p peer) url() string {
	scheme, rest, _ := strings.Cut(p.address, "://")
	return scheme + "://" + p.user + ":" + p.password + "@" + rest
}

func testEnv(t testing.TB) connectors.Env {
	t.Helper()
	return connectors.Env{Pipeline: "p", Name: "orders", Logger: slog.New(slog.DiscardHandler), Dir: t.TempDir(), MaxMessage: 16 << 20}
}

func address(t testing.TB, text string) config.Address {
	t.Helper()
	a, err := config.NewAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testSource(t testing.TB, p peer, env connectors.Env, queue string, change func(*SourceConfig)) connectors.Source {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Connect, cfg.Queue, cfg.Auth = address(t, p.address), queue, &Auth{User: p.user, Password: config.NewSecret(p.password)}
	if change != nil {
		change(&cfg)
	}
	s, err := newSource(cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testSink(t testing.TB, p peer, queue string, change func(*SinkConfig)) connectors.Sink {
	t.Helper()
	cfg := sinkDefaults()
	cfg.Connect, cfg.Queue, cfg.Auth = address(t, p.address), queue, &Auth{User: p.user, Password: config.NewSecret(p.password)}
	if change != nil {
		change(&cfg)
	}
	s, err := newSink(cfg, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	return s
}

// start runs a source until stop, which returns what Run returned.
func start(t testing.TB, s connectors.Source, next message.Handler) (stop func() error) {
	t.Helper()
	group := run.NewGroup(context.WithoutCancel(t.Context()))
	group.Go("source", func(ctx context.Context) error { return s.Run(ctx, next) })
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			group.Stop()
			err = group.Wait()
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// recorder keeps what it is given. Answer, when it is set, decides per batch.
type recorder struct {
	mu      sync.Mutex
	got     []message.Message
	batches int
	answer  func(b *message.Batch) error
	changed chan struct{}
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

// Handle implements message.Handler.
func (h *recorder) Handle(_ context.Context, b *message.Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches++
	var err error
	if h.answer != nil {
		err = h.answer(b)
	}
	if err == nil {
		for i := range b.Messages {
			h.got = append(h.got, b.Messages[i].Clone())
		}
	}
	select {
	case h.changed <- struct{}{}:
	default:
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
	limit := time.After(3 * patience)
	for {
		if got := h.all(); len(got) >= n {
			return got
		}
		select {
		case <-h.changed:
		case <-limit:
			t.Fatalf("%d messages arrived, want %d", len(h.all()), n)
		}
	}
}

// eventually returns when done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !done(); <-time.After(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func numbered(from, n int) *message.Batch {
	b := &message.Batch{}
	for i := range n {
		b.Messages = append(b.Messages, message.Message{Key: []byte("k"), Payload: fmt.Appendf(nil, "%d", from+i), Priority: message.NormalPriority})
	}
	return b
}

// client is a connection of the library, beside linkspan.
func client(t testing.TB, p peer) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(p.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// publish publishes a message as linkspan would, with the library, and waits until the
// broker has it.
func publish(ctx context.Context, ch *amqp.Channel, queue string, m message.Message) error {
	p, _ := writeMessage(&m, time.Now())
	sent, err := ch.PublishWithDeferredConfirm("", queue, true, false, p)
	if err != nil {
		return err
	}
	_, err = sent.WaitContext(ctx)
	return err
}

// collect consumes a queue beside linkspan.
func collect(t testing.TB, p peer, queue string) *recorder {
	t.Helper()
	ch := client(t, p)
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := newRecorder()
	group := run.NewGroup(context.WithoutCancel(t.Context()))
	group.Go("collect", func(ctx context.Context) error {
		for d := range deliveries {
			var m message.Message
			readMessage(&m, &d, time.Now())
			_ = h.Handle(ctx, &message.Batch{Messages: []message.Message{m}})
		}
		return nil
	})
	return h
}
