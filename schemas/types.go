package schemas

import (
	"strconv"
)

// facts is what a schema says about a value, while types are being made. Facts of schemas that refer to themselves are
// cyclic.
//
// Everything errs on the side of saying too little about kinds and too much about labels: where branches of anyOf, oneOf
// or if differ the kind is Any, but the fields and labels of all branches are kept. A schema with properties and no type
// is taken for an object, one with items for an array.
type facts struct {
	kind     Kind
	nullable bool
	fields   map[string]*facts
	required map[string]bool
	open     bool // members without a name in fields are not forbidden
	says     bool // they are spoken of, and allowed
	rest     *facts
	items    *facts // for schemas by position it covers all
	labels   []string
}

// maxMerges bounds the work on schemas that combine self-referring schemas in ever new ways.
const maxMerges = 20_000

// typing makes types of a document's places. A type is made in two stages, since types may be cyclic: its address first,
// its content when it is forced. Forcing a type forces only types of the same value, and the document has no loops among
// those; fields and elements wait in the queue.
type typing struct {
	d        *document
	types    map[*place]*facts
	merged   map[mergeKey]*facts
	pending  map[*facts]func()
	queue    []*facts
	anything *facts
	every    []string // all labels of the document
}

type mergeKey struct {
	a, b *facts
	meet bool
}

func newTypes(d *document) *typing {
	t := &typing{
		d: d, types: map[*place]*facts{}, merged: map[mergeKey]*facts{}, pending: map[*facts]func(){}, anything: &facts{open: true},
	}
	for _, p := range d.order {
		if m, ok := p.node.(map[string]any); ok {
			t.every = union(t.every, ownLabels(m))
		}
	}
	return t
}

// root is the type of the whole document.
func (t *typing) root() *Type {
	root := t.at("")
	for len(t.queue) > 0 {
		next := t.queue[len(t.queue)-1]
		t.queue = t.queue[:len(t.queue)-1]
		t.force(next)
	}
	return t.tree(root)
}

// later is a type whose content fill will make.
func (t *typing) later(fill func(typ *facts)) *facts {
	typ := &facts{}
	t.pending[typ] = func() { fill(typ) }
	t.queue = append(t.queue, typ)
	return typ
}

// force makes the content of a type.
func (t *typing) force(typ *facts) *facts {
	if fill, ok := t.pending[typ]; ok {
		delete(t.pending, typ)
		fill()
	}
	return typ
}

// at is the type of the schema at the pointer.
func (t *typing) at(pointer string) *facts {
	p := t.d.places[pointer]
	if known, ok := t.types[p]; ok {
		return known
	}
	typ := t.later(func(typ *facts) {
		m, ok := p.node.(map[string]any)
		switch {
		case !ok:
			typ.open = true
		case p.target != nil:
			*typ = *t.force(t.at(p.target.pointer))
			typ.labels = union(typ.labels, ownLabels(m))
		default:
			*typ = *t.force(t.combine(t.plain(p.pointer, m), p.pointer, m))
		}
	})
	t.types[p] = typ
	return typ
}

// plain is the type by the keywords of the schema itself.
func (t *typing) plain(at string, m map[string]any) *facts {
	typ := &facts{open: true, labels: ownLabels(m)}
	typ.kind, typ.nullable = ownKind(m)
	if fields, ok := m["properties"].(map[string]any); ok {
		typ.fields = map[string]*facts{}
		for _, name := range sortedNames(fields) {
			typ.fields[name] = t.at(child(child(at, "properties"), name))
		}
	}
	if list, ok := m["required"].([]any); ok {
		typ.required = map[string]bool{}
		for _, v := range list {
			typ.required[v.(string)] = true
		}
	}
	t.rest(typ, at, m)
	switch items := m["items"].(type) {
	case []any:
		for i := range items {
			typ.items = t.or(typ.items, t.at(child(child(at, "items"), strconv.Itoa(i))))
		}
		if _, ok := m["additionalItems"].(map[string]any); ok {
			typ.items = t.or(typ.items, t.at(child(at, "additionalItems")))
		} else if m["additionalItems"] != false {
			typ.items = t.or(typ.items, t.anything)
		}
	case nil:
	default:
		typ.items = t.at(child(at, "items"))
	}
	if _, ok := m["contains"]; ok && t.d.draft > 4 {
		some := t.join(t.at(child(at, "contains")), t.anything)
		if typ.items == nil {
			typ.items = t.anything
		}
		typ.items = t.meet(typ.items, some)
	}
	return typ
}

// rest reads what is said of members without a name.
func (t *typing) rest(typ *facts, at string, m map[string]any) {
	if _, ok := m["additionalProperties"].(map[string]any); ok {
		typ.rest = t.at(child(at, "additionalProperties"))
	}
	patterns, _ := m["patternProperties"].(map[string]any)
	typ.open = m["additionalProperties"] != false || len(patterns) > 0
	typ.says = m["additionalProperties"] != nil && m["additionalProperties"] != false || len(patterns) > 0
	for _, name := range sortedNames(patterns) {
		typ.rest = t.or(typ.rest, t.at(child(child(at, "patternProperties"), name)))
	}
	if keys, ok := m["propertyNames"].(map[string]any); ok && ownLabels(keys) != nil {
		if typ.rest == nil {
			typ.rest = t.anything
		}
		typ.rest = t.meet(typ.rest, &facts{open: true, labels: ownLabels(keys)})
	}
}

// kindOf is the kind of that name, or Any.
func kindOf(name string) Kind {
	for k := Null; k <= Object; k++ {
		if k.String() == name {
			return k
		}
	}
	return Any
}
