package schemas

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// combine adds what the schemas say that apply to the same value.
func (t *typing) combine(typ *facts, at string, m map[string]any) *facts {
	list, _ := m["allOf"].([]any)
	for i := range list {
		typ = t.meet(typ, t.at(child(child(at, "allOf"), strconv.Itoa(i))))
	}
	for _, word := range []string{"anyOf", "oneOf"} {
		list, _ := m[word].([]any)
		var branch *facts
		for i := range list {
			branch = t.or(branch, t.at(child(child(at, word), strconv.Itoa(i))))
		}
		if branch != nil {
			typ = t.meet(typ, branch)
		}
	}
	if _, ok := m["if"]; ok && t.d.draft >= 7 {
		typ = t.meet(typ, t.join(t.at(child(at, "if")), t.anything))
		typ = t.meet(typ, t.join(t.branch(at, m, "then"), t.branch(at, m, "else")))
	}
	depends, _ := m["dependencies"].(map[string]any)
	for _, name := range sortedNames(depends) {
		if _, ok := depends[name].([]any); !ok {
			typ = t.meet(typ, t.join(t.at(child(child(at, "dependencies"), name)), t.anything))
		}
	}
	return typ
}

func (t *typing) branch(at string, m map[string]any, word string) *facts {
	if _, ok := m[word]; ok {
		return t.at(child(at, word))
	}
	return t.anything
}

// or is join where a may be missing.
func (t *typing) or(a, b *facts) *facts {
	if a == nil {
		return b
	}
	return t.join(a, b)
}

// meet is the type of values of both types.
func (t *typing) meet(a, b *facts) *facts { return t.merge(a, b, true) }

// join is the type of values of either type.
func (t *typing) join(a, b *facts) *facts { return t.merge(a, b, false) }

func (t *typing) merge(a, b *facts, meet bool) *facts {
	if a == b {
		return a
	}
	key := mergeKey{a, b, meet}
	if known, ok := t.merged[key]; ok {
		return known
	}
	if len(t.merged) >= maxMerges {
		return &facts{open: true, labels: t.every}
	}
	typ := t.later(func(typ *facts) {
		t.force(a)
		t.force(b)
		typ.labels = union(a.labels, b.labels)
		typ.fields = t.mergeFields(a, b, meet)
		typ.rest = t.mergeOptional(a.rest, b.rest, meet)
		typ.items = t.mergeOptional(a.items, b.items, meet)
		if meet {
			typ.kind, typ.nullable = meetKinds(a, b)
			typ.open = a.open && b.open
			typ.says = typ.open && (a.says || b.says)
		} else {
			typ.kind, typ.nullable = joinKinds(a, b)
			typ.open, typ.says = a.open || b.open, a.says || b.says
		}
		typ.required = mergeRequired(a.required, b.required, meet)
	})
	t.merged[key] = typ
	return typ
}

func (t *typing) mergeOptional(a, b *facts, meet bool) *facts {
	switch {
	case a == nil && b == nil:
		return nil
	case a != nil && b != nil:
		return t.merge(a, b, meet)
	case a == nil:
		a = b
	}
	if meet {
		return a
	}
	return t.join(a, t.anything)
}

func (t *typing) mergeFields(a, b *facts, meet bool) map[string]*facts {
	if a.fields == nil && b.fields == nil {
		return nil
	}
	out := map[string]*facts{}
	for name, f := range a.fields {
		if g, ok := b.fields[name]; ok {
			out[name] = t.merge(f, g, meet)
		} else {
			out[name] = t.lonely(f, b, meet)
		}
	}
	for name, g := range b.fields {
		if _, ok := a.fields[name]; !ok {
			out[name] = t.lonely(g, a, meet)
		}
	}
	return out
}

// lonely is the type of a field that the other type does not name: where that one is open, a value of it may have
// anything there.
func (t *typing) lonely(f, other *facts, meet bool) *facts {
	switch {
	case meet || !other.open:
		return f
	case other.rest != nil:
		return t.join(f, other.rest)
	default:
		return t.join(f, t.anything)
	}
}

func mergeRequired(a, b map[string]bool, meet bool) map[string]bool {
	var out map[string]bool
	for _, m := range []map[string]bool{a, b} {
		for name := range m {
			if meet || a[name] && b[name] {
				if out == nil {
					out = map[string]bool{}
				}
				out[name] = true
			}
		}
	}
	return out
}

func meetKinds(a, b *facts) (k Kind, nullable bool) {
	switch {
	case a.kind == Any:
		return b.kind, b.nullable
	case b.kind == Any:
		return a.kind, a.nullable
	case a.kind == b.kind:
		k = a.kind
	case a.kind == Integer && b.kind == Number, a.kind == Number && b.kind == Integer:
		k = Integer
	case a.nullable && b.kind == Null, b.nullable && a.kind == Null:
		return Null, false
	default:
		return Any, false // no value has both; the validator says so
	}
	return k, a.nullable && b.nullable
}

func joinKinds(a, b *facts) (k Kind, nullable bool) {
	nullable = a.nullable || b.nullable
	switch {
	case a.kind == Any || b.kind == Any:
		return Any, false
	case a.kind == b.kind:
		return a.kind, nullable
	case a.kind == Null:
		return b.kind, true
	case b.kind == Null:
		return a.kind, true
	case a.kind+b.kind == Integer+Number && (a.kind == Integer || a.kind == Number):
		return Number, nullable
	default:
		return Any, false
	}
}

// ownKind is the kind by the keywords of the schema itself.
func ownKind(m map[string]any) (k Kind, nullable bool) {
	switch v := m["type"].(type) {
	case string:
		return kindOf(v), false
	case []any:
		typ := &facts{kind: kindOf(v[0].(string))}
		for _, name := range v[1:] {
			typ.kind, typ.nullable = joinKinds(typ, &facts{kind: kindOf(name.(string))})
		}
		return typ.kind, typ.nullable
	}
	values, _ := m["enum"].([]any)
	if c, ok := m["const"]; ok {
		values = []any{c}
	}
	switch {
	case len(values) > 0:
		typ := &facts{kind: literalKind(values[0])}
		for _, v := range values[1:] {
			typ.kind, typ.nullable = joinKinds(&facts{kind: typ.kind, nullable: typ.nullable}, &facts{kind: literalKind(v)})
		}
		return typ.kind, typ.nullable
	case m["properties"] != nil || m["additionalProperties"] != nil || m["patternProperties"] != nil:
		return Object, false
	case m["items"] != nil:
		return Array, false
	}
	return Any, false
}

func literalKind(v any) Kind {
	switch v := v.(type) {
	case nil:
		return Null
	case bool:
		return Boolean
	case string:
		return String
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return Number
		}
		return Integer
	case []any:
		return Array
	default:
		return Object
	}
}

// ownLabels is the labels that stand at a schema, under any of their spellings.
func ownLabels(m map[string]any) []string {
	var out []string
	for _, word := range []string{"x-classification", "confluent:tags", "x-data-classification"} {
		if v, ok := m[word]; ok {
			out = union(out, readLabels(v))
		}
	}
	return out
}

// union is the sorted union of two lists of labels, in memory of its own.
func union(a, b []string) []string {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func sortedNames[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
