// Package set writes fields and headers. All right-hand sides of one set read the
// message as it was before the step, and the writes apply together. A plain copy of
// a field copies its bytes. Missing parents are created; null writes null. A message
// that a value cannot be computed for is failed and keeps none of the writes.
package set

import (
	"context"
	"errors"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
)

// Set describes the step that writes fields and headers.
func Set() transform.Spec { return transform.Spec{Name: "set", Compile: compileSet} }

// Unset describes the step that removes fields and headers.
func Unset() transform.Spec { return transform.Spec{Name: "unset", Compile: compileUnset} }

type write struct {
	target transform.Target
	value  *expression.Program
}

type setStep struct {
	writes []write
	where  transform.Where
}

func compileSet(n config.Node, c *transform.Compiler) transform.Step {
	if !n.IsMapping() || len(n.Fields()) == 0 {
		c.Report.Errorf(n, "LS1302", "write payload.FIELD: EXPRESSION, one a line", "set needs fields and their values")
		return nil
	}
	s := &setStep{where: c.Where}
	good := true
	for _, f := range n.Fields() {
		target, ok := c.Target(f.Key, f.Name)
		value := c.Expression(f.Value, expression.Anything)
		if !ok || value == nil {
			good = false
			continue
		}
		if target.Header == "" && target.Path.Many() {
			c.Report.Errorf(f.Key, "LS1303", "name one element, or use mask", "set cannot write to [*]")
			good = false
		}
		for _, other := range s.writes {
			if other.target.Overlaps(target) {
				c.Report.Errorf(f.Key, "LS1304", "write one of them in a set of its own", "%s overlaps another target of this set", f.Name)
				good = false
			}
		}
		s.writes = append(s.writes, write{target, value})
	}
	if !good {
		return nil
	}
	for _, w := range s.writes {
		if w.target.Header == "" {
			c.Declare(w.target.Path, &schemas.Type{Kind: schemas.Any})
		}
	}
	return s
}

// Apply implements transform.Step.
func (s *setStep) Apply(_ context.Context, b *transform.Batch) {
	w := writer{fields: make([]span, len(s.writes)), headers: make([]message.Value, len(s.writes))}
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		if err := w.apply(s, b, it); err != nil {
			it.Fail(s.where.AsReason(err))
		}
	}
}

type span struct{ from, to int }

// writer holds what one set computes for one message before it writes any of it.
type writer struct {
	buf     []byte
	fields  []span
	headers []message.Value
}

func (w *writer) apply(s *setStep, b *transform.Batch, it *transform.Item) error {
	w.buf = w.buf[:0]
	env := b.Env(it)
	for i := range s.writes {
		if err := w.compute(&s.writes[i], i, env); err != nil {
			return err
		}
	}
	for i := range s.writes {
		t := &s.writes[i].target
		if t.Header != "" {
			it.SetHeader(t.Header, w.headers[i])
			continue
		}
		if err := it.Doc.Set(t.Slot, w.buf[w.fields[i].from:w.fields[i].to]); err != nil {
			return pathReason(s.where, t.Path, err)
		}
	}
	return nil
}

func (w *writer) compute(x *write, i int, env *expression.Env) error {
	if x.target.Header != "" {
		v, err := x.value.Value(env)
		w.headers[i] = v
		return err
	}
	from := len(w.buf)
	if slot, ok := x.value.Copy(); ok {
		if raw, there := env.Doc.Get(slot); there {
			w.buf = append(w.buf, raw...)
			w.fields[i] = span{from, len(w.buf)}
			return nil
		}
	}
	buf, err := x.value.AppendJSON(w.buf, env)
	if err != nil {
		return err
	}
	w.buf = buf
	w.fields[i] = span{from, len(buf)}
	return nil
}

func pathReason(w transform.Where, path jsonscan.Path, err error) error {
	if errors.Is(err, jsonscan.ErrParentKind) {
		return w.Reason("LS2210", "payload.%s cannot be written: a parent of it is not an object", path)
	}
	return w.AsReason(err)
}

type unsetStep struct {
	targets []transform.Target
}

func compileUnset(n config.Node, c *transform.Compiler) transform.Step {
	items := n.Items()
	if n.IsScalar() && !n.IsNull() {
		items = []config.Node{n}
	}
	if len(items) == 0 {
		c.Report.Errorf(n, "LS1302", "write a list: [payload.internal, headers.x-debug]", "unset needs fields")
		return nil
	}
	s := &unsetStep{}
	for _, item := range items {
		target, ok := c.Target(item, item.Text())
		if !ok {
			return nil
		}
		for _, other := range s.targets {
			if shifts(other, target) {
				c.Report.Errorf(item, "LS1304", "remove them in two steps, the higher index first", "removing one element moves the other")
				return nil
			}
		}
		s.targets = append(s.targets, target)
	}
	for _, t := range s.targets {
		if t.Header == "" {
			c.Forget(t.Path)
		}
	}
	return s
}

// shifts reports whether removing one target moves what the other names.
func shifts(a, b transform.Target) bool {
	for i := range min(len(a.Path), len(b.Path)) {
		x, y := a.Path[i], b.Path[i]
		if x.Kind != jsonscan.Member && y.Kind != jsonscan.Member && x != y {
			return len(a.Path) == i+1 || len(b.Path) == i+1
		}
		if x != y {
			return false
		}
	}
	return false
}

// Apply implements transform.Step.
func (s *unsetStep) Apply(_ context.Context, b *transform.Batch) {
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		for i := range s.targets {
			t := &s.targets[i]
			if t.Header != "" {
				if _, there := it.Message.Headers.Get(t.Header); there {
					it.SetHeader(t.Header, message.Value{})
				}
				continue
			}
			it.Doc.Unset(t.Slot)
		}
	}
}
