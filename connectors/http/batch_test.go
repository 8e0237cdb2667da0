package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func batchOf(payloads ...string) *message.Batch {
	b := &message.Batch{}
	for _, p := range payloads {
		b.Messages = append(b.Messages, message.Message{Payload: []byte(p)})
	}
	return b
}

// picky refuses messages with these payloads.
type picky struct {
	recorder

	refuse map[string]error
}

func (h *picky) Handle(ctx context.Context, b *message.Batch) error {
	var failed []message.Failed
	good := &message.Batch{}
	for i, m := range b.Messages {
		if err := h.refuse[string(m.Payload)]; err != nil {
			failed = append(failed, message.Failed{Index: i, Err: err})
			continue
		}
		good.Messages = append(good.Messages, m)
	}
	if err := h.recorder.Handle(ctx, good); err != nil || failed == nil {
		return err
	}
	return &message.PartialError{Failed: failed}
}

func TestSourceSplitsBatches(t *testing.T) {
	bad := &message.Reason{Code: "LS2401", Text: "n must be a number"}
	for name, c := range map[string]struct {
		form, body string
		status     int
		want       []string
		answer     string
	}{
		"ndjson":        {"ndjson", "{\"a\":1}\r\n\n{\"a\":2}\n", 202, []string{`k/0 {"a":1}`, `k/1 {"a":2}`}, `{"status":"accepted","id":"k","accepted":2}`},
		"array":         {"array", ` [ {"a":1.10}, "x", [1, 2] ] `, 202, []string{`k/0 {"a":1.10}`, `k/1 "x"`, `k/2 [1, 2]`}, `{"status":"accepted","id":"k","accepted":3}`},
		"one refused":   {"array", `[1,2,3]`, 422, []string{`k/0 1`, `k/2 3`}, `{"status":"partial","id":"k","accepted":2,"refused":1,"errors":[{"index":1,"error":"LS2401","message":"n must be a number"}]}`},
		"no array":      {"array", `{"a":1}`, 400, nil, ""},
		"cut array":     {"array", `[1,2`, 400, nil, ""},
		"more behind":   {"array", `[1] [2]`, 400, nil, ""},
		"empty array":   {"array", `[]`, 400, nil, ""},
		"empty lines":   {"ndjson", "\n\n", 400, nil, ""},
		"too many":      {"array", "[" + strings.Repeat("1,", maxBatch) + "1]", 400, nil, ""},
		"deep":          {"array", strings.Repeat("[", 100_000), 400, nil, ""},
		"repeated name": {"array", `[{"a":1,"a":2}]`, 400, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, h := newRig(t), &picky{refuse: map[string]error{"2": bad}}
			r.start(t, h, func(cfg *SourceConfig) { cfg.Batch = c.form })
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.addr+"/orders", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Idempotency-Key", "k")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answer, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || c.answer != "" && strings.TrimSpace(string(answer)) != c.answer {
				t.Errorf("got %d %s", resp.StatusCode, answer)
			}
			var got []string
			for _, m := range h.got {
				got = append(got, m.ID+" "+string(m.Payload))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestComputedURLs(t *testing.T) {
	e := endpointURL{Computed: config.Option{Expr: config.Expr{Source: "x", Node: someNode(t)}}}
	for text, ok := range map[string]bool{
		"https://api.example/orders/7?x=1": true,
		"http://api.example":               true,
		"https://u:p@api.example/":         false,
		"https://api.example/a/../b":       false,
		"https://api.example/a/%2e%2e/b":   false,
		"https://api.example/a\r\nb":       false,
		`https://api.example\@evil/`:       false,
		"https://api.example/orders/a#b":   false,
		"ftp://api.example/":               false,
		"/relative":                        false,
		"https://":                         false,
		"%zz":                              false,
	} {
		_, err := e.resolve([]string{text})
		reason, isReason := errors.AsType[*message.Reason](err)
		if ok != (err == nil) || !ok && (!isReason || !reason.Permanent) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func someNode(t *testing.T) config.Node {
	t.Helper()
	var report config.Report
	return config.Parse("p.yaml", []byte("x: y\n"), config.Lookup{}, &report).Root().Get("x")
}

func TestGuard(t *testing.T) {
	check := guard([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")})
	for address, ok := range map[string]bool{
		"93.184.216.34:443": true, "[2606:2800:220:1::1]:443": true, "10.1.2.3:80": true,
		"10.2.0.1:80": false, "127.0.0.1:80": false, "169.254.169.254:80": false, "192.168.1.1:80": false, "172.16.0.1:1": false,
		"100.64.0.1:80": false, "0.0.0.0:80": false, "224.0.0.1:80": false, "255.255.255.255:80": false, "198.18.0.1:80": false,
		"[::1]:80": false, "[::]:80": false, "[fe80::1]:80": false, "[fd00::1]:80": false, "[::ffff:127.0.0.1]:80": false,
		"[64:ff9b::7f00:1]:80": false, "[2002:7f00:1::]:80": false, "localhost:80": false,
	} {
		if err := check("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// A sink with a computed url does not reach what listens on this machine.
func TestComputedURLCannotReachThisMachine(t *testing.T) {
	reached := false
	r := newRig(t)
	r.start(t, message.HandlerFunc(func(context.Context, *message.Batch) error { reached = true; return nil }), nil)
	cfg := sinkDefaults()
	cfg.URL.Computed = config.Option{Expr: config.Expr{Source: "x", Node: someNode(t)}}
	s, err := newSink(cfg, r.env)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(t.Context()))
	for _, host := range []string{r.addr, strings.Replace(r.addr, "127.0.0.1", "localhost", 1), strings.Replace(r.addr, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		b := batchOf("x")
		b.Messages[0].Options = []string{fmt.Sprintf("http://%s/orders", host)}
		err := s.Handle(t.Context(), b)
		var reason *message.Reason
		if !errors.As(err, &reason) || reason.Code != "LS4105" {
			t.Errorf("%s: %v", host, err)
		}
	}
	if reached {
		t.Error("it was reached")
	}
}
