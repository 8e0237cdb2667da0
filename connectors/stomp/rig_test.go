package stomp

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps what it is given. Answer, when it is set, decides per batch.
type recorder struct {
	mu      sync.Mutex
	got     []message.Message
	batches int
	answer  func(b *message.Batch) error
	changed chan struct{}
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (h *recorder) Handle(_ context.Context, b *message.Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	if h.answer != nil {
		err = h.answer(b)
	}
	failed := failures(err, b.Len())
	h.batches++
	for i := range b.Messages {
		if failed == nil || failed[i] == nil {
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

// wait returns when n messages are there.
func (h *recorder) wait(t testing.TB, n int) []message.Message {
	t.Helper()
	limit := time.After(20 * time.Second)
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

func testEnv(t testing.TB) connectors.Env {
	t.Helper()
	ls := connectors.NewListeners()
	t.Cleanup(func() {
		if err := ls.Close(); err != nil {
			t.Errorf("close listeners: %v", err)
		}
	})
	return connectors.Env{Pipeline: "p", Name: "orders", Logger: slog.New(slog.DiscardHandler), Listeners: ls, Dir: t.TempDir(), MaxMessage: 1 << 20}
}

func address(t testing.TB, text string) config.Address {
	t.Helper()
	a, err := config.NewAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testDialSource(t testing.TB, addr string, change func(*SourceConfig)) connectors.Source {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Connect, cfg.Destinations = address(t, "stomp://"+addr), []string{"/queue/in"}
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func testSink(t testing.TB, addr string, change func(*SinkConfig)) connectors.Sink {
	t.Helper()
	cfg := sinkDefaults()
	cfg.Connect, cfg.Destination.Literal = address(t, "stomp://"+addr), "/queue/out"
	if change != nil {
		change(&cfg)
	}
	s, err := newSink(cfg, connectors.Env{Pipeline: "p", Name: "out"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// listener makes a source on a free port.
func listener(t testing.TB, env connectors.Env, change func(*SourceConfig)) (src connectors.Source, addr string) {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Listen, cfg.Destinations = "127.0.0.1:0", []string{"/queue/orders.*", "/queue/a"}
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := src.(connectors.Binder).Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	return src, src.(*listenSource).station.ln.Addr().String()
}

func startListener(t testing.TB, next message.Handler, change func(*SourceConfig)) (addr string, stop func()) {
	t.Helper()
	src, addr := listener(t, testEnv(t), change)
	return addr, startSource(t, src, next)
}

func startSource(t testing.TB, src connectors.Source, next message.Handler) (stop func()) {
	t.Helper()
	group := run.NewGroup(context.Background())
	group.Go("source", func(ctx context.Context) error { return src.Run(ctx, next) })
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

// rawClient speaks bytes.
type rawClient struct {
	t    testing.TB
	conn net.Conn
}

func dialRaw(t testing.TB, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &rawClient{t, conn}
}

func (c *rawClient) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// connect connects with the given version and further headers.
func (c *rawClient) connect(version string, headers ...string) {
	c.t.Helper()
	c.send("CONNECT\naccept-version:" + version + "\nhost:/\n" + strings.Join(headers, "") + "\n\x00")
	if got := c.frame(); !strings.HasPrefix(got, "CONNECTED\nversion:"+version+"\n") {
		c.t.Fatalf("got %q", got)
	}
}

// frame reads one frame without content-length.
func (c *rawClient) frame() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	var out []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c.conn, b); err != nil {
			c.t.Fatalf("read: %v after %q", err, out)
		}
		switch {
		case b[0] == 0:
			return string(out)
		case b[0] != '\n' || len(out) > 0:
			out = append(out, b[0])
		}
	}
}

func (c *rawClient) expect(want string) {
	c.t.Helper()
	if got := c.frame(); !strings.Contains(got, want) {
		c.t.Fatalf("got %q, want %q", got, want)
	}
}

// expectEnd returns what comes before the end of the connection.
func (c *rawClient) expectEnd() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	rest, err := io.ReadAll(c.conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Fatalf("the connection did not end: %v", err)
	}
	return string(rest)
}
