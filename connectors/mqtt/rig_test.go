package mqtt

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

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
	limit := time.After(10 * time.Second)
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

// startListener runs a source on a free port.
func startListener(t testing.TB, env connectors.Env, next message.Handler, change func(*SourceConfig)) (addr string, stop func()) {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Listen, cfg.Topics = "127.0.0.1:0", []string{"orders/#"}
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, env, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := src.(connectors.Binder).Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	return src.(*listenSource).station.ln.Addr().String(), startSource(t, src, next)
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

func connect5(t testing.TB, addr string, change func(*paho.Connect)) (*paho.Client, *paho.Connack) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn})
	cp := &paho.Connect{ClientID: "dev-1", CleanStart: true, KeepAlive: 30}
	if change != nil {
		change(cp)
	}
	ack, err := c.Connect(t.Context(), cp)
	if err != nil && (ack == nil || ack.ReasonCode < 0x80) {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		_ = c.Disconnect(&paho.Disconnect{})
		<-c.Done()
	})
	return c, ack
}

func connect3(t testing.TB, addr string, change func(*paho3.ClientOptions)) paho3.Client {
	t.Helper()
	o := paho3.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("dev-3").SetProtocolVersion(4).
		SetAutoReconnect(false).SetConnectTimeout(5 * time.Second)
	if change != nil {
		change(o)
	}
	c := paho3.NewClient(o)
	if tok := c.Connect(); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
		t.Fatalf("connect: %v", tok.Error())
	}
	t.Cleanup(func() { c.Disconnect(10) })
	return c
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

func (c *rawClient) send(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) connect5() {
	c.t.Helper()
	c.send((&connectPacket{version: version5, clientID: "raw", keepAlive: 60, cleanStart: true}).encode(nil))
	c.skip()
}

// skip reads one packet of less than 128 bytes.
func (c *rawClient) skip() []byte {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 2)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	body := make([]byte, head[1])
	if _, err := io.ReadFull(c.conn, body); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return slices.Concat(head, body)
}

func (c *rawClient) expect(want ...byte) {
	c.t.Helper()
	if got := c.skip(); !bytes.Equal(got, want) {
		c.t.Fatalf("got % x, want % x", got, want)
	}
}

func (c *rawClient) expectEnd() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	rest, err := io.ReadAll(c.conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Fatalf("the connection did not end: %v", err)
	}
	_ = rest
}

func (c *rawClient) close() { _ = c.conn.Close() }
