package pipelines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/routing"
	"github.com/linkspan/linkspan/transform"
)

// work is one message of a lane's batch, before and after the steps.
type work struct {
	item transform.Item
	unit *unit
	dest *routing.Destination
}

// bench is what a lane reuses from batch to batch: the items of the pipeline's
// steps, those of each sink's steps, and the batches that leave. Nothing in it
// outlives a batch.
type bench struct {
	works []*work
	batch transform.Batch
	some  transform.Batch
	sinks []sinkBench
}

type sinkBench struct {
	items   []*transform.Item
	owners  []int // the unit index of each outgoing message
	out     message.Batch
	batch   transform.Batch
	headers []message.Header
	options []string
}

func (b *bench) reset(units []*unit, p *Plan, now time.Time) {
	for len(b.works) < len(units) {
		b.works = append(b.works, &work{})
	}
	b.batch.Items = b.batch.Items[:0]
	for i, u := range units {
		w := b.works[i]
		w.unit, w.dest = u, nil
		w.item.Reset(&u.record.Message, p.paths)
		switch {
		case u.refused != nil:
			w.item.Fail(u.refused)
		case u.record.Message.Expired(now):
			w.item.Fail(expired())
		}
		b.batch.Items = append(b.batch.Items, &w.item)
	}
}

// expired is the reason of a message that waited longer than its sender allowed.
func expired() *message.Reason {
	return &message.Reason{Code: "LS2503", Step: "delivery", Text: "the message expired before it could be delivered", Permanent: true}
}

// transform runs the sources' steps, the pipeline's steps and the route over the
// batch. Afterwards every item is failed, dropped or has a destination.
func (b *bench) transform(ctx context.Context, p *Plan, t *telemetry) error {
	if p.scans {
		scan(&b.batch)
	}
	for i := range p.Sources {
		if err := applySteps(ctx, p.Sources[i].Steps, b.of(&p.Sources[i], p), t); err != nil {
			return err
		}
	}
	if err := applySteps(ctx, p.Steps, &b.batch, t); err != nil {
		return err
	}
	for i, it := range b.batch.Items {
		if !it.Live() || !sound(it) {
			continue
		}
		dest, err := p.Route.Route(b.batch.Env(it))
		if err != nil {
			it.Fail(asReason(err))
			continue
		}
		b.works[i].dest = dest
	}
	return nil
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

// of returns the messages that came from a source.
func (b *bench) of(s *SourcePlan, p *Plan) *transform.Batch {
	if len(p.Sources) == 1 {
		return &b.batch
	}
	b.some.Items = b.some.Items[:0]
	for _, it := range b.batch.Items {
		if it.Message.Source == s.Name {
			b.some.Items = append(b.some.Items, it)
		}
	}
	return &b.some
}

func applySteps(ctx context.Context, steps []StepPlan, b *transform.Batch, t *telemetry) error {
	for i := range steps {
		if err := t.step(ctx, &steps[i], b); err != nil {
			return err
		}
	}
	return nil
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

// address adds one part of a message to the batch of a sink.
func (s *sinkBench) address(owner int, m *message.Message, payload []byte, p *SinkPlan) {
	for len(s.items) <= len(s.owners) {
		s.items = append(s.items, &transform.Item{})
	}
	it := s.items[len(s.owners)]
	it.Reset(m, p.paths)
	it.Message.Payload = payload
	it.Doc.Reset(p.paths, payload)
	s.owners = append(s.owners, owner)
}

func (s *sinkBench) clear() {
	s.owners = s.owners[:0]
	s.out.Messages = s.out.Messages[:0]
	s.headers = s.headers[:0]
	s.options = s.options[:0]
}

// prepare runs the sink's own steps and computes its options. Afterwards the items
// that are live are in out, in order, with Origin naming their owner.
func (s *sinkBench) prepare(ctx context.Context, p *SinkPlan, t *telemetry) error {
	s.batch.Items = s.items[:len(s.owners)]
	if p.scans {
		scan(&s.batch)
	}
	if err := applySteps(ctx, p.Steps, &s.batch, t); err != nil {
		return err
	}
	for i, it := range s.batch.Items {
		if !it.Live() || !sound(it) {
			continue
		}
		first := len(s.options)
		if err := s.computeOptions(it, p); err != nil {
			it.Fail(asReason(err))
			continue
		}
		m := it.Message
		m.Payload = it.Payload()
		m.Headers = s.selectHeaders(&m, p)
		m.Options = s.options[first:len(s.options):len(s.options)]
		m.Origin = s.owners[i]
		s.out.Messages = append(s.out.Messages, m)
	}
	return nil
}

func (s *sinkBench) computeOptions(it *transform.Item, p *SinkPlan) error {
	for i := range p.options {
		o := &p.options[i]
		text, ok, err := o.program.Text(s.batch.Env(it))
		if err != nil {
			return err
		}
		if !ok || len(o.allow) > 0 && !slices.Contains(o.allow, text) {
			return o.where.Reason("LS2502", "the computed option is null or not in its allow list")
		}
		s.options = append(s.options, text)
	}
	return nil
}

// selectHeaders keeps the headers that may leave: those that the sink lists, those
// that a set wrote, and the trace context.
func (s *sinkBench) selectHeaders(m *message.Message, p *SinkPlan) message.Headers {
	all := m.Headers
	if len(all) == 0 {
		return nil
	}
	written := p.written[m.Source]
	first := len(s.headers)
	for i := range all {
		name := all[i].Name
		if name == "traceparent" || name == "tracestate" || slices.Contains(written, name) || slices.Contains(p.Headers, name) {
			s.headers = append(s.headers, all[i])
		}
	}
	return s.headers[first:len(s.headers):len(s.headers)]
}

// asReason returns err as a reason. The text of an error that is not a reason may
// quote what a peer sent, so it is left out.
func asReason(err error) *message.Reason {
	var r *message.Reason
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, message.ErrTooLarge):
		return &message.Reason{Code: "LS2602", Text: message.ErrTooLarge.Error(), Permanent: true}
	default:
		return &message.Reason{Code: "LS2601", Text: "the message was refused"}
	}
}
