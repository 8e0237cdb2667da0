package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func address(t testing.TB, addr string) config.Address {
	t.Helper()
	a, err := config.NewAddress("mqtt://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testDialSource(t testing.TB, env connectors.Env, addr string, change func(*SourceConfig)) connectors.Source {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Connect, cfg.Topics = address(t, addr), []string{"orders/#"}
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, env, &book{sessions: map[string]*receipts{}})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestDialSourceReceives(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		for qos := range 3 {
			t.Run(fmt.Sprintf("version %s qos %d", version, qos), func(t *testing.T) {
				server, addr := startBroker(t, "")
				h := newRecorder()
				release := make(chan struct{})
				h.answer = func(*message.Batch) error { <-release; return nil }
				startSource(t, testDialSource(t, testEnv(t), addr, func(c *SourceConfig) { c.Version, c.QoS = version, qos }), h)
				waitSubscribed(t, server, 1)
				for i := range 500 {
					if err := server.Publish("orders/"+strconv.Itoa(i%2), strconv.AppendInt(nil, int64(i), 10), false, byte(qos)); err != nil {
						t.Fatal(err)
					}
				}
				close(release)
				got := h.wait(t, 500)
				for i, m := range got {
					if string(m.Payload) != strconv.Itoa(i) || m.Topic != "orders/"+strconv.Itoa(i%2) || string(m.Key) != "linkspan-p-orders\x00"+m.Topic {
						t.Fatalf("message %d: %+v", i, m)
					}
				}
				if h.batches >= 500 && qos > 0 {
					t.Logf("%d batches", h.batches)
				}
			})
		}
	}
}

// What was not taken over comes again with the session, and nothing is acknowledged
// before.
func TestDialSourceRedelivers(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			server, addr := startBroker(t, "")
			h, env := newRecorder(), testEnv(t)
			release := make(chan struct{})
			h.answer = func(*message.Batch) error { <-release; return message.ErrFull }
			src := testDialSource(t, env, addr, func(c *SourceConfig) { c.Version = version })
			done := make(chan error, 1)
			group := run.NewGroup(t.Context())
			group.Go("source", func(ctx context.Context) error { done <- src.Run(ctx, h); return nil })
			waitSubscribed(t, server, 1)
			for i := range 20 {
				if err := server.Publish("orders/a", strconv.AppendInt(nil, int64(i), 10), false, 1); err != nil {
					t.Fatal(err)
				}
			}
			close(release)
			if err := <-done; !errors.Is(err, message.ErrFull) {
				t.Fatalf("run: %v", err)
			}
			h.mu.Lock()
			h.answer = nil
			h.mu.Unlock()
			startSource(t, testDialSource(t, env, addr, func(c *SourceConfig) { c.Version = version }), h)
			seen := map[string]bool{}
			for len(seen) < 20 {
				for _, m := range h.wait(t, len(seen)+1) {
					seen[string(m.Payload)] = true
				}
			}
		})
	}
}

func TestDialSourceFailures(t *testing.T) {
	_, addr := startBroker(t, "")
	env := testEnv(t)
	wrong := testDialSource(t, env, addr, func(c *SourceConfig) { c.Auth = &Auth{User: "u", Password: config.NewSecret("secret-x")} })
	if err := wrong.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "LS4204") || strings.Contains(err.Error(), "secret-x") {
		t.Errorf("wrong password: %v", err)
	}
	if err := testDialSource(t, env, "127.0.0.1:1", nil).Run(t.Context(), nil); err == nil {
		t.Error("nobody listens")
	}
	// A peer that accepts and says nothing does not hold up the stop.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := testDialSource(t, env, ln.Addr().String(), nil).Run(ctx, nil); err != nil {
		t.Errorf("stopped while connecting: %v", err)
	}
}

func TestDialSourcePings(t *testing.T) {
	_, addr := startBroker(t, "")
	h := newRecorder()
	stop := startSource(t, testDialSource(t, testEnv(t), addr, func(c *SourceConfig) { c.KeepAlive = time.Second }), h)
	<-time.After(3 * time.Second) // twice as long as the broker would wait
	stop()                        // reports an error if the connection was lost
}

// A broker that sends more than the receive maximum is slowed down and not left: all
// its messages are taken, and acknowledged, once.
func TestDialSourceReceiveMaximum(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h := newRecorder()
	release := make(chan struct{})
	h.answer = func(*message.Batch) error { <-release; return nil }
	stop := startSource(t, testDialSource(t, testEnv(t), ln.Addr().String(), func(c *SourceConfig) { c.ReceiveMaximum = 4 }), h)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{t, conn}
	defer c.close()
	c.skip() // CONNECT
	c.send([]byte{kindConnack << 4, 3, 0, 0, 0})
	c.skip()                                             // SUBSCRIBE
	c.send([]byte{kindSuback << 4, 4, 0xff, 0xff, 0, 1}) // subscribeID
	const n = 50
	for i := range n {
		c.send((&publication{qos: 1, id: uint16(i + 1), topic: []byte("orders/a")}).append(nil, version5, nil))
	}
	<-time.After(50 * time.Millisecond) // lets the source read what it did not ask for
	close(release)
	for i := range n {
		if got := c.skip(); got[0] != kindPuback<<4 || got[3] != byte(i+1) {
			t.Fatalf("answer %d: % x", i+1, got)
		}
	}
	if got := len(h.all()); got != n {
		t.Errorf("%d of %d messages were handed on", got, n)
	}
	stop()
}

func newTestSink(t testing.TB, addr string, change func(*SinkConfig)) connectors.Sink {
	t.Helper()
	cfg := sinkDefaults()
	cfg.Connect, cfg.Topic.Literal = address(t, addr), "out/a"
	if change != nil {
		change(&cfg)
	}
	s, err := newSink(cfg, connectors.Env{Pipeline: "p", Name: "out"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(context.Background()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return s
}

func numbered(n int) *message.Batch {
	var b message.Batch
	for i := range n {
		b.Messages = append(b.Messages, message.Message{Payload: strconv.AppendInt(nil, int64(i), 10)})
	}
	return &b
}

func TestSinkPublishes(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		for qos := range 3 {
			t.Run(fmt.Sprintf("version %s qos %d", version, qos), func(t *testing.T) {
				server, addr := startBroker(t, "")
				got := make(chan packets.Packet, 2000)
				if err := server.Subscribe("out/#", 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) { got <- p }); err != nil {
					t.Fatal(err)
				}
				s := newTestSink(t, addr, func(c *SinkConfig) { c.Version, c.QoS, c.MaxInFlight = version, qos, 16 })
				if err := s.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				b := numbered(1000)
				b.Messages[0].Headers = message.Headers{{Name: "k", Value: message.String("a: b")}, {Name: "n", Value: message.Int(7)}}
				b.Messages[0].CorrelationID, b.Messages[0].ReplyTo, b.Messages[0].ContentType = "c\x00\xff", "r/x", "text/plain"
				b.Messages[0].Expires = time.Now().Add(time.Minute)
				if err := s.Handle(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				for i := range 1000 {
					p := <-got
					if string(p.Payload) != strconv.Itoa(i) || p.TopicName != "out/a" {
						t.Fatalf("message %d: %s", i, p.Payload)
					}
					if i == 0 && version == "5" {
						x := p.Properties
						if len(x.User) != 2 || x.User[0].Val != "a: b" || x.User[1].Val != "7" || x.ContentType != "text/plain" || x.ResponseTopic != "r/x" || string(x.CorrelationData) != "c\x00\xff" || x.MessageExpiryInterval < 50 {
							t.Errorf("properties %+v", x)
						}
					}
				}
			})
		}
	}
}

func TestSinkRefusals(t *testing.T) {
	_, addr := startBroker(t, "", &refuser{topic: "out/quota", code: packets.ErrQuotaExceeded}, &refuser{topic: "out/no", code: packets.ErrNotAuthorized})
	s := newTestSink(t, addr, func(c *SinkConfig) { c.Topic = config.Option{Expr: config.Expr{Source: "x"}} })
	b := &message.Batch{}
	for _, topic := range []string{"out/ok", "out/+", "", "out/\x00", "out/#", "\xff", "out/quota", strings.Repeat("x", 70000)} {
		b.Messages = append(b.Messages, message.Message{Options: []string{topic}})
	}
	b.Messages = append(b.Messages, message.Message{Options: []string{"out/ok"}, Headers: message.Headers{{Name: "a", Value: message.String("\x00")}}})
	// The option has a literal value in place of an expression that nobody compiled.
	s.(*sink).cfg.Topic = config.Option{}
	err := func() error {
		var p message.PartialError
		for i := range b.Messages {
			s.(*sink).cfg.Topic.Literal = b.Messages[i].Options[0]
			if err := s.Handle(t.Context(), &message.Batch{Messages: b.Messages[i : i+1]}); err != nil {
				var one *message.PartialError
				if !errors.As(err, &one) {
					t.Fatal(err)
				}
				p.Failed = append(p.Failed, message.Failed{Index: i, Err: one.Failed[0].Err})
			}
		}
		return &p
	}()
	var p *message.PartialError
	if !errors.As(err, &p) || len(p.Failed) != 8 {
		t.Fatalf("got %v", err)
	}
	for _, f := range p.Failed {
		var r *message.Reason
		if (f.Index == 6) != message.IsUnavailable(f.Err) || f.Index != 6 && (!errors.As(f.Err, &r) || r.Code != "LS4203") {
			t.Errorf("%d: %v", f.Index, f.Err)
		}
	}
}

// After a refusal the later messages of the same key wait.
func TestSinkKeepsOrderAfterARefusal(t *testing.T) {
	_, addr := startBroker(t, "")
	s := newTestSink(t, addr, nil)
	b := numbered(5)
	for i := range b.Messages {
		b.Messages[i].Key = []byte{byte('a' + i%2)}
	}
	b.Messages[1].Headers = message.Headers{{Name: "x", Value: message.String("\x00")}}
	err := s.Handle(t.Context(), b)
	var p *message.PartialError
	if !errors.As(err, &p) || len(p.Failed) != 2 || p.Failed[0].Index != 1 || p.Failed[1].Index != 3 || !errors.Is(p.Failed[1].Err, message.ErrBehind) {
		t.Errorf("got %v", err)
	}
}

// A connection that is lost makes messages wait, and the next call connects again.
func TestSinkReconnects(t *testing.T) {
	server, addr := startBroker(t, "")
	s := newTestSink(t, addr, nil)
	if err := s.Handle(t.Context(), numbered(10)); err != nil {
		t.Fatal(err)
	}
	server.stop()
	limit := time.Now().Add(5 * time.Second)
	for {
		err := s.Handle(t.Context(), numbered(10))
		if err != nil && !message.IsUnavailable(err) {
			t.Fatalf("got %v", err)
		}
		if err != nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("nobody noticed that the broker is gone")
		}
	}
	startBroker(t, addr)
	if err := s.Handle(t.Context(), numbered(10)); err != nil {
		t.Errorf("after the broker came back: %v", err)
	}
}

// A broker that never confirms: Handle ends with its context, and with its time-out.
func TestSinkWithoutConfirmation(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	group := run.NewGroup(context.Background())
	group.Go("mute broker", func(context.Context) error {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return nil
			}
			_, _ = conn.Write([]byte{kindConnack << 4, 3, 0, 0, 0})
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = ln.Close(); _ = group.Wait() })
	s := newTestSink(t, ln.Addr().String(), func(c *SinkConfig) { c.Timeout = 100 * time.Millisecond; c.MaxInFlight = 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Handle(ctx, numbered(5)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := s.Handle(t.Context(), numbered(1)); !message.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}
