package console_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
)

// fakeEngine runs nothing and remembers what was decided.
type fakeEngine struct {
	ready  atomic.Bool
	q      queue.Engine
	mu     sync.Mutex
	called []string
}

func (e *fakeEngine) Ready() bool { return e.ready.Load() && e.q.Health() == nil }

func (e *fakeEngine) Status() []pipelines.Status {
	return []pipelines.Status{{
		Name: "orders", Backlog: 3, InFlight: 1, DeadLetters: 2,
		Sources: []pipelines.SourceStatus{{Name: "web", State: "running", Received: 7}},
		Sinks:   []pipelines.SinkStatus{{Name: "out", Available: true, Delivered: 5}},
		Dropped: map[string]uint64{"steps[0] keep": 1}, Dead: map[string]uint64{"LS2401": 2},
	}}
}

func (e *fakeEngine) note(what, pipeline string, numbers []uint64) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.called = append(e.called, fmt.Sprint(what, " ", pipeline, " ", numbers))
	return len(numbers), nil
}

func (e *fakeEngine) RetryDeadLetters(_ context.Context, p string, n []uint64) (int, error) {
	return e.note("retry", p, n)
}

func (e *fakeEngine) DropDeadLetters(_ context.Context, p string, n []uint64) (int, error) {
	return e.note("drop", p, n)
}

// world is a server with two messages and three dead letters.
type world struct {
	t      *testing.T
	dir    string
	q      queue.Engine
	engine *fakeEngine
	server *console.Server
	file   console.AdminFile
}

func newWorld(t *testing.T, o console.Options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), q: memory.New()}
	w.engine = &fakeEngine{q: w.q}
	w.publish("orders", message.Message{Payload: []byte(`{"n":1}`), Source: "web"}, message.Message{Payload: []byte{0xff, 0}, Key: []byte("k")})
	for _, code := range []string{"LS2401", "LS2501", "LS2401"} {
		var h message.Headers
		h.Add("linkspan.dead.code", message.String(code))
		h.Add("x-tenant", message.String("t1"))
		w.publish("orders.dead", message.Message{Payload: []byte("original"), Headers: h})
	}
	o.Queue, o.DataDir, o.Logger, o.Version = w.q, w.dir, slog.New(slog.DiscardHandler), "1.2.3"
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	var err error
	if w.server, err = console.Listen(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if w.file, err = console.ReadAdminFile(w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.server.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if err := w.q.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) start() *world {
	w.engine.ready.Store(true)
	w.server.Attach(w.engine)
	return w
}

func (w *world) publish(topic string, msgs ...message.Message) {
	w.t.Helper()
	tp, err := w.q.Topic(w.t.Context(), topic)
	if err == nil {
		_, err = tp.Subscribe(w.t.Context(), "s", queue.SubOptions{})
	}
	if err == nil {
		_, err = tp.Publish(w.t.Context(), msgs)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

type request struct {
	method, path, body, host, token string
}

func (w *world) do(r request) (int, string) {
	w.t.Helper()
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(w.t.Context(), r.method, "http://"+w.file.Address+r.path, strings.NewReader(r.body))
	if err != nil {
		w.t.Fatal(err)
	}
	if r.host != "" {
		req.Host = r.host
	}
	switch r.token {
	case "":
		req.Header.Set("Authorization", "Bearer "+w.file.Token)
	case "none":
	default:
		req.Header.Set("Authorization", r.token)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}
