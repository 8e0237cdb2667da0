package http

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// recorder is a handler that keeps what it was given and answers with err.
type recorder struct {
	mu   sync.Mutex
	got  []message.Message
	err  error
	hold chan struct{}
}

func (h *recorder) Handle(ctx context.Context, b *message.Batch) error {
	if h.hold != nil {
		select {
		case <-h.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	for i := range b.Messages {
		h.got = append(h.got, b.Messages[i].Clone())
	}
	return nil
}

func (h *recorder) last(t *testing.T) message.Message {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.got) == 0 {
		t.Fatal("nothing was handed on")
	}
	return h.got[len(h.got)-1]
}

type rig struct {
	env  connectors.Env
	addr string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	ls := connectors.NewListeners()
	t.Cleanup(func() {
		if err := ls.Close(); err != nil {
			t.Errorf("close listeners: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return &rig{env: connectors.Env{
		Pipeline: "p", Name: "orders", Logger: slog.New(slog.DiscardHandler), Listeners: ls, MaxMessage: 1 << 20,
	}}
}

// start runs a source with yaml changes to the defaults and returns what stops it.
func (r *rig) start(t testing.TB, next message.Handler, change func(*SourceConfig)) (stop func()) {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Listen, cfg.Path = "127.0.0.1:0", "/orders"
	if change != nil {
		change(&cfg)
	}
	env := r.env
	env.Name += cfg.Path
	src, err := newSource(cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := src.(connectors.Binder).Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := src.(*source).server
	r.addr = server.ln.Addr().String()
	group := run.NewGroup(t.Context())
	group.Go("source", func(ctx context.Context) error { return src.Run(ctx, next) })
	for served := false; !served; {
		e, _ := server.find(strings.Replace(cfg.Path, "*", "x", 1))
		served = e != nil && e.owner == src.(*source).owner()
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			group.Stop()
			if err := group.Wait(); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func (r *rig) do(t testing.TB, method, path string, body io.Reader, headers ...string) (status int, header http.Header, fields map[string]string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&fields); err != nil && method != http.MethodHead {
		t.Fatalf("the body is not JSON: %v", err)
	}
	return resp.StatusCode, resp.Header, fields
}
