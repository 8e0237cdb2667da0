package pipelines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/routing"
	"github.com/linkspan/linkspan/transform"
)

// work is one message of a lane's batch, before and after the steps.
type work struct {
	item transform.Item
	unit *unit
	dest *routing.Destination
	// edited is the memory of the payload that leaves.
	edited []byte
}

// keepEdited bounds the memory that a work keeps for the next batch.
const keepEdited = 64 << 10

// payload returns the payload that leaves, until the next batch. The document stays as it
// is, so that options of sinks can be read from it.
func (w *work) payload() []byte {
	if !w.item.Doc.Edited() {
		return w.item.Payload()
	}
	w.edited = w.item.Doc.AppendTo(w.edited[:0])
	return w.edited
}

// bench is what a lane reuses from batch to batch: the items of the pipeline's
// steps, those of each sink's steps, and the batches that leave. Nothing in it
// outlives a batch.
type bench struct {
	plan      *Plan
	log       *slog.Logger
	telemetry *telemetry

	works []*work // the batch is a prefix of them
	batch transform.Batch
	some  transform.Batch
	sinks []sinkBench
}

// transform runs the sources' steps, the pipeline's steps and the route over units.
// It returns one work a unit: failed, dropped or with a destination. A step that
// panics fails the message that it panics on and no other.
func (b *bench) transform(ctx context.Context, units []*unit) []*work {
	for len(b.works) < len(units) {
		b.works = append(b.works, &work{})
	}
	works := b.works[:len(units)]
	now := time.Now()
	for i, w := range works {
		w.begin(units[i], b.plan, now)
	}
	if run.Protect("steps", func() error { b.steps(ctx, works); return nil }) == nil {
		return works
	}
	for i, w := range works {
		w.begin(units[i], b.plan, now)
		if err := run.Protect("steps", func() error { b.steps(ctx, works[i:i+1]); return nil }); err != nil {
			w.item.Fail(panicReason(ctx, b.log, err))
		}
	}
	return works
}

func (w *work) begin(u *unit, p *Plan, now time.Time) {
	w.unit, w.dest = u, nil
	if cap(w.edited) > keepEdited {
		w.edited = nil
	}
	w.item.Reset(&u.record.Message, p.paths)
	w.item.Message.Attempt = u.record.Delivery
	switch {
	case u.refused != nil:
		w.item.Fail(u.refused)
	case u.record.Message.Expired(now):
		w.item.Fail(expired())
	case !p.hasSource(u.record.Message.Source):
		w.item.Fail(&message.Reason{Code: "LS2504", Step: "in", Text: "the pipeline no longer has the input that the message came from", Permanent: true})
	}
}

// expired is the reason of a message that waited longer than its sender allowed.
func expired() *message.Reason {
	return &message.Reason{Code: "LS2503", Step: "delivery", Text: "the message expired before it could be delivered", Permanent: true}
}

// panicReason logs a panic, which is a bug of ours, and returns what its message is
// dead-lettered with.
func panicReason(ctx context.Context, log *slog.Logger, err error) *message.Reason {
	if p, ok := errors.AsType[*run.PanicError](err); ok {
		log.LogAttrs(ctx, slog.LevelError, "internal error; please report it", slog.String("in", p.Name), slog.String("stack", string(p.Stack)))
	}
	return &message.Reason{Code: "LS2299", Text: "internal error; please report it", Permanent: true}
}

func (b *bench) steps(ctx context.Context, works []*work) {
	b.batch.Items = b.batch.Items[:0]
	for _, w := range works {
		b.batch.Items = append(b.batch.Items, &w.item)
	}
	if b.plan.scans {
		scan(&b.batch)
	}
	for i := range b.plan.Sources {
		b.telemetry.steps(ctx, b.plan.Sources[i].Steps, b.of(&b.plan.Sources[i]))
	}
	b.telemetry.steps(ctx, b.plan.Steps, &b.batch)
	for _, w := range works {
		if !w.item.Live() || !sound(&w.item) {
			continue
		}
		dest, err := b.plan.Route.Route(b.batch.Env(&w.item))
		if err != nil {
			w.item.Fail(asReason(err))
			continue
		}
		w.dest = dest
	}
}

// of returns the messages that came from a source.
func (b *bench) of(s *SourcePlan) *transform.Batch {
	b.some.Items = b.some.Items[:0]
	for _, it := range b.batch.Items {
		if it.Message.Source == s.Name {
			b.some.Items = append(b.some.Items, it)
		}
	}
	return &b.some
}

// sound fails an item whose edits made a document that is refused itself, such as
// one that is nested too deeply.
func sound(it *transform.Item) bool {
	if !it.Doc.Changed() || it.Doc.Err() == nil {
		return true
	}
	it.Fail(scanReason(it.Doc.Err()))
	return false
}

// scan reads every payload strictly, once: what is not JSON, or may be read in two
// ways, fails before any step sees it.
func scan(b *transform.Batch) {
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		if err := it.Doc.Scan(); err != nil {
			it.Fail(scanReason(err))
		}
	}
}

func scanReason(err error) *message.Reason {
	r := &message.Reason{Code: jsonscan.CodeMalformed, Step: "decode", Text: "the payload is not JSON", Permanent: true}
	if syntax, ok := errors.AsType[*jsonscan.SyntaxError](err); ok {
		r.Code = syntax.Code
		r.Text = fmt.Sprintf("the payload is refused: %s at byte %d", syntax.Reason(), syntax.Offset)
	}
	return r
}

// asReason returns err as a reason. The text of an error that is not a reason may
// quote what a peer sent, so it is left out.
func asReason(err error) *message.Reason {
	if r, ok := errors.AsType[*message.Reason](err); ok {
		return r
	}
	if errors.Is(err, message.ErrTooLarge) {
		return &message.Reason{Code: "LS2602", Text: message.ErrTooLarge.Error(), Permanent: true}
	}
	return &message.Reason{Code: "LS2601", Text: "the message was refused"}
}

// sinkBench takes the messages of a batch that go to one sink.
type sinkBench struct {
	parts []*sinkPart // the batch is a prefix of them
	n     int
	batch transform.Batch
	// out is what leaves, and sent the parts that it is made of.
	out     message.Batch
	sent    []*sinkPart
	headers []message.Header
}

// sinkPart is one message on its way through a sink's steps.
type sinkPart struct {
	item    transform.Item
	unit    *unit
	doc     *jsonscan.Doc // of the pipeline's steps
	source  message.Message
	written []string
}

func (s *sinkBench) clear() {
	s.n = 0
	s.out.Messages, s.sent = s.out.Messages[:0], s.sent[:0]
	s.headers = s.headers[:0]
}

// address adds a message to those of the sink.
func (s *sinkBench) address(w *work, payload []byte) {
	if s.n == len(s.parts) {
		s.parts = append(s.parts, &sinkPart{})
	}
	p := s.parts[s.n]
	s.n++
	p.unit, p.doc, p.source, p.written = w.unit, &w.item.Doc, w.item.Message, w.item.Written()
	p.source.Payload = payload
}

func (p *sinkPart) begin(plan *SinkPlan) {
	p.item.Reset(&p.source, plan.paths)
	p.item.Inherit(p.written)
}

// prepare runs the sink's own steps and computes its options. Afterwards the parts
// that are live are in out, in order. A step that panics fails the message that it
// panics on and no other.
func (s *sinkBench) prepare(ctx context.Context, plan *SinkPlan, t *telemetry, log *slog.Logger) {
	parts := s.parts[:s.n]
	for _, p := range parts {
		p.begin(plan)
	}
	if run.Protect("steps", func() error { s.steps(ctx, parts, plan, t); return nil }) != nil {
		for i, p := range parts {
			p.begin(plan)
			if err := run.Protect("steps", func() error { s.steps(ctx, parts[i:i+1], plan, t); return nil }); err != nil {
				p.item.Fail(panicReason(ctx, log, err))
			}
		}
	}
	for _, p := range parts {
		if p.item.Live() {
			s.leave(p, plan)
		}
	}
}

func (s *sinkBench) steps(ctx context.Context, parts []*sinkPart, plan *SinkPlan, t *telemetry) {
	s.batch.Items = s.batch.Items[:0]
	for _, p := range parts {
		s.batch.Items = append(s.batch.Items, &p.item)
	}
	if plan.scans {
		scan(&s.batch)
	}
	t.steps(ctx, plan.Steps, &s.batch)
	for i, it := range s.batch.Items {
		if !it.Live() || !sound(it) {
			continue
		}
		env := s.batch.Env(it)
		if plan.shares {
			env.Doc = parts[i].doc
		}
		options, err := plan.compute(env)
		if err != nil {
			it.Fail(asReason(err))
		}
		it.Message.Options = options
	}
}

// leave adds a part to what leaves, with the headers that may.
func (s *sinkBench) leave(p *sinkPart, plan *SinkPlan) {
	m := p.item.Message
	m.Payload = p.item.Payload()
	m.Headers = s.selectHeaders(&m, p.item.Written(), plan)
	s.out.Messages = append(s.out.Messages, m)
	s.sent = append(s.sent, p)
}

// selectHeaders keeps the headers that may leave: those that the sink lists, those
// that a step wrote, and the trace context. It adds the properties for which the sink's
// protocol has no place.
func (s *sinkBench) selectHeaders(m *message.Message, written []string, plan *SinkPlan) message.Headers {
	first := len(s.headers)
	for i := range m.Headers {
		name := m.Headers[i].Name
		if name == "traceparent" || name == "tracestate" || slices.Contains(written, name) || slices.Contains(plan.Headers, name) {
			s.headers = append(s.headers, m.Headers[i])
		}
	}
	if plan.Traits.Headers {
		s.headers = carry(s.headers, first, m, &plan.Traits.Carries)
	}
	if len(s.headers) == first {
		return nil
	}
	return s.headers[first:len(s.headers):len(s.headers)]
}
