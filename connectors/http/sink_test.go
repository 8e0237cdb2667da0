package http

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
)

func newTestSink(t *testing.T, url string, change func(*SinkConfig)) connectors.Sink {
	t.Helper()
	cfg := sinkDefaults()
	address, err := config.NewAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.URL.Fixed = address
	if change != nil {
		change(&cfg)
	}
	s, err := newSink(cfg, connectors.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func TestSinkSends(t *testing.T) {
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer server.Close()
	s := newTestSink(t, server.URL+"/in?key=secret", func(c *SinkConfig) {
		c.Method = "PUT"
		c.Headers = headerOptions{{Name: "X-Fixed", Value: config.Option{Literal: "v"}}}
		c.Auth = &Auth{Bearer: config.NewSecret("tok")}
	})
	m := message.Message{
		ID: "id-1", ContentType: "text/plain", Payload: []byte("hello"),
		Headers: message.Headers{{Name: "traceparent", Value: message.String("00-1")}, {Name: "n", Value: message.Int(7)}},
	}
	if err := s.Handle(t.Context(), &message.Batch{Messages: []message.Message{m}}); err != nil {
		t.Fatal(err)
	}
	h := got.Header
	want := []string{"PUT", "/in?key=secret", "hello", "v", "Bearer tok", "text/plain", "id-1", "00-1", "7"}
	have := []string{got.Method, got.RequestURI, string(body), h.Get("X-Fixed"), h.Get("Authorization"), h.Get("Content-Type"), h.Get("Idempotency-Key"), h.Get("Traceparent"), h.Get("N")}
	if d := cmp.Diff(want, have); d != "" {
		t.Error(d)
	}
}

func TestSinkVerdicts(t *testing.T) {
	status, after := 200, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.Header().Set("Location", "/elsewhere?secret=1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "payload echoed")
	}))
	defer server.Close()
	s := newTestSink(t, server.URL+"/?token=secret", nil)
	for _, c := range []struct {
		status      int
		after       string
		taken, wait bool
		pause       time.Duration
	}{
		{200, "", true, false, 0},
		{204, "", true, false, 0},
		{302, "", false, false, 0},
		{400, "", false, false, 0},
		{422, "", false, false, 0},
		{408, "", false, true, 0},
		{425, "", false, true, 0},
		{429, "3", false, true, 3 * time.Second},
		{500, "", false, true, 0},
		{503, "99999999", false, true, time.Hour},
	} {
		status, after = c.status, c.after
		err := s.Handle(t.Context(), &message.Batch{Messages: make([]message.Message, 1)})
		if (err == nil) != c.taken || (err != nil && message.IsUnavailable(err) != c.wait) {
			t.Errorf("%d: got %v", c.status, err)
		}
		var u *message.UnavailableError
		if errors.As(err, &u) && u.After != c.pause {
			t.Errorf("%d: after %s", c.status, u.After)
		}
		var reason *message.Reason
		if !c.taken && !c.wait && (!errors.As(err, &reason) || reason.Code != "LS4101") {
			t.Errorf("%d: got %v", c.status, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "echoed")) {
			t.Errorf("%d: the error quotes data: %v", c.status, err)
		}
	}
}

func TestSinkUnreachable(t *testing.T) {
	s := newTestSink(t, "http://127.0.0.1:1/?token=secret", func(c *SinkConfig) { c.Timeout = time.Second })
	err := s.Handle(t.Context(), &message.Batch{Messages: make([]message.Message, 2)})
	var p *message.PartialError
	if !errors.As(err, &p) || len(p.Failed) != 2 || !message.IsUnavailable(p.Failed[0].Err) || strings.Contains(p.Failed[0].Err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer slow.Close()
	defer close(release)
	s = newTestSink(t, slow.URL, func(c *SinkConfig) { c.Timeout = 30 * time.Millisecond })
	if err := s.Handle(t.Context(), &message.Batch{Messages: make([]message.Message, 1)}); !message.IsUnavailable(err) {
		t.Errorf("a time-out: %v", err)
	}
}

func TestSinkRefusesInjection(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
	defer server.Close()
	plain := newTestSink(t, server.URL, nil)
	head := func(name string, v message.Value) message.Message {
		return message.Message{Headers: message.Headers{{Name: name, Value: v}}}
	}
	for _, m := range []message.Message{
		head("a", message.String("x\r\ny: z")), head("a", message.String("x\x00")), head("a\r\nb", message.String("x")),
		head("", message.String("x")), head("Content-Length", message.Int(3)), head("host", message.String("evil")),
		head("Transfer-Encoding", message.String("chunked")),
		{ID: "a\nb"},
		{ContentType: "a\r\nb: c"},
	} {
		err := plain.Handle(t.Context(), &message.Batch{Messages: []message.Message{m}})
		var reason *message.Reason
		if !errors.As(err, &reason) || reason.Code != "LS4102" {
			t.Errorf("%+v: got %v", m, err)
		}
	}
	if calls != 0 {
		t.Errorf("%d requests were sent", calls)
	}
}

// Messages of one key stay in order, and wait behind one that failed; others are
// sent at the same time.
func TestSinkOrder(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	var most, now int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		now++
		most = max(most, now)
		seen = append(seen, string(body))
		mu.Unlock()
		time.Sleep(time.Millisecond) // work, not a wait for an event
		mu.Lock()
		now--
		mu.Unlock()
		if string(body) == "b3" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer server.Close()
	s := newTestSink(t, server.URL, func(c *SinkConfig) { c.MaxInFlight = 4 })
	var b message.Batch
	for i := range 8 {
		for _, k := range []string{"a", "b", ""} {
			m := message.Message{Payload: []byte(k + string(rune('0'+i)))}
			if k != "" {
				m.Key = []byte(k)
			}
			b.Messages = append(b.Messages, m)
		}
	}
	err := s.Handle(t.Context(), &b)
	var p *message.PartialError
	if !errors.As(err, &p) || len(p.Failed) != 5 {
		t.Fatalf("got %v", err)
	}
	for i, f := range p.Failed {
		if message.IsUnavailable(f.Err) != (i > 0) {
			t.Errorf("%d: %v", i, f.Err)
		}
	}
	var a, bb string
	for _, x := range seen {
		switch x[0] {
		case 'a':
			a += x[1:]
		case 'b':
			bb += x[1:]
		}
	}
	if a != "01234567" || bb != "0123" || most < 2 || most > 4 {
		t.Errorf("a %s, b %s, at once %d", a, bb, most)
	}
}

func TestSinkTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	one := &message.Batch{Messages: make([]message.Message, 1)}
	if err := newTestSink(t, server.URL, nil).Handle(t.Context(), one); !message.IsUnavailable(err) {
		t.Errorf("an unknown authority: %v", err)
	}
	s := newTestSink(t, server.URL, func(c *SinkConfig) { c.TLS = &tlsconf.Client{InsecureSkipVerify: true} })
	if err := s.Handle(t.Context(), one); err != nil {
		t.Error(err)
	}
}
