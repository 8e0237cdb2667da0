package http

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestSuite(t *testing.T) {
	connectortest.Run(t, connectortest.Harness{Source: sourceHarness(t), Sink: sinkHarness(t)},
		connectortest.Features{Acknowledges: true, Headers: true, LowerCase: true})
}

func sourceHarness(t *testing.T) *connectortest.Source {
	r := newRig(t)
	var s *source
	post := func(ctx context.Context, path string, m message.Message) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.addr+path, bytes.NewReader(m.Payload))
		if err != nil {
			return err
		}
		for _, h := range m.Headers {
			req.Header.Add(h.Name, h.Value.Text())
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusAccepted {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	return &connectortest.Source{
		New: func(t *testing.T) connectors.Source {
			cfg := sourceDefaults()
			cfg.Listen, cfg.Path = "127.0.0.1:0", "/orders"
			src, err := newSource(cfg, r.env)
			if err != nil {
				t.Fatal(err)
			}
			if err := src.(connectors.Binder).Bind(t.Context()); err != nil {
				t.Fatal(err)
			}
			s = src.(*source)
			r.addr = s.server.ln.Addr().String()
			return src
		},
		Ready: func(*testing.T) {
			for e, _ := s.server.find("/orders"); e == nil; e, _ = s.server.find("/orders") {
			}
		},
		Send: func(ctx context.Context, m message.Message) error { return post(ctx, "/orders", m) },
		Intruder: func(t *testing.T) error {
			r.start(t, &recorder{}, func(c *SourceConfig) {
				c.Path = "/secret"
				c.Auth = &Auth{Bearer: config.NewSecret("x")}
			})
			return post(t.Context(), "/secret", message.Message{})
		},
	}
}

func sinkHarness(t *testing.T) *connectortest.Sink {
	var mu sync.Mutex
	var got []message.Message
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, message.Message{Payload: body, Headers: appendHeaders(nil, r.Header)})
	}))
	t.Cleanup(server.Close)
	return &connectortest.Sink{
		New: func(t *testing.T) connectors.Sink { return newTestSink(t, server.URL, nil) },
		Received: func(*testing.T, int) []message.Message {
			mu.Lock()
			defer mu.Unlock()
			return append([]message.Message(nil), got...)
		},
		Away: func(t *testing.T) connectors.Sink { return newTestSink(t, "http://127.0.0.1:1", nil) },
	}
}

// With the disk full for a while, what was answered with 202 is there and nothing
// else.
func TestSourceUnderErrors(t *testing.T) {
	r := newRig(t)
	n := 0
	taken := map[string]bool{}
	r.start(t, message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
		if n++; n%3 != 0 {
			return []error{message.ErrFull, message.ErrDiskFull, errors.New("x")}[n%3]
		}
		taken[string(b.Messages[0].Payload)] = true
		return nil
	}), func(c *SourceConfig) { c.Wait = time.Second })
	for i := range 30 {
		status, _, _ := r.do(t, "POST", "/orders", bytes.NewReader(fmt.Append(nil, i)))
		if (status == 202) != taken[strconv.Itoa(i)] {
			t.Errorf("%d: %d", i, status)
		}
	}
}
