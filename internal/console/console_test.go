package console_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEngine runs nothing and remembers what was decided.
type fakeEngine struct {
	ready  atomic.Bool
	q      queue.Engine
	mu     sync.Mutex
	called []string
}

func (e *fakeEngine) Ready() bool { return e.ready.Load() && e.q.Health() == nil }

func (e *fakeEngine) Status() []pipelines.Status {
	return []pipelines.Status{{
		Name: "orders", Backlog: 3, InFlight: 1, DeadLetters: 2,
		Sources: []pipelines.SourceStatus{{Name: "web", State: "running", Received: 7}},
		Sinks:   []pipelines.SinkStatus{{Name: "out", Available: true, Delivered: 5}},
		Dropped: map[string]uint64{"steps[0] keep": 1}, Dead: map[string]uint64{"LS2401": 2},
	}}
}

func (e *fakeEngine) note(what, pipeline string, numbers []uint64) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.called = append(e.called, fmt.Sprint(what, " ", pipeline, " ", numbers))
	return len(numbers), nil
}

func (e *fakeEngine) RetryDeadLetters(_ context.Context, p string, n []uint64) (int, error) {
	return e.note("retry", p, n)
}

func (e *fakeEngine) DropDeadLetters(_ context.Context, p string, n []uint64) (int, error) {
	return e.note("drop", p, n)
}

// world is a server with two messages and three dead letters.
type world struct {
	t      *testing.T
	dir    string
	q      queue.Engine
	engine *fakeEngine
	server *console.Server
	file   console.AdminFile
}

func newWorld(t *testing.T, o console.Options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), q: memory.New()}
	w.engine = &fakeEngine{q: w.q}
	w.publish("orders", message.Message{Payload: []byte(`{"n":1}`), Source: "web"}, message.Message{Payload: []byte{0xff, 0}, Key: []byte("k")})
	for _, code := range []string{"LS2401", "LS2501", "LS2401"} {
		var h message.Headers
		h.Add("linkspan.dead.code", message.String(code))
		h.Add("x-tenant", message.String("t1"))
		w.publish("orders.dead", message.Message{Payload: []byte("original"), Headers: h})
	}
	o.Queue, o.DataDir, o.Logger, o.Version = w.q, w.dir, slog.New(slog.DiscardHandler), "1.2.3"
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	var err error
	if w.server, err = console.Listen(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if w.file, err = console.ReadAdminFile(w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.server.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if err := w.q.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) start() *world {
	w.engine.ready.Store(true)
	w.server.Attach(w.engine)
	return w
}

func (w *world) publish(topic string, msgs ...message.Message) {
	w.t.Helper()
	tp, err := w.q.Topic(w.t.Context(), topic)
	if err == nil {
		_, err = tp.Subscribe(w.t.Context(), "s", queue.SubOptions{})
	}
	if err == nil {
		_, err = tp.Publish(w.t.Context(), msgs)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

type request struct {
	method, path, body, host, token string
}

func (w *world) do(r request) (int, string) {
	w.t.Helper()
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(w.t.Context(), r.method, "http://"+w.file.Address+r.path, strings.NewReader(r.body))
	if err != nil {
		w.t.Fatal(err)
	}
	if r.host != "" {
		req.Host = r.host
	}
	switch r.token {
	case "":
		req.Header.Set("Authorization", "Bearer "+w.file.Token)
	case "none":
	default:
		req.Header.Set("Authorization", r.token)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestOnlyTheTokenOfThisRunOpensTheAPI(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	for _, path := range []string{"/api/v1/status", "/api/v1/queue/topics", "/api/v1/queue/messages?topic=orders", "/api/v1/dead-letters", "/api/v1/dead-letters/orders/0", "/api/v1/none"} {
		for name, token := range map[string]string{
			"no token": "none", "wrong token": "Bearer " + strings.Repeat("0", 64), "another scheme": "Basic " + w.file.Token,
			"a prefix": "Bearer " + w.file.Token[:32], "empty": "Bearer ",
		} {
			if code, body := w.do(request{path: path, token: token}); code != http.StatusUnauthorized || !strings.Contains(body, `"error"`) {
				t.Errorf("%s with %s: %d %s", path, name, code, body)
			}
		}
	}
	for _, path := range []string{"/live", "/ready", "/metrics"} {
		if code, body := w.do(request{path: path, token: "none"}); code != http.StatusOK {
			t.Errorf("%s without a token: %d %s", path, code, body)
		}
	}
	if code, _ := w.do(request{method: http.MethodPost, path: "/api/v1/dead-letters/orders/drop", body: `{"all":true}`, token: "none"}); code != http.StatusUnauthorized {
		t.Errorf("drop without a token: %d", code)
	}
	if len(w.file.Token) != 64 {
		t.Errorf("the token has %d digits", len(w.file.Token))
	}
}

func TestAForeignHostIsRefused(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	for host, want := range map[string]int{
		"evil.example": 403, "evil.example:5480": 403, "localhost.evil.example": 403, "10.0.0.1": 403, "127.0.0.1.evil.example": 403,
		"localhost": 200, "LOCALHOST:80": 200, "127.0.0.1": 200, "127.8.8.8:1": 200, "[::1]:5480": 200, "[::1]": 200,
	} {
		for _, path := range []string{"/live", "/metrics", "/api/v1/status"} {
			if code, body := w.do(request{path: path, host: host}); code != want {
				t.Errorf("%s at %s: %d %s, want %d", path, host, code, body, want)
			}
		}
	}
}

func TestHealthFollowsThePipelinesAndTheQueue(t *testing.T) {
	w := newWorld(t, console.Options{})
	ready := func(code int, state string) {
		t.Helper()
		got, body := w.do(request{path: "/ready"})
		if got != code || !strings.Contains(body, `"state":"`+state+`"`) {
			t.Errorf("/ready: %d %s, want %d %s", got, body, code, state)
		}
		if got, body := w.do(request{path: "/live"}); got != http.StatusOK {
			t.Errorf("/live while %s: %d %s", state, got, body)
		}
	}
	ready(503, "starting")
	if code, body := w.do(request{method: http.MethodPost, path: "/api/v1/dead-letters/orders/retry", body: `{"all":true}`}); code != 503 {
		t.Errorf("retry during start: %d %s", code, body)
	}
	w.server.Attach(w.engine)
	ready(503, "starting")
	w.engine.ready.Store(true)
	ready(200, "ready")
	w.engine.ready.Store(false)
	ready(503, "stopping")
	w.engine.ready.Store(true)
	w.server.Stopping()
	ready(503, "stopping")
}

// sick is a queue whose storage has failed.
type sick struct{ queue.Engine }

func (sick) Health() error { return queue.ErrStorageFailed }

func TestFailedStorageIsNotLive(t *testing.T) {
	q := memory.New()
	defer func() { _ = q.Close(context.WithoutCancel(t.Context())) }()
	s, err := console.Listen(t.Context(), console.Options{Address: "127.0.0.1:0", DataDir: t.TempDir(), Queue: sick{q}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(t.Context()) }()
	w := &world{t: t, file: console.AdminFile{Address: s.Address()}}
	for _, path := range []string{"/live", "/ready"} {
		if code, body := w.do(request{path: path}); code != 503 || !strings.Contains(body, "storage has failed") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestListsAreOneObjectALine(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/api/v1/queue/messages?topic=orders", []string{`"offset":0`, `"offset":1`}},
		{"/api/v1/queue/messages?topic=orders&from=1", []string{`"offset":1`}},
		{"/api/v1/queue/messages?topic=orders&limit=1&payload=true", []string{`"payload":"{\"n\":1}"`}},
		{"/api/v1/queue/messages?topic=orders&from=1&payload=1", []string{`"payload_base64":"/wA="`}},
		{"/api/v1/queue/messages?topic=orders&from=9", nil},
		{"/api/v1/dead-letters", []string{`"number":0`, `"number":1`, `"number":2`}},
		{"/api/v1/dead-letters?pipeline=orders&code=LS2401&limit=1", []string{`"number":0`}},
		{"/api/v1/dead-letters?code=LS2501", []string{`"number":1`}},
	} {
		code, body := w.do(request{path: c.path})
		var lines []string
		if body != "" {
			lines = strings.Split(body, "\n")
		}
		if code != 200 || len(lines) != len(c.want) {
			t.Errorf("%s: %d %s", c.path, code, body)
			continue
		}
		for i, want := range c.want {
			if !json.Valid([]byte(lines[i])) || !strings.Contains(lines[i], want) {
				t.Errorf("%s: line %d is %s, want %s", c.path, i, lines[i], want)
			}
		}
	}
}

// What is data shows only to those who ask for it.
func TestDataIsShownOnRequestOnly(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	for _, path := range []string{"/api/v1/queue/messages?topic=orders", "/api/v1/queue/messages?topic=orders.dead", "/api/v1/dead-letters", "/api/v1/status", "/metrics"} {
		_, body := w.do(request{path: path})
		for _, data := range []string{`"payload`, `"key`, "original", `"t1"`, `{\"n\"`} {
			if strings.Contains(body, data) {
				t.Errorf("%s shows %s: %s", path, data, body)
			}
		}
	}
	_, body := w.do(request{path: "/api/v1/dead-letters/orders/1"})
	for _, want := range []string{`"code":"LS2501"`, `"payload":"original"`, `"headers":{"x-tenant":"t1"}`} {
		if !strings.Contains(body, want) {
			t.Errorf("show has no %s: %s", want, body)
		}
	}
}

func TestMistakesAreExplained(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	post := func(what, body string) request {
		return request{method: http.MethodPost, path: "/api/v1/dead-letters/orders/" + what, body: body}
	}
	for _, c := range []struct {
		name string
		r    request
		code int
		text string
	}{
		{"no topic", request{path: "/api/v1/queue/messages"}, 400, "topic is missing"},
		{"unknown topic", request{path: "/api/v1/queue/messages?topic=order"}, 404, "there are: orders, orders.dead"},
		{"bad offset", request{path: "/api/v1/queue/messages?topic=orders&from=x"}, 400, "from must be"},
		{"bad truth", request{path: "/api/v1/queue/messages?topic=orders&payload=x"}, 400, "payload must be"},
		{"unknown pipeline", request{path: "/api/v1/dead-letters?pipeline=x"}, 404, "there are: orders"},
		{"unknown number", request{path: "/api/v1/dead-letters/orders/77"}, 404, "77"},
		{"bad number", request{path: "/api/v1/dead-letters/orders/-1"}, 400, "digits"},
		{"unknown path", request{path: "/api/v1/queues"}, 404, "there is nothing"},
		{"wrong method", request{path: "/api/v1/dead-letters/orders/retry", method: http.MethodPut}, 404, "there is nothing"},
		{"no body", post("retry", ""), 400, "the body must be"},
		{"neither", post("retry", "{}"), 400, "exactly one"},
		{"both", post("drop", `{"all":true,"numbers":[1]}`), 400, "exactly one"},
		{"code alone", post("drop", `{"numbers":[1],"code":"LS2401"}`), 400, "goes with all"},
		{"unknown key", post("drop", `{"al":true}`), 400, "the body must be"},
		{"huge", post("drop", `{"numbers":[`+strings.Repeat("1,", 1<<20)+`1]}`), 413, "too large"},
	} {
		code, body := w.do(c.r)
		var p struct{ Error string }
		if err := json.Unmarshal([]byte(body), &p); err != nil || code != c.code || !strings.Contains(p.Error, c.text) {
			t.Errorf("%s: %d %s, want %d %q", c.name, code, body, c.code, c.text)
		}
	}
}

func TestDecisionsReachTheEngine(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	client := console.NewClient(w.file)
	defer client.Close()
	for _, c := range []struct {
		d    console.Decision
		want int
	}{
		{console.Decision{Numbers: []uint64{2, 0}}, 2},
		{console.Decision{All: true, Code: "LS2401"}, 2},
		{console.Decision{All: true}, 3},
	} {
		if n, err := client.Retry(t.Context(), "orders", c.d); n != c.want || err != nil {
			t.Errorf("retry %+v: %d, %v", c.d, n, err)
		}
	}
	if n, err := client.Drop(t.Context(), "orders", console.Decision{Numbers: []uint64{1}}); n != 1 || err != nil {
		t.Errorf("drop: %d, %v", n, err)
	}
	want := []string{"retry orders [2 0]", "retry orders [0 2]", "retry orders [0 1 2]", "drop orders [1]"}
	if d := cmp.Diff(want, w.engine.called); d != "" {
		t.Error(d)
	}
}

// The client reads what the server writes.
func TestClientReadsWhatTheReaderReads(t *testing.T) {
	w := newWorld(t, console.Options{}).start()
	client := console.NewClient(w.file)
	defer client.Close()
	reader := console.Reader{Queue: w.q}
	collect := func(l interface {
		Messages(context.Context, console.MessageQuery, func(console.QueuedMessage) error) error
	},
	) (out []console.QueuedMessage) {
		if err := l.Messages(t.Context(), console.MessageQuery{Topic: "orders", Content: true}, func(m console.QueuedMessage) error {
			m.Appended = m.Appended.UTC().Truncate(0)
			out = append(out, m)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if d := cmp.Diff(collect(reader), collect(client)); d != "" {
		t.Error(d)
	}
	want, err := reader.DeadLetter(t.Context(), "orders", 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.DeadLetter(t.Context(), "orders", 1)
	if err != nil {
		t.Fatal(err)
	}
	if got.Code != want.Code || got.Number != want.Number || cmp.Diff(want.Message, got.Message) != "" {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if s, err := client.Status(t.Context()); err != nil || s.State != "ready" || s.Version != "1.2.3" || len(s.Pipelines) != 1 {
		t.Errorf("status: %+v, %v", s, err)
	}
	stop := errors.New("enough")
	if err := client.DeadLetters(t.Context(), console.DeadLetterQuery{}, func(pipelines.DeadLetter) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the list was not stopped: %v", err)
	}
}

func TestTheAdminFileIsPrivateAndGoesWithTheServer(t *testing.T) {
	w := newWorld(t, console.Options{})
	name := filepath.Join(w.dir, "admin")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := w.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(w.dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestAnAddressInUseIsSaidAtOnce(t *testing.T) {
	w := newWorld(t, console.Options{})
	_, err := console.Listen(t.Context(), console.Options{Address: w.server.Address(), DataDir: t.TempDir(), Queue: w.q, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listen on "+w.server.Address()+":") {
		t.Errorf("got %v", err)
	}
}

func TestAnAddressOthersCanReachNeedsTLS(t *testing.T) {
	for address, plain := range map[string]bool{
		"127.0.0.1:5480": true, "localhost:1": true, "[::1]:1": true, "127.1.2.3:1": true,
		":5480": false, "0.0.0.0:5480": false, "[::]:5480": false, "10.0.0.1:1": false, "bridge.plant:1": false,
	} {
		if err := console.CheckAddress(address, false); (err == nil) != plain {
			t.Errorf("%s without TLS: %v", address, err)
		}
		if err := console.CheckAddress(address, true); err != nil {
			t.Errorf("%s with TLS: %v", address, err)
		}
	}
	if err := console.CheckAddress("5480", true); err == nil {
		t.Error("an address without a host was taken")
	}
}

// certificate writes a self-signed certificate for a name.
func certificate(t *testing.T, name string) *tlsconf.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &tlsconf.Server{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for name, block := range map[string]*pem.Block{s.Cert: {Type: "CERTIFICATE", Bytes: der}, s.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestWithTLSTheClientTrustsTheFileAndNothingElse(t *testing.T) {
	w := newWorld(t, console.Options{Address: "0.0.0.0:0", TLS: certificate(t, "bridge.plant")}).start()
	if host, _, _ := net.SplitHostPort(w.file.Address); host != "127.0.0.1" && host != "localhost" {
		t.Errorf("the address in the file is %s", w.file.Address)
	}
	client := console.NewClient(w.file)
	defer client.Close()
	if s, err := client.Status(t.Context()); err != nil || s.State != "ready" {
		t.Errorf("status: %+v, %v", s, err)
	}
	w.file.Certificate = certificate(t, "bridge.plant").Cert
	other := console.NewClient(w.file)
	defer other.Close()
	if _, err := other.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate is not the one") {
		t.Errorf("another certificate was taken: %v", err)
	}
}

func TestEveryMetricIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, console.Options{}).start()
	_, body := w.do(request{path: "/metrics"})
	var names []string
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	for _, name := range names {
		if !bytes.Contains(doc, []byte("`"+name+"`")) {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
	}
	// What is documented exists, too. Those of the process are the system's affair.
	for part := range strings.SplitSeq(string(doc), "`") {
		if strings.HasPrefix(part, "linkspan_") && !strings.ContainsAny(part, " ()") && !slices.Contains(names, part) {
			t.Errorf("docs/metrics.md lists %s, which is not exported", part)
		}
	}
	for _, want := range []string{
		`linkspan_source_received_messages_total{pipeline="orders",source="web"} 7`,
		`linkspan_sink_delivered_messages_total{pipeline="orders",sink="out"} 5`,
		`linkspan_dropped_messages_total{pipeline="orders",step="steps[0] keep"} 1`,
		`linkspan_dead_lettered_messages_total{code="LS2401",pipeline="orders"} 2`,
		`linkspan_queue_topic_appended_messages_total{topic="orders"} 2`,
		`linkspan_queue_subscription_backlog_messages{subscription="s",topic="orders.dead"} 3`,
		`linkspan_ready 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

// Scrapes and requests run beside the start of the pipelines.
func TestAskingDuringTheStartIsSafe(t *testing.T) {
	w := newWorld(t, console.Options{})
	var asked sync.WaitGroup
	for range 4 {
		asked.Go(func() {
			for range 20 {
				w.do(request{path: "/metrics"})
				w.do(request{path: "/api/v1/status"})
			}
		})
	}
	w.start()
	asked.Wait()
}
