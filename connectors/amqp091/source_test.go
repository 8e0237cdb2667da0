package amqp091

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func send(t testing.TB, p peer, queue string, b *message.Batch) {
	t.Helper()
	if err := testSink(t, p, queue, nil).Handle(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// What gathered while a batch was handed on is one batch, and one acknowledgement.
func TestSourceBatches(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	send(t, b.peer(), "q", numbered(0, 1000))
	h := newRecorder()
	gate := make(chan struct{})
	h.answer = func(*message.Batch) error { <-gate; return nil }
	start(t, testSource(t, b.peer(), testEnv(t), "q", nil), h)
	eventually(t, "prefetch", func() bool { _, _, taken := b.depth("q"); return taken == 512 })
	close(gate)
	got := h.wait(t, 1000)
	for i := range got {
		if string(got[i].Payload) != strconv.Itoa(i) || string(got[i].Key) != "q" || got[i].Source != "orders" {
			t.Fatalf("message %d: %+v", i, got[i])
		}
	}
	eventually(t, "acknowledged", func() bool { ready, _, taken := b.depth("q"); return ready+taken == 0 })
	if h.batches > 500 {
		t.Errorf("%d batches", h.batches)
	}
}

// What can never be taken is rejected; what cannot be for the moment comes again, in its
// place.
func TestSourcePartial(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	send(t, b.peer(), "q", numbered(0, 10))
	h := newRecorder()
	first := true
	h.answer = func(batch *message.Batch) error {
		var p message.PartialError
		for i, m := range batch.Messages {
			switch n := string(m.Payload); {
			case n == "3":
				p.Failed = append(p.Failed, message.Failed{Index: i, Err: &message.Reason{Code: "LS2108", Permanent: true}})
			case n == "4":
				p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrTooLarge})
			case n == "5" && first:
				p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrFull})
				first = false
			default:
				h.got = append(h.got, m.Clone())
			}
		}
		if p.Failed == nil {
			h.got = h.got[:len(h.got)-batch.Len()]
			return nil
		}
		return &p
	}
	env := testEnv(t)
	err := testSource(t, b.peer(), env, "q", nil).Run(t.Context(), h)
	if err == nil || !strings.Contains(err.Error(), message.ErrFull.Error()) {
		t.Fatalf("run: %v", err)
	}
	start(t, testSource(t, b.peer(), env, "q", nil), h)
	got := h.wait(t, 8)
	again := false
	for _, m := range got {
		again = again || string(m.Payload) == "5" && m.Attempt == 2
	}
	if ready, dead, _ := b.depth("q"); !again || dead != 2 || ready != 0 {
		t.Errorf("again %v, %d dead, %d left, %d taken", again, dead, ready, len(got))
	}
}

// A queue that is deleted under its consumer is said aloud.
func TestSourceCancelled(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	s := testSource(t, b.peer(), testEnv(t), "q", nil)
	group := run.NewGroup(t.Context())
	group.Go("run", func(ctx context.Context) error { return s.Run(ctx, newRecorder()) })
	eventually(t, "consumes", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.consumed == 1 })
	b.remove("q")
	if err := group.Wait(); err == nil || !strings.Contains(err.Error(), "LS4313") {
		t.Errorf("got %v", err)
	}
}

// Each way to be turned away has its own code.
func TestRefusedConnections(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	p := b.peer()
	wrong, elsewhere := p, p
	wrong.password = "x"
	elsewhere.address += "elsewhere"
	for _, c := range []struct {
		p           peer
		queue, code string
	}{{wrong, "q", "LS4308"}, {elsewhere, "q", "LS4309"}, {p, "missing", "LS4310"}} {
		err := testSource(t, c.p, testEnv(t), c.queue, nil).Run(t.Context(), newRecorder())
		if err == nil || !strings.Contains(err.Error(), c.code) || strings.Contains(err.Error(), `"x"`) {
			t.Errorf("%s: %v", c.code, err)
		}
	}
	for _, declare := range []string{declareCheck, declareCreate} {
		s := testSource(t, p, testEnv(t), "new", func(c *SourceConfig) {
			c.Declare = declare
			c.Bindings = []Binding{{Exchange: "x", Type: "direct", RoutingKey: "k"}}
		})
		if declare == declareCheck {
			if err := s.Run(t.Context(), newRecorder()); err == nil || !strings.Contains(err.Error(), "LS4310") {
				t.Errorf("check: %v", err)
			}
			continue
		}
		h := newRecorder()
		start(t, s, h)
		x := testSink(t, p, "", func(c *SinkConfig) { c.Exchange, c.RoutingKey.Literal = "x", "k" })
		eventually(t, "bound", func() bool { return x.Handle(t.Context(), numbered(0, 1)) == nil })
		h.wait(t, 1)
	}
}

// Whatever a broker sends, Run returns with an error.
func TestHostileBroker(t *testing.T) {
	start := call091(connStart).u8(0).u8(9).long("").long("PLAIN").long("en_US")
	tune := call091(connTune).u16(100).u32(128 << 10).u16(60)
	open := call091(connOpenOk).short("")
	on := func(ch uint16, m *method) []byte { return wireFrame{frameMethod, ch, m.b}.append(nil) }
	good := append(append(on(0, start), on(0, tune)...), on(0, open)...)
	good = append(good, on(1, call091(chanOpenOk).long(""))...)
	deliver := on(1, call091(basicDeliver).short("c").u64(1).u8(0).short("").short("q"))
	for name, bytes := range map[string][]byte{
		"nothing":          nil,
		"other protocol":   []byte("AMQP\x00\x01\x00\x00"),
		"http":             []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"large frame":      {1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0},
		"no frame end":     append(on(0, start)[:len(on(0, start))-1], 0),
		"unknown method":   on(0, call091(99<<16|99)),
		"content unasked":  append(good, deliver...),
		"header in 0":      wireFrame{frameHeader, 0, make([]byte, 14)}.append(good),
		"beat in 1":        wireFrame{frameBeat, 1, nil}.append(good),
		"large table":      wireFrame{frameHeader, 1, []byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 0, 0x7f, 0xff, 0xff, 0xff}}.append(append(good, deliver...)),
		"cut in handshake": on(0, start)[:9],
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			group := run.NewGroup(t.Context())
			group.Go("broker", func(context.Context) error {
				conn, err := ln.Accept()
				if err != nil {
					return nil
				}
				defer conn.Close()
				_, _ = conn.Write(bytes)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				return nil
			})
			s := testSource(t, peer{"amqp://" + ln.Addr().String(), "u", "p"}, testEnv(t), "q", nil)
			if err := s.Run(t.Context(), newRecorder()); err == nil {
				t.Error("run returned nil")
			}
			_ = ln.Close()
			_ = group.Wait()
		})
	}
}

// Cuts at random moments: everything arrives.
func TestSourceCuts(t *testing.T) {
	b := startDouble(t)
	b.queue("q")
	send(t, b.peer(), "q", numbered(0, 3000))
	h := newRecorder()
	group := run.NewGroup(t.Context())
	env := testEnv(t)
	group.Go("supervisor", func(ctx context.Context) error {
		for ctx.Err() == nil {
			_ = testSource(t, b.peer(), env, "q", func(c *SourceConfig) { c.Prefetch = 50 }).Run(ctx, h)
		}
		return nil
	})
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		<-time.After(time.Duration(rng.IntN(5)) * time.Millisecond)
		b.cut()
	}
	there := func() bool {
		seen := map[string]bool{}
		for _, m := range h.all() {
			seen[string(m.Payload)] = true
		}
		return len(seen) == 3000
	}
	eventually(t, "all there", there)
	group.Stop()
	_ = group.Wait()
}

func TestOffsets(t *testing.T) {
	for _, s := range []string{"first", "last", "next", "0", "17", "2026-01-31T00:00:00Z"} {
		if _, err := parseOffset(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"-1", "begin", "1.5"} {
		if _, err := parseOffset(s); err == nil {
			t.Errorf("%s was taken", s)
		}
	}
	dir := t.TempDir()
	p := position{Connect: "amqp://h", Queue: "q", Offset: 41}
	if err := p.save(dir); err != nil {
		t.Fatal(err)
	}
	kept := position{Connect: "amqp://h", Queue: "q"}
	if ok, err := kept.load(dir); !ok || err != nil || kept.Offset != 41 {
		t.Errorf("%v %v %d", ok, err, kept.Offset)
	}
	other := position{Connect: "amqp://h", Queue: "other"}
	if ok, err := other.load(dir); ok || err != nil {
		t.Errorf("of another queue: %v %v", ok, err)
	}
}

var _ connectors.Source = (*source)(nil)
