// Package mask hides personal data in place, in the bytes of the payload.
//
// It fails closed. A value of a kind that the mask does not take, or a missing key,
// fails the message, which then goes to no sink. An absent member and null stay as
// they are. No error quotes a value.
//
// A mask is one file with a compile function; lookup lists them.
package mask

import (
	"context"
	"errors"
	"slices"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
)

// Spec describes the mask step.
func Spec() transform.Spec { return transform.Spec{Name: "mask", Compile: compile} }

// Func appends the JSON text of the masked form of raw, which is never null. It is
// safe for concurrent use.
type Func func(dst, raw []byte) ([]byte, error)

// method compiles the arguments of one mask; args is zero when there are none.
type method func(args config.Node, c *transform.Compiler) Func

func lookup(name string) method {
	switch name {
	case "redact":
		return compileRedact
	case "null":
		return compileNull
	case "partial":
		return compilePartial
	case "hash":
		return compileHash
	default:
		return nil
	}
}

func names() []string { return []string{"redact", "null", "partial", "hash"} }

var (
	errKind = errors.New("the mask does not take a value of this kind")
	errKey  = errors.New("the key of the mask is missing")
	// errShape: the value may stand elsewhere than the path says.
	errShape = errors.New("the document has another shape than the path")
)

type rule struct {
	target  transform.Target
	mask    Func
	parents []parent
}

// parent is a value on the way to the masked one. If it is there and has another
// shape than the path says, the masked value may stand somewhere else in clear, so
// the message fails.
type parent struct {
	slot int
	want jsonscan.Kind
}

func parentsOf(t transform.Target, c *transform.Compiler) []parent {
	parents := make([]parent, 0, len(t.Path))
	for i, elem := range t.Path {
		want := jsonscan.Array
		if elem.Kind == jsonscan.Member {
			want = jsonscan.Object
		}
		parents = append(parents, parent{slot: c.Scope.Paths.Add(t.Path[:i]), want: want})
	}
	return parents
}

type step struct {
	rules []rule
	where transform.Where
}

func compile(n config.Node, c *transform.Compiler) transform.Step {
	if !n.IsMapping() || len(n.Fields()) == 0 {
		c.Report.Errorf(n, "LS1302", "write payload.FIELD: redact, one a line", "mask needs fields and how to hide them")
		return nil
	}
	s := &step{where: c.Where}
	good := true
	for _, f := range n.Fields() {
		target, ok := c.Target(f.Key, f.Name)
		mask := compileMethod(f.Value, c)
		if !ok || mask == nil {
			good = false
			continue
		}
		for _, other := range s.rules {
			if other.target.Overlaps(target) {
				c.Report.Errorf(f.Key, "LS1304", "write one of them in a mask of its own", "%s overlaps another field of this mask", f.Name)
				good = false
			}
		}
		s.rules = append(s.rules, rule{target, mask, parentsOf(target, c)})
		if target.Header == "" {
			c.Declare(target.Path, &schemas.Type{Kind: schemas.Any})
		}
	}
	if !good {
		return nil
	}
	return s
}

// compileMethod reads `redact` or `{partial: {last: 4}}`.
func compileMethod(n config.Node, c *transform.Compiler) Func {
	name, args, at := n.Text(), config.Node{}, n
	if fields := n.Fields(); len(fields) == 1 {
		name, args, at = fields[0].Name, fields[0].Value, fields[0].Key
	} else if !n.IsScalar() {
		c.Report.Errorf(n, "LS1305", "write redact, null, hash, or {partial: {last: 4}}", "one mask is needed here")
		return nil
	}
	m := lookup(name)
	if m == nil {
		fix := config.Suggest(name, names())
		if name == "drop" || name == "delete" || name == "remove" {
			fix = "write `- unset: [FIELD]` as a step"
		}
		c.Report.Errorf(at, "LS1305", fix, "there is no mask %q", name)
		return nil
	}
	return m(args, c)
}

// Apply implements transform.Step.
func (s *step) Apply(_ context.Context, b *transform.Batch) {
	var buf []byte
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		for i := range s.rules {
			if err := s.rules[i].apply(it, &buf); err != nil {
				it.Fail(s.reason(&s.rules[i], err))
				break
			}
		}
	}
}

func (r *rule) apply(it *transform.Item, buf *[]byte) error {
	if r.target.Header != "" {
		return r.applyHeader(it, buf)
	}
	if _, found := it.Doc.Get(r.target.Slot); !found || r.target.Path.Many() {
		if err := r.checkShape(it); err != nil {
			return err
		}
	}
	return it.Doc.Each(r.target.Slot, func(raw []byte) ([]byte, error) {
		if jsonscan.KindOf(raw) == jsonscan.Null {
			return nil, nil
		}
		out, err := r.mask((*buf)[:0], raw)
		*buf = out
		return out, err
	})
}

func (r *rule) checkShape(it *transform.Item) error {
	for _, p := range r.parents {
		err := it.Doc.Each(p.slot, func(raw []byte) ([]byte, error) {
			if kind := jsonscan.KindOf(raw); kind != p.want && kind != jsonscan.Null {
				return nil, errShape
			}
			return nil, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rule) applyHeader(it *transform.Item, buf *[]byte) error {
	headers := it.Message.Headers
	copied := false
	for i := range headers {
		if headers[i].Name != r.target.Header || headers[i].Value.Kind() == message.KindNull {
			continue
		}
		raw, err := jsonscan.Append(nil, headers[i].Value.Any())
		if err != nil {
			return errKind
		}
		masked, err := r.mask((*buf)[:0], raw)
		if err != nil {
			return err
		}
		*buf = masked
		text, err := jsonscan.DecodeScanned(masked)
		if err != nil {
			return errKind
		}
		if !copied {
			headers, copied = slices.Clone(headers), true
			it.Message.Headers = headers
		}
		s, isText := text.(string)
		if !isText {
			headers[i].Value = message.Value{}
			continue
		}
		headers[i].Value = message.String(s)
	}
	return nil
}

func (s *step) reason(r *rule, err error) *message.Reason {
	place := "headers." + r.target.Header
	if r.target.Header == "" {
		place = "payload." + r.target.Path.String()
	}
	switch {
	case errors.Is(err, errKey):
		return s.where.Reason("LS2302", "%s cannot be masked: %s", place, errKey)
	case errors.Is(err, errShape):
		return s.where.Reason("LS2303", "%s cannot be masked: %s", place, errShape)
	case errors.Is(err, errKind):
		return s.where.Reason("LS2301", "%s cannot be masked: %s", place, errKind)
	default:
		return s.where.AsReason(err)
	}
}
