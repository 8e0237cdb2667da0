package stomp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func batchOf(n int) *message.Batch {
	b := &message.Batch{}
	for i := range n {
		b.Messages = append(b.Messages, message.Message{Payload: fmt.Appendf(nil, "%d", i), Key: fmt.Appendf(nil, "k%d", i), Priority: message.NormalPriority})
	}
	return b
}

// computed makes the destination one that each message chooses.
func computed(c *SinkConfig) {
	c.Destination = config.Option{Destination: true, Expr: config.Expr{Source: "x", Node: someNode()}}
}

func someNode() config.Node {
	var r config.Report
	return config.Parse("x.yaml", []byte("a: x"), config.Lookup{}, &r).Root().Get("a")
}

func to(b *message.Batch, i int, destination string) *message.Batch {
	for j := range b.Messages {
		if b.Messages[j].Options == nil {
			b.Messages[j].Options = []string{"/queue/out"}
		}
	}
	b.Messages[i].Options = []string{destination}
	return b
}

func failed(t *testing.T, err error) map[int]error {
	t.Helper()
	out := map[int]error{}
	if err == nil {
		return out
	}
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	for _, f := range partial.Failed {
		out[f.Index] = f.Err
	}
	return out
}

// A batch larger than the window goes through, and its receipts are not waited for one
// by one.
func TestSendsBatches(t *testing.T) {
	for _, tx := range []bool{false, true} {
		for _, eager := range []bool{false, true} {
			t.Run(fmt.Sprintf("transactions %v, receipts before commit %v", tx, eager), func(t *testing.T) {
				d := startDouble(t, "", doubleOptions{eager: eager})
				s := testSink(t, d.addr(), func(c *SinkConfig) { c.Transactions, c.MaxInFlight = tx, 10 })
				if err := s.Handle(t.Context(), batchOf(95)); err != nil {
					t.Fatal(err)
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				if len(d.sent) != 95 || string(d.sent[94].body) != "94" {
					t.Errorf("%d messages", len(d.sent))
				}
				if n := d.count("COMMIT"); tx && n < 10 || !tx && n != 0 {
					t.Errorf("%d transactions", n)
				}
			})
		}
	}
}

// A refusal is the message's own, the others are delivered; later ones of its key wait.
func TestRefusesOne(t *testing.T) {
	d := startDouble(t, "", doubleOptions{})
	s := testSink(t, d.addr(), func(c *SinkConfig) { computed(c); c.MaxInFlight = 1 })
	b := to(batchOf(5), 2, "/queue/forbidden")
	b.Messages[4].Key = b.Messages[2].Key
	got := failed(t, s.Handle(t.Context(), b))
	var r *message.Reason
	if len(got) != 2 || !errors.As(got[2], &r) || r.Code != "LS4340" || r.Permanent || !errors.Is(got[4], message.ErrBehind) {
		t.Fatalf("%v", got)
	}
	if strings.Contains(got[2].Error(), "forbidden") {
		t.Errorf("the broker's text is quoted: %v", got[2])
	}
}

// An error that names no message ends the connection. The next one sends one at a
// time, so that the message at fault is found and the others pass.
func TestFindsTheMessageAtFault(t *testing.T) {
	for _, tx := range []bool{false, true} {
		t.Run(fmt.Sprintf("transactions %v", tx), func(t *testing.T) {
			d := startDouble(t, "", doubleOptions{anonymous: true})
			s := testSink(t, d.addr(), func(c *SinkConfig) { computed(c); c.Transactions = tx })
			b := to(batchOf(8), 5, "/queue/forbidden")
			refused := map[string]bool{}
			for try := 0; b.Len() > 0; try++ {
				if try == 4 {
					t.Fatalf("%d messages are left", b.Len())
				}
				left := &message.Batch{}
				for i, err := range failed(t, s.Handle(t.Context(), b)) {
					switch {
					case message.IsUnavailable(err):
						left.Messages = append(left.Messages, b.Messages[i])
					default:
						refused[string(b.Messages[i].Payload)] = true
					}
				}
				b = left
			}
			if len(refused) != 1 || !refused["5"] {
				t.Errorf("refused %v", refused)
			}
			sent := map[string]bool{}
			for _, m := range d.sent {
				sent[string(m.body)] = true
			}
			if len(sent) != 7 || sent["5"] {
				t.Errorf("%d arrived", len(sent))
			}
			// With the culprit gone, the window opens again.
			for range 40 {
				if err := s.Handle(t.Context(), to(batchOf(50), 0, "/queue/out")); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// In a transaction of a broker that receipts at once, one refused message rolls back
// the others: none of them counts as delivered.
func TestRolledBack(t *testing.T) {
	d := startDouble(t, "", doubleOptions{eager: true})
	s := testSink(t, d.addr(), func(c *SinkConfig) { computed(c); c.Transactions = true })
	got := failed(t, s.Handle(t.Context(), to(batchOf(5), 3, "/queue/forbidden")))
	for i, err := range got {
		if message.IsUnavailable(err) == (i == 3) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if len(got) != 5 || len(d.sent) != 0 {
		t.Errorf("%d failed, %d were sent", len(got), len(d.sent))
	}
}

func TestUnavailable(t *testing.T) {
	for name, o := range map[string]doubleOptions{
		"no receipts":          {silent: true},
		"no room":              {full: true},
		"no room, anonymously": {full: true, anonymous: true},
		"wrong password":       {password: "p"},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDouble(t, "", o)
			s := testSink(t, d.addr(), func(c *SinkConfig) { c.Timeout = 200 * time.Millisecond })
			err := s.Handle(t.Context(), batchOf(1))
			if partial, ok := errors.AsType[*message.PartialError](err); ok {
				err = partial.Failed[0].Err
			}
			if !message.IsUnavailable(err) {
				t.Errorf("got %v", err)
			}
			if o.password != "" && !strings.Contains(err.Error(), "LS4341") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A broker that does not read does not hold up the end of the context.
func TestStopsWhileWriting(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Read(make([]byte, 512))
		_, _ = conn.Write([]byte("CONNECTED\nversion:1.2\n\n\x00"))
		accepted <- conn
	}()
	s := testSink(t, ln.Addr().String(), nil)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer (<-accepted).Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err = s.Handle(ctx, &message.Batch{Messages: []message.Message{{Payload: make([]byte, 64<<20)}}})
	if err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

// What a message must not choose, or STOMP cannot carry, never leaves.
func TestUnfit(t *testing.T) {
	for _, version := range []string{"1.0", "1.1", "1.2"} {
		d := startDouble(t, "", doubleOptions{})
		s := testSink(t, d.addr(), func(c *SinkConfig) { computed(c); c.Version = version })
		for name, c := range map[string]struct {
			change func(m *message.Message)
			only   string // the versions in which it is refused; empty: all
		}{
			"no destination":          {func(m *message.Message) { m.Options = []string{""} }, ""},
			"a list of destinations":  {func(m *message.Message) { m.Options = []string{"/queue/a,/queue/b"} }, ""},
			"options in the name":     {func(m *message.Message) { m.Options = []string{"/queue/a?x=y"} }, ""},
			"a wildcard":              {func(m *message.Message) { m.Options = []string{"/topic/a.>"} }, ""},
			"a line break":            {func(m *message.Message) { m.Options = []string{"/queue/a\nreceipt:1"} }, ""},
			"NUL in a value":          {func(m *message.Message) { m.Headers.Set("x", message.String("a\x00")) }, ""},
			"a reserved name":         {func(m *message.Message) { m.Headers.Set("transaction", message.String("t")) }, ""},
			"another":                 {func(m *message.Message) { m.Headers.Set("message-id", message.String("t")) }, ""},
			"no name":                 {func(m *message.Message) { m.Headers.Set("", message.String("t")) }, ""},
			"a name that is no UTF-8": {func(m *message.Message) { m.Headers.Set("\xff", message.String("t")) }, ""},
			"a break in a value":      {func(m *message.Message) { m.Headers.Set("x", message.String("a\nb")) }, "1.0"},
			"a colon in a name":       {func(m *message.Message) { m.Headers.Set("x:y", message.String("a")) }, "1.0"},
			"a backslash":             {func(m *message.Message) { m.Headers.Set("x", message.String("a\\c")) }, "1.0"},
			"a space in front":        {func(m *message.Message) { m.Headers.Set("x", message.String(" a")) }, "1.0"},
			"a CR":                    {func(m *message.Message) { m.Headers.Set("x", message.String("a\rb")) }, "1.0,1.1"},
			"a break in a reply-to":   {func(m *message.Message) { m.ReplyTo = "a\nb" }, "1.0"},
		} {
			b := to(batchOf(1), 0, "/queue/out")
			c.change(&b.Messages[0])
			got := failed(t, s.Handle(t.Context(), b))
			var r *message.Reason
			refused := errors.As(got[0], &r) && r.Code == "LS4342" && r.Permanent
			if want := c.only == "" || strings.Contains(c.only, version); refused != want {
				t.Errorf("%s in %s: %v", name, version, got)
			}
		}
	}
	d := startDouble(t, "", doubleOptions{})
	s := testSink(t, d.addr(), func(c *SinkConfig) { c.Type = typeText })
	var r *message.Reason
	if got := failed(t, s.Handle(t.Context(), &message.Batch{Messages: []message.Message{{Payload: []byte{0}}}})); !errors.As(got[0], &r) || r.Code != "LS4343" {
		t.Errorf("%v", got)
	}
}

// What is sent beside the payload.
func TestSendsProperties(t *testing.T) {
	d := startDouble(t, "", doubleOptions{})
	s := testSink(t, d.addr(), func(c *SinkConfig) { c.Headers = map[string]string{"JMSXGroupID": "g", "a:b": "c"} })
	m := message.Message{
		Payload: []byte("{}"), ContentType: "application/json", CorrelationID: "c", ReplyTo: "/queue/r", Priority: 7, Expires: time.UnixMilli(4e12), ID: "mine",
		Headers: message.Headers{{Name: "n", Value: message.Int(1)}, {Name: "JMSXGroupID", Value: message.String("other")}, {Name: headerBody, Value: message.String(bodyText)}},
	}
	if err := s.Handle(t.Context(), &message.Batch{Messages: []message.Message{m}}); err != nil {
		t.Fatal(err)
	}
	f := d.frames[1]
	for name, want := range map[string]string{
		"destination": "/queue/out", "content-type": "application/json", "correlation-id": "c", "reply-to": "/queue/r", "priority": "7",
		"expires": "4000000000000", "persistent": "true", "JMSXGroupID": "g", "n": "1",
	} {
		if got := f.get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"content-length", "message-id", headerBody, "timestamp"} {
		if f.has(name) {
			t.Errorf("%s was sent", name)
		}
	}
	if !f.has("expiration") || !f.has("receipt") {
		t.Error("expiration or receipt is missing")
	}
}
