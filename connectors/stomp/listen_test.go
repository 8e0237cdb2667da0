package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
)

// The client of go-stomp, as one that others wrote, in the two versions that it speaks
// well.
func TestGoStompClient(t *testing.T) {
	for _, v := range []gostomp.Version{gostomp.V11, gostomp.V12} {
		t.Run(v.String(), func(t *testing.T) {
			rec := newRecorder()
			addr, _ := startListener(t, rec, func(c *SourceConfig) {
				c.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret("p")}}
			})
			if _, err := gostomp.Dial("tcp", addr, gostomp.ConnOpt.Login("u", "wrong"), gostomp.ConnOpt.AcceptVersion(v)); err == nil {
				t.Fatal("a wrong passcode was accepted")
			}
			c, err := gostomp.Dial("tcp", addr, gostomp.ConnOpt.Login("u", "p"), gostomp.ConnOpt.AcceptVersion(v), gostomp.ConnOpt.HeartBeat(time.Second, time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				if err := c.Send("/queue/a", "application/json", fmt.Appendf(nil, "%d", i), gostomp.SendOpt.Receipt, gostomp.SendOpt.Header("x:y", "a:b\nc\\")); err != nil {
					t.Fatal(err)
				}
			}
			if len(rec.all()) != 5 {
				t.Errorf("%d were taken when the last receipt came", len(rec.all()))
			}
			tx, err := c.BeginWithError()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := tx.Send("/queue/orders.eu", "", []byte("t")); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			got := rec.wait(t, 8)
			if got[0].Headers.Text("x:y") != "a:b\nc\\" || got[0].ContentType != "application/json" || got[7].Topic != "/queue/orders.eu" {
				t.Errorf("%+v", got)
			}
			if _, err := c.Subscribe("/queue/a", gostomp.AckAuto); err == nil {
				// The refusal is an ERROR, which ends the connection.
				if err := c.Send("/queue/a", "", nil, gostomp.SendOpt.Receipt); err == nil {
					t.Error("SUBSCRIBE was accepted")
				}
			}
			_ = c.MustDisconnect()
		})
	}
}

func TestNegotiation(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, func(c *SourceConfig) { c.HeartBeat = 2 * time.Second })
	for name, c := range map[string]struct{ in, want string }{
		"1.0 without a version":   {"CONNECT\nlogin:x\n\n\x00", "CONNECTED\nversion:1.0\nsession:"},
		"STOMP with CRLF":         {"STOMP\r\naccept-version:1.0,1.2,9.9\r\nhost:h\r\n\r\n\x00", "CONNECTED\nversion:1.2\nsession:"},
		"with heart-beats":        {"CONNECT\naccept-version:1.1\nheart-beat:0,1000\n\n\x00", "heart-beat:2000,2000"},
		"an unknown version":      {"CONNECT\naccept-version:2.0\n\n\x00", "version:1.0,1.1,1.2"},
		"bad heart-beats":         {"CONNECT\naccept-version:1.1\nheart-beat:a\n\n\x00", "LS4350"},
		"no CONNECT":              {"SEND\ndestination:/queue/a\n\n\x00", "LS4350"},
		"another protocol":        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x00", "LS4350"},
		"a body after CONNECT":    {"CONNECT\ncontent-length:5\n\nhello\x00", "LS4351"},
		"escapes are no escapes":  {"CONNECT\naccept-version:1.2\nlogin:a\\x\n\n\x00", "CONNECTED"},
		"accept-version is empty": {"CONNECT\naccept-version:\n\n\x00", "LS4356"},
	} {
		t.Run(name, func(t *testing.T) {
			c1 := dialRaw(t, addr)
			c1.send(c.in)
			c1.expect(c.want)
			if !strings.Contains(c.want, ":2") && !strings.HasPrefix(c.want, "CONNECTED") {
				c1.expectEnd()
			}
		})
	}
	// A client that ends its lines with CRLF goes on to do so in 1.0.
	c := dialRaw(t, addr)
	c.send("CONNECT\r\n\r\n\x00")
	c.expect("CONNECTED")
	c.send("SEND\r\ndestination:/queue/a\r\nreceipt:1\r\n\r\nx\x00")
	c.expect("RECEIPT\nreceipt-id:1\n")
	if m := rec.wait(t, 1)[0]; string(m.Payload) != "x" || m.Topic != "/queue/a" {
		t.Errorf("%+v", m)
	}
}

func TestReceipts(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, nil)
	c := dialRaw(t, addr)
	c.connect("1.2", "client-id:dev\n")
	c.send("SEND\ndestination:/queue/a\nreceipt:a\\cb\nx:1\n\none\x00SEND\ndestination:/queue/a\n\ntwo\x00\n\nSEND\ndestination:/queue/orders.eu\nreceipt:3\ncontent-length:1\n\n\x00\x00")
	c.expect("RECEIPT\nreceipt-id:a\\cb\n")
	c.expect("RECEIPT\nreceipt-id:3\n")
	got := rec.wait(t, 3)
	if string(got[0].Key) != "dev\x00/queue/a" || string(got[1].Key) != string(got[0].Key) || string(got[2].Key) != "dev\x00/queue/orders.eu" || got[2].Payload[0] != 0 {
		t.Errorf("%+v", got)
	}
	c.send("DISCONNECT\nreceipt:bye\n\n\x00")
	if rest := c.expectEnd(); !strings.Contains(rest, "receipt-id:bye") {
		t.Errorf("got %q", rest)
	}
}

// Without client-id every connection is a sender of its own.
func TestKeysOfConnections(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, nil)
	for range 2 {
		c := dialRaw(t, addr)
		c.connect("1.0")
		c.send("SEND\ndestination:/queue/a\nreceipt:1\n\n\x00")
		c.expect("RECEIPT")
	}
	if got := rec.wait(t, 2); string(got[0].Key) == string(got[1].Key) {
		t.Error("two connections share a key")
	}
}

func TestTransactions(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, func(c *SourceConfig) { c.MaxInFlight = 10 })
	c := dialRaw(t, addr)
	c.connect("1.1")
	c.send("BEGIN\ntransaction:t\nreceipt:b\n\n\x00BEGIN\ntransaction:u\n\n\x00")
	c.expect("receipt-id:b")
	for i := range 5 {
		c.send(fmt.Sprintf("SEND\ndestination:/queue/a\ntransaction:t\nreceipt:%d\n\nt%d\x00SEND\ndestination:/queue/a\ntransaction:u\n\nu\x00", i, i))
		c.expect(fmt.Sprintf("receipt-id:%d", i))
	}
	if len(rec.all()) != 0 {
		t.Error("handed on before COMMIT")
	}
	c.send("ABORT\ntransaction:u\nreceipt:a\n\n\x00COMMIT\ntransaction:t\nreceipt:c\n\n\x00")
	c.expect("receipt-id:a")
	c.expect("receipt-id:c")
	got := rec.wait(t, 5)
	if len(got) != 5 || string(got[4].Payload) != "t4" || rec.batches != 1 {
		t.Errorf("%d messages in %d batches", len(got), rec.batches)
	}
	for name, in := range map[string]string{
		"not open":      "SEND\ndestination:/queue/a\ntransaction:x\nreceipt:r\n\n\x00",
		"COMMIT":        "COMMIT\ntransaction:x\nreceipt:r\n\n\x00",
		"ABORT":         "ABORT\ntransaction:x\nreceipt:r\n\n\x00",
		"BEGIN twice":   "BEGIN\ntransaction:x\n\n\x00BEGIN\ntransaction:x\nreceipt:r\n\n\x00",
		"without name":  "BEGIN\nreceipt:r\n\n\x00",
		"too many":      "BEGIN\ntransaction:x\n\n\x00" + strings.Repeat("SEND\ndestination:/queue/a\ntransaction:x\n\n\x00", 10) + "SEND\ndestination:/queue/a\ntransaction:x\nreceipt:r\n\n\x00",
		"too many open": strings.Repeat("BEGIN\ntransaction:x\n\n\x00COMMIT\ntransaction:x\n\n\x00", 5) + manyBegins(maxTransactions) + "BEGIN\ntransaction:y\nreceipt:r\n\n\x00",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, addr)
			c.connect("1.2")
			c.send(in)
			if got := c.frame(); !strings.HasPrefix(got, "ERROR\nmessage:LS435") || !strings.Contains(got, "receipt-id:r") {
				t.Errorf("got %q", got)
			}
			c.expectEnd()
		})
	}
	if len(rec.all()) != 5 {
		t.Errorf("%d messages", len(rec.all()))
	}
}

func manyBegins(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "BEGIN\ntransaction:x%d\n\n\x00", i)
	}
	return b.String()
}

// Whatever is not a message for here ends the connection, and what came before it is
// answered first.
func TestRefusedFrames(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, nil)
	for name, c := range map[string]struct{ in, code string }{
		"another destination":     {"SEND\ndestination:/queue/b\nreceipt:r\n\n\x00", "LS4353"},
		"no destination":          {"SEND\nreceipt:r\n\n\x00", "LS4353"},
		"not quite the prefix":    {"SEND\ndestination:/queue/order\nreceipt:r\n\n\x00", "LS4353"},
		"SUBSCRIBE":               {"SUBSCRIBE\ndestination:/queue/a\nid:0\nreceipt:r\n\n\x00", "LS4353"},
		"ACK":                     {"ACK\nid:0\nreceipt:r\n\n\x00", "LS4353"},
		"NACK":                    {"NACK\nid:0\nreceipt:r\n\n\x00", "LS4353"},
		"a second CONNECT":        {"CONNECT\naccept-version:1.2\nreceipt:r\n\n\x00", "LS4350"},
		"an unknown command":      {"PUBLISH\nreceipt:r\n\n\x00", "LS4350"},
		"a frame of a server":     {"MESSAGE\nreceipt:r\n\n\x00", "LS4350"},
		"a priority of text":      {"SEND\ndestination:/queue/a\npriority:high\nreceipt:r\n\n\x00", "LS4350"},
		"an escape that is wrong": {"SEND\ndestination:/queue/a\nx:\\t\n\n\x00", "LS4350"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(rec.all())
			c1 := dialRaw(t, addr)
			c1.connect("1.2")
			c1.send("SEND\ndestination:/queue/a\nreceipt:before\n\n\x00" + c.in)
			c1.expect("RECEIPT\nreceipt-id:before")
			got := c1.frame()
			if !strings.HasPrefix(got, "ERROR\nmessage:"+c.code) || strings.Contains(c.in, "receipt:r") && !strings.Contains(got, "receipt-id:r\n") {
				t.Errorf("got %q", got)
			}
			c1.expectEnd()
			if n := len(rec.all()); n != before+1 {
				t.Errorf("%d messages were taken", n-before)
			}
		})
	}
}

// A message that is not taken over is never given a receipt, nor is one after it.
func TestHandOverFails(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"no room":     {message.ErrFull, "LS4354"},
		"disk full":   {message.ErrDiskFull, "LS4354"},
		"too large":   {message.ErrTooLarge, "LS4355"},
		"bad content": {&message.Reason{Code: "LS2502", Text: "secret"}, "LS2502"},
		"other":       {errors.New("secret"), "LS4354"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder()
			rec.answer = func(b *message.Batch) error {
				var p message.PartialError
				for i := range b.Messages {
					if string(b.Messages[i].Payload) == "bad" {
						p.Failed = append(p.Failed, message.Failed{Index: i, Err: c.err})
					}
				}
				if p.Failed == nil {
					return nil
				}
				return &p
			}
			addr, _ := startListener(t, rec, nil)
			cl := dialRaw(t, addr)
			cl.connect("1.2")
			cl.send("SEND\ndestination:/queue/a\nreceipt:1\n\ngood\x00SEND\ndestination:/queue/a\nreceipt:2\n\nbad\x00SEND\ndestination:/queue/a\nreceipt:3\n\ngood\x00")
			cl.expect("receipt-id:1")
			got := cl.frame()
			if !strings.HasPrefix(got, "ERROR\nmessage:") || !strings.Contains(got, c.want) || !strings.Contains(got, "receipt-id:2") || strings.Contains(got, "secret") {
				t.Errorf("got %q", got)
			}
			if rest := cl.expectEnd(); strings.Contains(rest, "RECEIPT") {
				t.Errorf("and then %q", rest)
			}
		})
	}
}

// A sender that does not wait for receipts is slowed down, and all arrives in order.
func TestBackPressure(t *testing.T) {
	rec := newRecorder()
	release := make(chan struct{})
	var once sync.Once
	largest := 0
	rec.answer = func(b *message.Batch) error {
		once.Do(func() { <-release })
		largest = max(largest, b.Len())
		return nil
	}
	addr, _ := startListener(t, rec, func(c *SourceConfig) { c.MaxInFlight = 16 })
	c := dialRaw(t, addr)
	c.connect("1.2")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range 20000 {
			if _, err := fmt.Fprintf(c.conn, "SEND\ndestination:/queue/a\n\n%06d %s\x00", i, strings.Repeat("x", 1000)); err != nil {
				return
			}
		}
	}()
	select {
	case <-sent:
		t.Error("the sender was not held up")
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	got := rec.wait(t, 20000)
	<-sent
	for i := range got {
		if string(got[i].Payload[:6]) != fmt.Sprintf("%06d", i) {
			t.Fatalf("%s came in place of %d", got[i].Payload[:6], i)
		}
	}
	if largest > 16 {
		t.Errorf("a batch of %d messages", largest)
	}
}

// While one batch is handed on, the next one fills, beyond the bytes of a batch too.
func TestFillsWhileHandingOn(t *testing.T) {
	rec := newRecorder()
	var first sync.Once
	entered, release := make(chan struct{}), make(chan struct{})
	rec.answer = func(*message.Batch) error {
		first.Do(func() { close(entered); <-release })
		return nil
	}
	addr, _ := startListener(t, rec, nil)
	c := dialRaw(t, addr)
	c.connect("1.2")
	one := "SEND\ndestination:/queue/a\n\n" + strings.Repeat("x", 600<<10) + "\x00"
	c.send(one)
	<-entered
	sent := make(chan struct{})
	go func() { defer close(sent); _, _ = c.conn.Write([]byte(one)) }()
	select {
	case <-sent:
	case <-time.After(10 * time.Second):
		t.Error("nothing is read while a batch is handed on")
	}
	close(release)
	<-sent
	rec.wait(t, 2)
}

func TestHeartBeats(t *testing.T) {
	addr, _ := startListener(t, newRecorder(), func(c *SourceConfig) { c.HeartBeat = 100 * time.Millisecond })
	c := dialRaw(t, addr)
	c.send("CONNECT\naccept-version:1.2\nheart-beat:100,100\n\n\x00")
	c.expect("CONNECTED")
	start := time.Now()
	rest := c.expectEnd() // it sends none itself
	if d := time.Since(start); d < time.Second || d > 8*time.Second || strings.Count(rest, "\n") < 8 || !strings.Contains(rest, "LS4357") {
		t.Errorf("after %s: %q", d, rest)
	}
}

func TestListenerStops(t *testing.T) {
	rec := newRecorder()
	env := testEnv(t)
	src, addr := listener(t, env, nil)
	stop := startSource(t, src, rec)
	c := dialRaw(t, addr)
	c.connect("1.2")
	c.send("SEND\ndestination:/queue/a\nreceipt:1\n\nx\x00")
	c.expect("receipt-id:1")
	stop()
	if rest := c.expectEnd(); !strings.Contains(rest, "LS4358") {
		t.Errorf("got %q", rest)
	}
	// A successor on the same address takes over, as at a reload.
	src, addr2 := listener(t, env, nil)
	if addr2 != addr {
		t.Fatalf("%s became %s", addr, addr2)
	}
	startSource(t, src, rec)
	c = dialRaw(t, addr)
	c.connect("1.2")
	c.send("SEND\ndestination:/queue/a\nreceipt:2\n\ny\x00")
	c.expect("receipt-id:2")
	other := sourceDefaults()
	other.Listen, other.Destination = "127.0.0.1:0", "/queue/a"
	env.Name = "other"
	twin, err := newSource(other, env)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := newSource(other, connectors.Env{Pipeline: "p", Name: "third", Logger: env.Logger, Listeners: env.Listeners})
	if err := errors.Join(twin.(connectors.Binder).Bind(t.Context()), again.(connectors.Binder).Bind(t.Context())); err == nil {
		t.Error("two inputs on one address")
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := issue(t, dir, "server")
	mine, mineKey := issue(t, dir, "client")
	rec := newRecorder()
	addr, _ := startListener(t, rec, func(c *SourceConfig) { c.TLS = &tlsconf.Either{Cert: cert, Key: key, ClientCA: mine} })
	sinkWith := func(c tlsconf.Either) error {
		s := testSink(t, addr, func(s *SinkConfig) {
			s.Connect, s.TLS, s.Destination.Literal = address(t, "stomp+ssl://"+addr), &c, "/queue/a"
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return s.Handle(ctx, batchOf(1))
	}
	if err := sinkWith(tlsconf.Either{CA: cert, Cert: mine, Key: mineKey}); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if err := sinkWith(tlsconf.Either{CA: cert}); err == nil {
		t.Error("a client without a certificate was let in")
	}
	if err := sinkWith(tlsconf.Either{CA: mine, Cert: mine, Key: mineKey}); err == nil {
		t.Error("a listener with another certificate was believed")
	}
	if len(rec.wait(t, 1)) != 1 {
		t.Errorf("%d messages", len(rec.all()))
	}
	if conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 was spoken")
	}
}
