package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/pipelines"
)

func post(ctx context.Context, url, body string) (status int, answer string, header http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header, err
}

// A request over HTTP is answered by the pipeline: with the reply that it routes back,
// with an error when the request is dead-lettered, and with 504 when nothing comes.
func TestRepliesToRequests(t *testing.T) {
	addr := freePort(t)
	bridgeOn(t, vfs.NewMem(), fmt.Sprintf(`
pipeline: rpc
in:
  web: {http: {listen: %q, path: /ask, reply: {timeout: 2s}}}
steps:
  - set:
      payload.sum: payload.a + payload.b
      headers.http-status: 201
      headers.x-by: '"bridge"'
route:
  - when: payload.a > 100
    to: {drop: "too much to say"}
  - when: payload.a < 0
    to: dead_letter
  - else: reply
delivery: {order_by: none}
`, addr))
	url := "http://" + addr + "/ask"

	status, body, header, err := post(t.Context(), url, `{"a":1,"b":2}`)
	if err != nil || status != http.StatusCreated || body != `{"a":1,"b":2,"sum":3}` || header.Get("X-By") != "bridge" || header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s %v, %v", status, body, header, err)
	}
	if status, body, _, err := post(t.Context(), url, `{"a":-1,"b":2}`); err != nil || status != http.StatusBadGateway || !strings.Contains(body, "LS2501") {
		t.Errorf("dead-lettered: got %d %s, %v", status, body, err)
	}
	if status, body, _, err := post(t.Context(), url, `{"a":101,"b":2}`); err != nil || status != http.StatusGatewayTimeout {
		t.Errorf("never answered: got %d %s, %v", status, body, err)
	}

	// Requests at the same time get their own replies.
	var mu sync.Mutex
	wrong := 0
	group := run.NewGroup(t.Context())
	for i := range 64 {
		group.Go("client", func(ctx context.Context) error {
			for n := range 20 {
				want := fmt.Sprintf(`{"a":%d,"b":%d,"sum":%d}`, i, n, i+n)
				if status, body, _, err := post(ctx, url, fmt.Sprintf(`{"a":%d,"b":%d}`, i, n)); err != nil || status != http.StatusCreated || body != want {
					mu.Lock()
					wrong++
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil || wrong > 0 {
		t.Errorf("%d of 1280 requests got no reply or a wrong one: %v", wrong, err)
	}

	// A client that has left gets no reply; it is kept.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := post(ctx, url, `{"a":1,"b":2}`); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A reply that comes after its request was given up is dead-lettered.
func TestReplyWithoutARequest(t *testing.T) {
	addr, answers := freePort(t), freePort(t)
	e := bridgeOn(t, vfs.NewMem(), fmt.Sprintf(`
pipeline: late
in:
  answers: {http: {listen: %q, path: /answer}}
  web: {http: {listen: %q, path: /ask, reply: {timeout: 100ms}}}
route:
  - when: message.source == "answers"
    to: reply
  - else: {drop: "the answer comes later"}
`, answers, addr))
	if status, _, _, err := post(t.Context(), "http://"+addr+"/ask", `{}`); err != nil || status != http.StatusGatewayTimeout {
		t.Errorf("got %d, %v", status, err)
	}
	if status, _, _, err := post(t.Context(), "http://"+answers+"/answer", `{}`); err != nil || status != http.StatusAccepted {
		t.Errorf("got %d, %v", status, err)
	}
	found := ""
	for deadline := time.Now().Add(10 * time.Second); found == "" && time.Now().Before(deadline); {
		if err := e.DeadLetters(t.Context(), "late", func(d pipelines.DeadLetter) bool {
			found = d.Code
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	if found != "LS2505" {
		t.Errorf("the reply ended as %q", found)
	}
}
