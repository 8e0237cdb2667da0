package telemetry_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/file"
	connectorhttp "github.com/linkspan/linkspan/connectors/http"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/telemetry"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
	steps "github.com/linkspan/linkspan/transform/all"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is an OTLP/HTTP receiver that keeps what it was sent.
type receiver struct {
	*httptest.Server
	status int

	mu    sync.Mutex
	spans []*tracepb.Span
	about map[string]string
	paths []string
}

func newReceiver(t *testing.T, status int) *receiver {
	t.Helper()
	r := &receiver{status: status, about: map[string]string{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		var export collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &export); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.paths = append(r.paths, req.URL.Path)
		for _, rs := range export.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				r.about[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				r.spans = append(r.spans, ss.Spans...)
			}
		}
		if r.status != http.StatusOK {
			http.Error(w, "secret of the receiver", r.status)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func settings(t *testing.T, url string, sample float64) pipelines.TelemetrySettings {
	t.Helper()
	a, err := config.NewAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	return pipelines.TelemetrySettings{OTLP: a, Sample: &sample}
}

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		i := slices.Index(pairs, name)
		if i < 0 {
			return "", false
		}
		return pairs[i+1], true
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const pipeline = `pipeline: traced
in:
  web:
    http: {listen: %s, path: /orders}
steps:
  - keep: payload.type == "order"
  - set:
      payload.seen: "true"
out:
  disk:
    file: {path: %s}
`

// free returns an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// runTraced runs the pipeline, posts a message for each traceparent, and waits until
// all are delivered.
func runTraced(t *testing.T, tracer trace.Tracer, traceparents ...string) {
	t.Helper()
	dir := t.TempDir()
	address, out := free(t), filepath.Join(dir, "out.ndjson")
	name := filepath.Join(dir, "p.yaml")
	if err := os.WriteFile(name, fmt.Appendf(nil, pipeline, address, out), 0o600); err != nil {
		t.Fatal(err)
	}
	var r config.Report
	d := pipelines.Load([]string{name}, pipelines.Registry{
		Connectors: []connectors.Spec{file.Spec(), connectorhttp.Spec()}, Steps: steps.Specs(), Keys: keys.None(),
		Queue: queue.Caps{Name: "memory", Durable: true, Atomic: true},
	}, config.Lookup{}, &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	q := memory.New()
	defer func() { _ = q.Close(context.WithoutCancel(t.Context())) }()
	e, err := pipelines.New(pipelines.Options{Queue: q, DataDir: dir, Logger: quiet(), Tracer: tracer}, d.Plans)
	if err != nil {
		t.Fatal(err)
	}
	g := run.NewGroup(t.Context())
	g.Go("engine", e.Run)
	until(t, e.Ready)
	for _, traceparent := range traceparents {
		post(t, address, traceparent)
	}
	until(t, func() bool {
		s := e.Status()[0]
		return s.Sinks[0].Delivered == uint64(len(traceparents)) && s.Backlog == 0
	})
	g.Stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("it did not happen in time")
		}
	}
}

func post(t *testing.T, address, traceparent string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/orders", strings.NewReader(`{"type":"order","name":"Ada"}`))
	if err != nil {
		t.Fatal(err)
	}
	if traceparent != "" {
		req.Header.Set("traceparent", traceparent)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatal(resp.Status)
	}
}

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// One message makes one trace, from the span of its sender to the sink.
func TestATraceReachesFromTheSenderToTheSink(t *testing.T) {
	r := newReceiver(t, http.StatusOK)
	tel, err := telemetry.New(t.Context(), telemetry.Options{Settings: settings(t, r.URL, 1), Env: environment(), Version: "1.2.3", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	runTraced(t, tel.Tracer(), "00-"+traceID+"-00f067aa0ba902b7-01")
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	parents := map[string]string{"00f067aa0ba902b7": "the sender"}
	for _, s := range r.spans {
		parents[hex.EncodeToString(s.SpanId)] = s.Name
	}
	got := map[string]string{}
	for _, s := range r.spans {
		got[s.Name] = parents[hex.EncodeToString(s.ParentSpanId)]
		if id := hex.EncodeToString(s.TraceId); id != traceID {
			t.Errorf("%s is in the trace %s", s.Name, id)
		}
	}
	want := map[string]string{
		"receive web": "the sender", "process traced": "receive web",
		"steps[0] keep": "process traced", "steps[1] set": "process traced",
		"send disk": "receive web",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("spans and their parents (-want +got):\n%s", d)
	}
	if r.about["service.name"] != "linkspan" || r.about["service.version"] != "1.2.3" {
		t.Errorf("resource: %v", r.about)
	}
	for _, path := range r.paths {
		if path != "/v1/traces" {
			t.Errorf("exported to %s", path)
		}
	}
	for _, s := range r.spans {
		if text := s.String(); strings.Contains(text, "Ada") {
			t.Errorf("a span quotes the message: %s", text)
		}
	}
}

func TestTheSenderDecidesAndTheRatioOnlyForNewTraces(t *testing.T) {
	r := newReceiver(t, http.StatusOK)
	tel, err := telemetry.New(t.Context(), telemetry.Options{Settings: settings(t, r.URL+"/v1/traces", 0), Env: environment(), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	runTraced(t, tel.Tracer(), "00-"+traceID+"-00f067aa0ba902b7-01", "00-aaaa2f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "")
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) == 0 {
		t.Error("the sampled trace is missing")
	}
	for _, s := range r.spans {
		if id := hex.EncodeToString(s.TraceId); id != traceID {
			t.Errorf("a trace that nobody sampled: %s in %s", s.Name, id)
		}
	}
}

func TestOffUnlessAnEndpointIsNamed(t *testing.T) {
	tel, err := telemetry.New(t.Context(), telemetry.Options{Env: environment(), Logger: quiet()})
	if err != nil || tel.Tracer() != nil {
		t.Errorf("tracer %v, error %v", tel.Tracer(), err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	tel, err = telemetry.New(t.Context(), telemetry.Options{Settings: settings(t, "http://127.0.0.1:1", 1), Env: environment("OTEL_SDK_DISABLED", "true"), Logger: quiet()})
	if err != nil || tel.Tracer() != nil {
		t.Errorf("disabled: tracer %v, error %v", tel.Tracer(), err)
	}
	var none *telemetry.Telemetry
	if none.Tracer() != nil || none.Shutdown(t.Context()) != nil {
		t.Error("nil does something")
	}
}

func TestTheEnvironmentNamesAnEndpoint(t *testing.T) {
	r := newReceiver(t, http.StatusOK)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=bridge-7,deployment.environment.name=test")
	tel, err := telemetry.New(t.Context(), telemetry.Options{Env: os.LookupEnv, Version: "1", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer().Start(t.Context(), "x")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) != 1 || r.about["service.name"] != "bridge-7" || r.about["service.version"] != "1" {
		t.Errorf("%d spans of %v", len(r.spans), r.about)
	}
}

func TestMistakesInTheSettings(t *testing.T) {
	for name, o := range map[string]telemetry.Options{
		"sample": {Settings: settings(t, "http://127.0.0.1:1", 1.5), Env: environment()},
		"scheme": {Settings: settings(t, "grpc://127.0.0.1:1", 1), Env: environment()},
		"env":    {Env: environment("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318")},
	} {
		o.Logger = quiet()
		if _, err := telemetry.New(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A receiver that refuses or is away costs spans, holds nothing up, and is logged
// once a minute without what it said.
func TestFailuresAreLoggedWithoutData(t *testing.T) {
	away := "http://" + free(t)
	refusing := newReceiver(t, http.StatusBadRequest).URL
	for url, want := range map[string]string{away: "connection refused", refusing: "the receiver refused them"} {
		var log bytes.Buffer
		tel, err := telemetry.New(t.Context(), telemetry.Options{Settings: settings(t, url, 1), Env: environment(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 3000 { // several batches
			_, span := tel.Tracer().Start(t.Context(), "x")
			span.End()
		}
		start := time.Now()
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Log(err) // the bound was reached
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("the shutdown took %v", took)
		}
		text := log.String()
		if strings.Count(text, "\n") != 1 || !strings.Contains(text, want) || strings.Contains(text, "secret") {
			t.Errorf("logged: %q, want one line with %q", text, want)
		}
	}
}
