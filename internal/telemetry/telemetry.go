// Package telemetry exports traces over OTLP/HTTP. It is off unless an endpoint is
// named, and then costs the pipelines nothing: there is no tracer at all.
//
// A trace that the sender of a message sampled is kept, one that it did not sample is
// not; of the others a share is kept. Exporting happens beside the pipelines and never
// holds them up: when the receiver is away, spans are lost and messages are not. What
// is logged about that names the kind of failure and quotes nobody.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/linkspan/linkspan/pipelines"
)

const (
	// shutdownTimeout bounds the last export.
	shutdownTimeout = 5 * time.Second
	exportTimeout   = 10 * time.Second
	// logEvery is the shortest time between two lines about a receiver that is away.
	logEvery   = time.Minute
	tracesPath = "/v1/traces"
)

// Options say what is exported, and whereto.
type Options struct {
	// Settings are those of linkspan.yaml. An endpoint there comes before the
	// environment.
	Settings pipelines.TelemetrySettings
	// Env returns an environment variable, as os.LookupEnv does. An endpoint in
	// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT turns the export
	// on; the other variables of the OTLP exporter (headers, certificate, timeout) and
	// OTEL_RESOURCE_ATTRIBUTES hold as well, and OTEL_SDK_DISABLED=true turns it off.
	Env func(name string) (string, bool)
	// Version becomes service.version.
	Version string
	Logger  *slog.Logger
}

// Telemetry owns the export. The zero value and nil export nothing.
type Telemetry struct {
	provider *sdktrace.TracerProvider
}

// New starts the export, or does nothing when no endpoint is named. It does not dial:
// a receiver that is away is no reason not to start.
func New(ctx context.Context, o Options) (*Telemetry, error) {
	options, ok, err := endpoint(o)
	if err != nil || !ok {
		return &Telemetry{}, err
	}
	ratio := 1.0
	if o.Settings.Sample != nil {
		ratio = *o.Settings.Sample
	}
	if ratio < 0 || ratio > 1 {
		return nil, fmt.Errorf("telemetry.sample is a share from 0 to 1, not %v", ratio)
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	// The environment comes last, so that it may give the service another name.
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "linkspan"), attribute.String("service.version", o.Version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err), exporter.Shutdown(ctx))
	}
	return &Telemetry{provider: sdktrace.NewTracerProvider(
		sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))),
		sdktrace.WithBatcher(&quiet{SpanExporter: exporter, log: o.Logger}, sdktrace.WithExportTimeout(exportTimeout)),
	)}, nil
}

// endpoint returns the exporter's options, and whether there is anything to export to.
func endpoint(o Options) ([]otlptracehttp.Option, bool, error) {
	if off, _ := o.Env("OTEL_SDK_DISABLED"); strings.EqualFold(off, "true") {
		return nil, false, nil
	}
	options := []otlptracehttp.Option{otlptracehttp.WithTimeout(exportTimeout)}
	if u := o.Settings.OTLP.URL(); u != nil {
		if u.Scheme != "http" && u.Scheme != "https" {
			return nil, false, fmt.Errorf("telemetry.otlp must be an http or https address, such as http://localhost:4318, not %s", u.Redacted())
		}
		full := *u
		if !strings.HasSuffix(full.Path, tracesPath) {
			full = *full.JoinPath(tracesPath)
		}
		return append(options, otlptracehttp.WithEndpointURL(full.String())), true, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		text, ok := o.Env(name)
		if !ok || text == "" {
			continue
		}
		// The exporter takes its own fallback when it cannot read the address.
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, false, fmt.Errorf("the environment variable %s must be an http or https address, such as http://localhost:4318", name)
		}
		return options, true, nil
	}
	return nil, false, nil
}

// Tracer returns what makes spans, or nil when nothing is exported.
func (t *Telemetry) Tracer() trace.Tracer {
	if t == nil || t.provider == nil {
		return nil
	}
	return t.provider.Tracer("github.com/linkspan/linkspan")
}

// Shutdown exports what is left, for at most five seconds, and ends the export.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t == nil || t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("export the last traces: %s", kind(err))
	}
	return nil
}

// quiet logs the failures of an exporter instead of handing them to OpenTelemetry's
// global handler, which would print what a receiver answered.
type quiet struct {
	sdktrace.SpanExporter
	log *slog.Logger

	mu sync.Mutex
	// Guarded by mu.
	lost   int
	logged time.Time
}

// ExportSpans implements sdktrace.SpanExporter.
func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := q.SpanExporter.ExportSpans(ctx, spans); err != nil {
		q.note(ctx, len(spans), err)
	}
	return nil
}

func (q *quiet) note(ctx context.Context, spans int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += spans
	if now := time.Now(); now.Sub(q.logged) >= logEvery {
		q.log.LogAttrs(ctx, slog.LevelWarn, "traces cannot be exported", slog.String("error", kind(err)), slog.Int("lost_spans", q.lost))
		q.lost, q.logged = 0, now
	}
}

// kind says what went wrong without quoting an answer.
func kind(err error) string {
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "the receiver does not answer in time"
	default:
		return "the receiver refused them"
	}
}
