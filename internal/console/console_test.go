package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		{"unknown order", request{method: http.MethodPost, path: "/api/v1/queue/change", body: `{"do":"rm"}`}, 400, "there are purge"},
		{"no place", request{method: http.MethodPost, path: "/api/v1/queue/change", body: `{"do":"purge","topic":"orders"}`}, 400, "exactly one"},
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
