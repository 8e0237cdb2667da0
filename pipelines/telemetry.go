package pipelines

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/transform"
)

// telemetry puts spans around the contracts: the hand-over of a source, each step,
// and each sink. Connectors and steps know nothing of it. The zero value does
// nothing and costs a nil check.
//
// The trace context travels in the headers traceparent and tracestate (W3C Trace
// Context), through the queue too. A message whose sender did not sample it makes no
// span; its context passes through untouched.
type telemetry struct {
	tracer   trace.Tracer
	pipeline string
}

// headerCarrier reads and writes trace context in a message's headers.
type headerCarrier struct{ m *message.Message }

// Get implements propagation.TextMapCarrier.
func (c headerCarrier) Get(key string) string { return c.m.Headers.Text(key) }

// Set implements propagation.TextMapCarrier.
func (c headerCarrier) Set(key, value string) {
	headers := c.m.Headers.Clone()
	headers.Set(key, message.String(value))
	c.m.Headers = headers
}

// Keys implements propagation.TextMapCarrier.
func (c headerCarrier) Keys() []string { return []string{"traceparent", "tracestate"} }

func parentOf(ctx context.Context, m *message.Message) (context.Context, bool) {
	ctx = propagation.TraceContext{}.Extract(ctx, headerCarrier{m})
	span := trace.SpanContextFromContext(ctx)
	return ctx, span.IsValid()
}

// source wraps the hand-over of a source: one consumer span a message, whose context
// the stored message carries on.
func (t *telemetry) source(name string, next message.Handler) message.Handler {
	if t.tracer == nil {
		return next
	}
	return message.HandlerFunc(func(ctx context.Context, b *message.Batch) error {
		spans := make([]trace.Span, 0, b.Len())
		for i := range b.Messages {
			m := &b.Messages[i]
			parent, _ := parentOf(ctx, m)
			parent, span := t.tracer.Start(parent, "receive "+name, trace.WithSpanKind(trace.SpanKindConsumer), t.attributes("in."+name))
			if span.SpanContext().IsSampled() {
				propagation.TraceContext{}.Inject(parent, headerCarrier{m})
			}
			spans = append(spans, span)
		}
		err := next.Handle(ctx, b)
		for _, span := range spans {
			finish(span, err)
		}
		return err
	})
}

// sink wraps the hand-over to a sink: one producer span a sampled message, whose
// context leaves with it.
func (t *telemetry) sink(name string, next message.Handler) message.Handler {
	if t.tracer == nil {
		return next
	}
	return message.HandlerFunc(func(ctx context.Context, b *message.Batch) error {
		var spans []trace.Span
		for i := range b.Messages {
			m := &b.Messages[i]
			parent, ok := parentOf(ctx, m)
			if !ok || !trace.SpanContextFromContext(parent).IsSampled() {
				continue
			}
			parent, span := t.tracer.Start(parent, "send "+name, trace.WithSpanKind(trace.SpanKindProducer), t.attributes("out."+name))
			propagation.TraceContext{}.Inject(parent, headerCarrier{m})
			spans = append(spans, span)
		}
		err := next.Handle(ctx, b)
		for _, span := range spans {
			finish(span, err)
		}
		return err
	})
}

// lane opens the span of one batch, linked to its sampled messages; steps are its
// children. The time that a message lay in the queue shows between the spans.
func (t *telemetry) lane(ctx context.Context, units []*unit) (context.Context, func()) {
	if t.tracer == nil {
		return ctx, func() {}
	}
	var links []trace.Link
	for _, u := range units {
		if parent, ok := parentOf(ctx, &u.record.Message); ok {
			if c := trace.SpanContextFromContext(parent); c.IsSampled() {
				links = append(links, trace.Link{SpanContext: c})
			}
		}
	}
	if len(links) == 0 {
		return ctx, func() {}
	}
	first := trace.ContextWithRemoteSpanContext(ctx, links[0].SpanContext)
	ctx, span := t.tracer.Start(first, "process "+t.pipeline, trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("messaging.batch.message_count", len(units))), t.attributes("queue"))
	return ctx, func() { span.End() }
}

// steps runs steps, each in a span when its batch has one.
func (t *telemetry) steps(ctx context.Context, steps []StepPlan, b *transform.Batch) {
	traced := t.tracer != nil && trace.SpanContextFromContext(ctx).IsSampled()
	for i := range steps {
		if !traced {
			steps[i].step.Apply(ctx, b)
			continue
		}
		t.traceStep(ctx, &steps[i], b)
	}
}

func (t *telemetry) traceStep(ctx context.Context, s *StepPlan, b *transform.Batch) {
	ctx, span := t.tracer.Start(ctx, s.Where.Step, t.attributes(s.Where.Step))
	defer span.End()
	s.step.Apply(ctx, b)
}

func (t *telemetry) attributes(component string) trace.SpanStartEventOption {
	return trace.WithAttributes(attribute.String("linkspan.pipeline", t.pipeline), attribute.String("linkspan.component", component))
}

// finish ends a span. The text of an error may quote a peer, so only its presence is
// recorded.
func finish(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, "not taken")
	}
	span.End()
}
