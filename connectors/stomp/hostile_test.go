package stomp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// flood writes chunks until the connection ends, or limit bytes were taken.
func flood(t *testing.T, conn net.Conn, chunk string, limit int) (sent int) {
	t.Helper()
	_ = conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for sent < limit {
		n, err := io.WriteString(conn, chunk)
		sent += n
		if err != nil {
			return sent
		}
	}
	return sent
}

// Before a client has said who it is it may cost a few kilobytes, whatever it sends;
// and afterwards a frame costs what it may.
func TestFloods(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, func(c *SourceConfig) { c.MaxFrame = 64 << 10 })
	for name, c := range map[string]struct {
		connected      bool
		start, chunk   string
		code           string
		allowed, limit int
	}{
		"two million headers":            {true, "SEND\ndestination:/queue/a\n", strings.Repeat("a:b\n", 1000), "LS4351", 16 << 20, 8_000_000},
		"a header without end":           {true, "SEND\ndestination:", strings.Repeat("x", 64<<10), "LS4351", 16 << 20, 50 << 20},
		"a body without NUL":             {true, "SEND\ndestination:/queue/a\n\n", strings.Repeat("x", 64<<10), "LS4351", 16 << 20, 50 << 20},
		"4 GiB announced":                {true, "SEND\ndestination:/queue/a\ncontent-length:4294967295\n\n", strings.Repeat("x", 64<<10), "LS4351", 16 << 20, 50 << 20},
		"headers before CONNECT":         {false, "CONNECT\n", strings.Repeat("a:b\n", 1000), "LS4351", 16 << 20, 8_000_000},
		"a long header before CONNECT":   {false, "CONNECT\nlogin:", strings.Repeat("x", 64<<10), "LS4351", 16 << 20, 50 << 20},
		"a body before CONNECT":          {false, "CONNECT\n\n", strings.Repeat("x", 64<<10), "LS4351", 16 << 20, 50 << 20},
		"no lines at all before CONNECT": {false, "", strings.Repeat("\xff", 64<<10), "LS4351", 16 << 20, 50 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			cl := dialRaw(t, addr)
			if c.connected {
				cl.connect("1.2")
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			cl.send(c.start)
			done := make(chan int, 1)
			go func() { done <- flood(t, cl.conn, c.chunk, c.limit) }()
			if rest := cl.expectEnd(); rest != "" && !strings.Contains(rest, c.code) {
				t.Errorf("got %q", rest)
			}
			if sent := <-done; sent >= c.limit {
				t.Errorf("%d bytes were taken", sent)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > int64(c.allowed) {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
	if len(rec.all()) != 0 {
		t.Errorf("%d messages were taken", len(rec.all()))
	}
}

// Clients that say nothing, or say it slowly, are ended.
func TestSlowClients(t *testing.T) {
	src, addr := listener(t, testEnv(t), func(c *SourceConfig) { c.HeartBeat = 0 })
	src.(*listenSource).within = 500 * time.Millisecond
	startSource(t, src, newRecorder())
	for name, c := range map[string][2]string{"silent": {"", ""}, "half a CONNECT": {"CONNECT\naccept-", "x"}, "heart-beats only": {"\n\n\n", "\n"}} {
		start, trickle := c[0], c[1]
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, addr)
			c.send(start)
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						_, _ = io.WriteString(c.conn, trickle)
					}
				}
			}()
			defer close(stop)
			begun := time.Now()
			if rest := c.expectEnd(); !strings.Contains(rest, "LS4357") && rest != "" {
				t.Errorf("got %q", rest)
			}
			if d := time.Since(begun); d > 5*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// A frame that has begun has to end, however it trickles; an idle client may stay.
func TestSlowFrame(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	l := newLink(here, testLimits)
	l.within = 300 * time.Millisecond
	go func() {
		for {
			if _, err := there.Write([]byte("S")); err != nil {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	}()
	begun := time.Now()
	err := l.pump(0, nil, func() {})
	if d := time.Since(begun); err == nil || d < 250*time.Millisecond || d > 5*time.Second {
		t.Errorf("%v after %s", err, d)
	}
	_ = here.Close()
}

// The connections of a listener are counted, and those before it lets go are free again.
func TestMaxConnections(t *testing.T) {
	addr, _ := startListener(t, newRecorder(), func(c *SourceConfig) { c.MaxConnections = 2 })
	a, b := dialRaw(t, addr), dialRaw(t, addr)
	a.connect("1.2")
	b.connect("1.2")
	dialRaw(t, addr).expectEnd()
	_ = a.conn.Close()
	for limit := time.Now().Add(5 * time.Second); ; {
		c := dialRaw(t, addr)
		_, _ = io.WriteString(c.conn, "CONNECT\naccept-version:1.2\n\n\x00")
		_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, _ := c.conn.Read(make([]byte, 9)); n > 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("no place became free")
		}
	}
}

// Neither payloads nor passwords nor header values reach the log or an error.
func TestNothingIsQuoted(t *testing.T) {
	const secret = "tell-nobody"
	var log bytes.Buffer
	env := testEnv(t)
	env.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := sourceDefaults()
	cfg.Listen, cfg.Destination = "127.0.0.1:0", "/queue/a"
	cfg.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret(secret)}}
	made, err := newSource(cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	src := made.(*listenSource)
	if err := src.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	rec := newRecorder()
	rec.answer = func(*message.Batch) error { panic(secret) }
	stop := startSource(t, src, rec)
	addr := src.station.ln.Addr().String()
	for _, in := range []string{
		"CONNECT\nlogin:u\npasscode:" + secret + "x\n\n\x00",
		secret + "\n\n\x00",
		"CONNECT\nlogin:u\npasscode:" + secret + "\n\n\x00SEND\ndestination:/queue/" + secret + "\n\n\x00",
		"CONNECT\nlogin:u\npasscode:" + secret + "\n\n\x00SEND\ndestination:/queue/a\nreceipt:1\npriority:" + secret + "\n\n\x00",
		"CONNECT\nlogin:u\npasscode:" + secret + "\n\n\x00SEND\ndestination:/queue/a\nx:" + secret + "\n\n" + secret + "\x00",
	} {
		src.logged.Store(0)
		c := dialRaw(t, addr)
		c.send(in)
		if rest := c.expectEnd(); strings.Contains(rest, secret) || !strings.Contains(rest, "ERROR") {
			t.Errorf("got %q", rest)
		}
	}
	stop()
	if strings.Contains(log.String(), secret) || !strings.Contains(log.String(), "LS4352") || !strings.Contains(log.String(), "LS4353") {
		t.Errorf("the log: %s", log.String())
	}
}

// Two hundred clients at once, each with its own order.
func TestManyClients(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, nil)
	done := make(chan error, 200)
	for id := range 200 {
		go func() {
			for n := range 5 {
				m := message.Message{Payload: fmt.Appendf(nil, "%d-%d", id, n)}
				if err := sendOnce(context.Background(), addr, "1.2", "", m); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 200 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	next := map[string]int{}
	for _, m := range rec.wait(t, 1000) {
		id, n, _ := strings.Cut(string(m.Payload), "-")
		if n != strconv.Itoa(next[id]) {
			t.Fatalf("client %s: %s came in place of %d", id, n, next[id])
		}
		next[id]++
	}
}
