package http

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSourceTakesAMessage(t *testing.T) {
	r, h := newRig(t), &recorder{}
	r.start(t, h, nil)
	status, _, fields := r.do(t, "POST", "/orders?x=1", strings.NewReader(`{"a":1}`),
		"Content-Type", "application/json", "Idempotency-Key", `"abc-1"`, "X-Tenant", "t1", "X-Tenant", "t2",
		"Traceparent", "00-1-2-01", "Authorization", "Basic eDp5", "Cookie", "s=1", "Te", "trailers")
	if status != http.StatusAccepted || fields["status"] != "accepted" || fields["id"] != "abc-1" {
		t.Fatalf("got %d %v", status, fields)
	}
	m := h.last(t)
	if string(m.Payload) != `{"a":1}` || m.Topic != "/orders" || m.ID != "abc-1" || m.ContentType != "application/json" || m.Key != nil || m.Source != "orders/orders" {
		t.Errorf("got %+v", m)
	}
	var names []string
	for _, x := range m.Headers {
		names = append(names, x.Name+"="+x.Value.Text())
	}
	if got := strings.Join(names, " "); got != "traceparent=00-1-2-01 user-agent=Go-http-client/1.1 x-tenant=t1 x-tenant=t2" {
		t.Errorf("headers: %s", got)
	}
	r.do(t, "POST", "/orders", http.NoBody)
	if m := h.last(t); len(m.Payload) != 0 || len(m.ID) != 36 || m.ID[14] != '7' {
		t.Errorf("got %+v", m)
	}
}

func TestSourceAnswers(t *testing.T) {
	reason := func(code string) error { return &message.Reason{Code: code, Text: "at line 1"} }
	big := strings.Repeat("x", 2000)
	for name, c := range map[string]struct {
		err          error
		method, path string
		body         io.Reader
		headers      []string
		status       int
		header       string
	}{
		"the queue is full":               {err: message.ErrFull, status: 503, header: "Retry-After: 1"},
		"the disk is full":                {err: message.ErrDiskFull, status: 507},
		"too large for the queue":         {err: message.ErrTooLarge, status: 413},
		"malformed JSON":                  {err: reason("LS2101"), status: 400},
		"the schema is violated":          {err: reason("LS2201"), status: 422},
		"the schema is unknown":           {err: reason("LS2401"), status: 422},
		"another reason":                  {err: reason("LS3001"), status: 503},
		"partial":                         {err: &message.PartialError{Failed: []message.Failed{{Err: reason("LS2102")}}}, status: 400},
		"the peer asks for time":          {err: &message.UnavailableError{Err: errors.New("x"), After: 7 * time.Second}, status: 503, header: "Retry-After: 7"},
		"any error":                       {err: errors.New("secret data"), status: 503, header: "Retry-After: 1"},
		"no such path":                    {path: "/other", status: 404},
		"a method that is not taken":      {method: "PUT", status: 405, header: "Allow: POST"},
		"a body over the limit":           {body: strings.NewReader(big), status: 413, header: "Connection: close"},
		"a chunked body over the limit":   {body: io.MultiReader(strings.NewReader(big)), status: 413},
		"a content type not taken":        {headers: []string{"Content-Type", "text/html"}, status: 415},
		"an encoding not taken":           {headers: []string{"Content-Encoding", "br"}, status: 415, header: "Accept-Encoding: gzip, identity"},
		"a broken gzip body":              {headers: []string{"Content-Encoding", "gzip"}, status: 400},
		"an Idempotency-Key with a space": {headers: []string{"Idempotency-Key", "a b"}, status: 400},
		"a path with a line break":        {path: "/below/%0d%0a", status: 400},
		"wrong headers":                   {headers: []string{"X-Big", strings.Repeat("y", 40<<10)}, status: 431},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			change := func(c *SourceConfig) {
				c.MaxBody = 1000
				c.ContentTypes = []string{"application/json", "text/plain"}
			}
			r.start(t, &recorder{err: c.err}, change)
			r.start(t, &recorder{}, func(c *SourceConfig) { c.Path = "/below/*" })
			method, path, body := "POST", "/orders", io.Reader(strings.NewReader("payload-data"))
			if c.method != "" {
				method = c.method
			}
			if c.path != "" {
				path = c.path
			}
			if c.body != nil {
				body = c.body
			}
			if c.status == 431 {
				resp := r.raw(t, "POST /orders HTTP/1.1\r\nHost: x\r\nX-Big: "+c.headers[1]+"\r\n\r\n")
				if !strings.Contains(resp, " 431 ") {
					t.Fatalf("got %q", resp)
				}
				return
			}
			status, header, fields := r.do(t, method, path, body, append([]string{"Content-Type", "application/json"}, c.headers...)...)
			if c.headers != nil && c.headers[0] == "Content-Type" {
				status, header, fields = r.do(t, method, path, body, c.headers...)
			}
			if status != c.status || fields["error"] == "" || fields["message"] == "" {
				t.Fatalf("got %d %v", status, fields)
			}
			if name, value, _ := strings.Cut(c.header, ": "); name == "Connection" {
				return // the client hides it
			} else if c.header != "" && header.Get(name) != value {
				t.Errorf("got %s: %s", name, header.Get(name))
			}
			if all := fmt.Sprint(fields); strings.Contains(all, "payload-data") || strings.Contains(all, "secret") {
				t.Errorf("the answer quotes data: %s", all)
			}
		})
	}
}

// raw sends bytes and returns the status line.
func (r *rig) raw(t testing.TB, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	return line
}

func TestSourceRawRequests(t *testing.T) {
	r, h := newRig(t), &recorder{}
	r.start(t, h, func(c *SourceConfig) { c.ReadTimeout = 50 * time.Millisecond })
	for name, c := range map[string]struct{ request, want string }{
		"no length at all":            {"POST /orders HTTP/1.1\r\nHost: x\r\n\r\n", "411"},
		"a body that never comes":     {"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", "408"},
		"two lengths":                 {"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"},
		"a header with NUL":           {"POST /orders HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n", "400"},
		"a header name with a space":  {"POST /orders HTTP/1.1\r\nHost: x\r\nX A: b\r\nContent-Length: 0\r\n\r\n", "400"},
		"options of the whole server": {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "404"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.raw(t, c.request); !strings.Contains(got, " "+c.want+" ") {
				t.Errorf("got %q, want %s", got, c.want)
			}
		})
	}
	if len(h.got) != 0 {
		t.Errorf("%d messages were handed on", len(h.got))
	}
}

func TestSourceGzip(t *testing.T) {
	r, h := newRig(t), &recorder{}
	r.start(t, h, func(c *SourceConfig) { c.MaxBody = 1000 })
	pack := func(n int) io.Reader {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(bytes.Repeat([]byte("a"), n))
		_ = z.Close()
		return &b
	}
	if status, _, _ := r.do(t, "POST", "/orders", pack(1000), "Content-Encoding", "gzip"); status != 202 || len(h.last(t).Payload) != 1000 {
		t.Fatalf("got %d", status)
	}
	if status, _, _ := r.do(t, "POST", "/orders", pack(500_000), "Content-Encoding", "gzip"); status != 413 {
		t.Fatalf("a bomb got %d", status)
	}
}

func TestSourceAuth(t *testing.T) {
	r := newRig(t)
	r.start(t, &recorder{}, func(c *SourceConfig) {
		c.Auth = &Auth{Basic: &Basic{User: "u", Password: config.NewSecret("p")}}
	})
	r.start(t, &recorder{}, func(c *SourceConfig) {
		c.Path = "/b"
		c.Auth = &Auth{Bearer: config.NewSecret("token")}
	})
	for name, c := range map[string]struct {
		path, auth string
		status     int
	}{
		"no credentials": {"/orders", "", 401},
		"wrong password": {"/orders", "Basic dTp4", 401},
		"right password": {"/orders", "Basic dTpw", 202},
		"wrong token":    {"/b", "Bearer tokem", 401},
		"right token":    {"/b", "bearer token", 202},
	} {
		t.Run(name, func(t *testing.T) {
			status, header, _ := r.do(t, "POST", c.path, strings.NewReader("x"), "Authorization", c.auth)
			if status != c.status || (status == 401) != (header.Get("WWW-Authenticate") != "") {
				t.Errorf("got %d", status)
			}
		})
	}
}

func TestSourcesShareAnAddress(t *testing.T) {
	r, a, b := newRig(t), &recorder{}, &recorder{}
	stopA := r.start(t, a, func(c *SourceConfig) { c.Path = "/a" })
	r.start(t, b, func(c *SourceConfig) { c.Path = "/b/*" })
	if status, _, _ := r.do(t, "POST", "/a", strings.NewReader("1")); status != 202 {
		t.Fatalf("got %d", status)
	}
	stopA()
	if status, _, _ := r.do(t, "POST", "/a", strings.NewReader("1")); status != 503 {
		t.Errorf("a path that stopped: got %d", status)
	}
	if status, _, _ := r.do(t, "POST", "/b/c/d", strings.NewReader("1")); status != 202 || b.last(t).Topic != "/b/c/d" {
		t.Errorf("the other path: got %d", status)
	}
	r.start(t, a, func(c *SourceConfig) { c.Path = "/a" })
	if status, _, _ := r.do(t, "POST", "/a", strings.NewReader("1")); status != 202 {
		t.Errorf("a path that came back: got %d", status)
	}
	env := r.env
	env.Pipeline = "other"
	src, _ := newSource(SourceConfig{Listen: "127.0.0.1:0", Path: "/a", MaxInFlight: 1}, env)
	if err := src.Run(t.Context(), a); err == nil {
		t.Error("two sources on one path")
	}
}

func TestSourceStopsGracefully(t *testing.T) {
	r, h := newRig(t), &recorder{hold: make(chan struct{})}
	stop := r.start(t, h, nil)
	group := run.NewGroup(t.Context())
	group.Go("request", func(context.Context) error {
		if status, _, _ := r.do(t, "POST", "/orders", strings.NewReader("1")); status != 202 {
			t.Errorf("a request under way got %d", status)
		}
		return nil
	})
	for !inside(r) {
	}
	stopped := make(chan struct{})
	group.Go("stop", func(context.Context) error {
		stop()
		close(stopped)
		return nil
	})
	for served(r) {
	}
	if status, _, _ := r.do(t, "POST", "/orders", strings.NewReader("1")); status != 503 {
		t.Errorf("a new request got %d", status)
	}
	select {
	case <-stopped:
		t.Error("stopped with a request under way")
	default:
	}
	close(h.hold)
	_ = group.Wait()
	<-stopped
}

func (r *rig) server() *server {
	ln, _ := r.env.Listeners.Open(context.Background(), "http", "127.0.0.1:0", nil)
	return ln.Shared.(*server)
}

func served(r *rig) bool {
	e, _ := r.server().find("/orders")
	return e != nil
}

func inside(r *rig) bool {
	e, _ := r.server().find("/orders")
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	return e.gate.inside > 0
}

func BenchmarkSource(b *testing.B) {
	r := newRig(b)
	r.start(b, message.HandlerFunc(func(context.Context, *message.Batch) error { return nil }), nil)
	body := []byte(`{"id":1,"name":"` + strings.Repeat("x", 1000) + `"}`)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	b.Cleanup(client.CloseIdleConnections)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Post("http://"+r.addr+"/orders", "application/json", bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}
