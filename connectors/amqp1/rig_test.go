package amqp1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	amqp "github.com/Azure/go-amqp"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// peer is what a test talks to.
type peer struct{ address, user, password string }

func (p peer) auth() *Auth {
	if p.user == "" {
		return nil
	}
	return &Auth{User: p.user, Password: config.NewSecret(p.password)}
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

func testSource(t testing.TB, p peer, from string, change func(*SourceConfig)) connectors.Source {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Connect, cfg.Address, cfg.Auth = address(t, p.address), from, p.auth()
	if change != nil {
		change(&cfg)
	}
	s, err := newSource(cfg, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testSink(t testing.TB, p peer, to string, change func(*SinkConfig)) connectors.Sink {
	t.Helper()
	cfg := sinkDefaults()
	cfg.Connect, cfg.Address.Literal, cfg.Auth = address(t, p.address), to, p.auth()
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

// computed is an option with an expression, whose values are in Message.Options.
func computed() config.Option {
	var r config.Report
	return config.Option{Destination: true, Expr: config.Expr{Source: "x", Node: config.Parse("x", []byte("a: b"), config.Lookup{}, &r).Root()}}
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
	for limit := time.Now().Add(2 * patience); !done(); <-time.After(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func numbered(from, n int) *message.Batch {
	b := &message.Batch{}
	for i := range n {
		b.Messages = append(b.Messages, message.Message{Payload: fmt.Appendf(nil, "%d", from+i), Priority: message.NormalPriority})
	}
	return b
}

// failures returns the reasons by index.
func failures(t testing.TB, err error) map[int]error {
	t.Helper()
	out := map[int]error{}
	if err == nil {
		return out
	}
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok {
		t.Fatalf("not partial: %v", err)
	}
	for _, f := range partial.Failed {
		out[f.Index] = f.Err
	}
	return out
}

func reasonOf(err error) message.Reason {
	if reason, ok := errors.AsType[*message.Reason](err); ok {
		return *reason
	}
	return message.Reason{}
}

// client is a connection of the library, beside linkspan.
func client(t testing.TB, p peer) *amqp.Session {
	t.Helper()
	l, err := (&dialer{address: address(t, p.address), auth: p.auth(), idle: time.Minute, hostname: address(t, p.address).URL().Hostname()}).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	session, err := l.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// collect takes everything from an address beside linkspan.
func collect(t testing.TB, p peer, from string) *recorder {
	t.Helper()
	receiver, err := client(t, p).NewReceiver(t.Context(), from, &amqp.ReceiverOptions{Credit: 500})
	if err != nil {
		t.Fatal(err)
	}
	h := newRecorder()
	group := run.NewGroup(context.WithoutCancel(t.Context()))
	group.Go("collect", func(ctx context.Context) error {
		for {
			in, err := receiver.Receive(ctx, nil)
			if err != nil {
				return nil
			}
			_ = receiver.AcceptMessage(ctx, in)
			var m message.Message
			readMessage(&m, in, time.Now())
			_ = h.Handle(ctx, &message.Batch{Messages: []message.Message{m}})
		}
	})
	return h
}
