package expression

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/expr-lang/expr/builtin"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
)

// maxText bounds every text that an expression makes.
const maxText = 4 << 20

// maxTicks bounds the runs of all closure bodies in one evaluation.
const maxTicks = 200_000

// failure is a run-time error of our own functions. Its text is fixed: it never
// quotes data.
type failure struct {
	code string
	text string
}

// Error implements error.
func (f *failure) Error() string { return f.text }

func errTypes(what string) error { return &failure{code: "LS2205", text: what} }
func errTooBig() error {
	return &failure{code: "LS2206", text: "the result is larger than expressions may make"}
}

func builtinNames() []string {
	names := []string{"decimal"}
	for _, b := range builtin.Builtins {
		names = append(names, b.Name)
	}
	return names
}

// typedFunctions are the functions that users see beyond the engine's own, for the
// type check.
func typedFunctions() []function {
	return []function{{name: "decimal", call: func(args ...any) (any, error) { return toDecimal(args[0]) }, types: []any{new(func(any) any)}}}
}

func runtimeFunctions(p *Program) []function {
	fns := append(typedFunctions(),
		function{name: fnGet, call: func(a ...any) (any, error) { return p.get(a[0].(*Env), a[1].(int)) }},
		function{name: fnExact, call: func(a ...any) (any, error) { return p.digits(a[0].(*Env), a[1].(int)) }},
		function{name: fnHeader, call: header},
		function{name: fnProp, call: func(a ...any) (any, error) { return property(a[0].(*Env).Message, a[1].(string)), nil }},
		function{name: fnAll, call: all},
		function{name: fnNow, call: func(a ...any) (any, error) { return a[0].(*Env).Message.Time, nil }},
		function{name: fnTick, call: tick},
		function{name: fnCost, call: cost},
		function{name: fnNeg, call: func(a ...any) (any, error) { return negate(a[0]) }},
	)
	fns = append(fns, arithmeticFunctions()...)
	for _, f := range safeBuiltins() {
		call := f.call
		f.call = func(a ...any) (any, error) { return charged(a[0])(call(a[1:]...)) }
		fns = append(fns, f)
	}
	return fns
}

// maxGrown bounds the texts that one evaluation makes altogether.
const maxGrown = 64 << 20

// charged counts the text of a result against what the evaluation may make.
func charged(env any) func(out any, err error) (any, error) {
	return func(out any, err error) (any, error) {
		if text, ok := out.(string); ok && err == nil {
			err = env.(*Env).grow(len(text))
		}
		return out, err
	}
}

func (e *Env) grow(n int) error {
	if e.grown += n; e.grown > maxGrown {
		return errTooBig()
	}
	return nil
}

func tick(a ...any) (any, error) { return a[1], a[0].(*Env).work(1) }

// work counts steps against what one evaluation may do.
func (e *Env) work(n int) error {
	if e.ticks += n; e.ticks > maxTicks || e.ticks < 0 {
		return &failure{code: "LS2206", text: "the expression ran longer than it may"}
	}
	return nil
}

// cost charges the engine's functions for the length of what they are given; uniq
// compares every element with every other.
func cost(a ...any) (any, error) {
	e := a[0].(*Env)
	if text, ok := a[1].(string); ok {
		return a[1], e.grow(len(text))
	}
	v := reflect.ValueOf(a[1])
	if k := v.Kind(); k != reflect.Slice && k != reflect.Array && k != reflect.Map {
		return a[1], nil
	}
	n := v.Len()
	if a[2].(bool) {
		n += n / 64 * n
	}
	return a[1], e.work(n)
}

// get returns the decoded value of a payload read, with the meaning that the
// language gives to absent parents: an error, unless the access is optional.
func (p *Program) get(e *Env, index int) (any, error) {
	r := &p.reads[index]
	if raw, ok := e.Doc.Get(r.Slot); ok {
		if err := e.grow(len(raw)); err != nil {
			return nil, err
		}
		v, err := jsonscan.DecodeScanned(raw)
		if err != nil {
			return nil, &failure{code: "LS2207", text: "a number is out of range"}
		}
		return v, nil
	}
	return nil, r.absent(e)
}

// absent returns nil when reading the absent path gives null, and the error if not.
func (r *Read) absent(e *Env) error {
	for i := range r.Path {
		raw, ok := e.Doc.Get(r.slots[i])
		kind := jsonscan.Null
		if ok {
			kind = jsonscan.KindOf(raw)
		}
		switch {
		case kind == jsonscan.Null && r.optional[i]:
			return nil
		case kind == jsonscan.Null:
			return &failure{code: "LS2202", text: fmt.Sprintf("%s is absent or null; write ?. to allow that", pathName(r.Path[:i]))}
		case kind == jsonscan.Object && r.Path[i].Kind == jsonscan.Member:
		case kind == jsonscan.Array && r.Path[i].Kind == jsonscan.Index:
			if _, there := e.Doc.Get(r.slots[i+1]); !there {
				return &failure{code: "LS2203", text: fmt.Sprintf("%s has fewer elements", pathName(r.Path[:i]))}
			}
		default:
			return &failure{code: "LS2205", text: fmt.Sprintf("%s has another shape than the expression needs", pathName(r.Path[:i]))}
		}
	}
	return nil
}

// digits returns a payload number as json.Number, so that decimal() sees its text.
func (p *Program) digits(e *Env, index int) (any, error) {
	raw, ok := e.Doc.Get(p.reads[index].Slot)
	if ok && jsonscan.KindOf(raw) == jsonscan.Number {
		return json.Number(string(raw)), nil
	}
	return p.get(e, index)
}

func header(a ...any) (any, error) {
	name, ok := a[1].(string)
	if !ok {
		return nil, errTypes("the name of a header must be a text")
	}
	v, found := a[0].(*Env).Message.Headers.Get(name)
	if !found {
		return nil, nil //nolint:nilnil // an absent header is null
	}
	return v.Any(), nil
}

func all(a ...any) (any, error) {
	m := a[0].(*Env).Message
	out := map[string]any{}
	if a[1].(string) == rootHeaders {
		for _, h := range slices.Backward(m.Headers) {
			out[h.Name] = h.Value.Any()
		}
		return out, nil
	}
	for _, name := range propertyNames() {
		out[name] = property(m, name)
	}
	return out, nil
}

func propertyNames() []string {
	return []string{"id", "key", "topic", "time", "content_type", "correlation_id", "reply_to", "priority", "source", "attempt"}
}

func isProperty(name string) bool { return slices.Contains(propertyNames(), name) }

func property(m *message.Message, name string) any {
	switch name {
	case "id":
		return m.ID
	case "key":
		return string(m.Key)
	case "topic":
		return m.Topic
	case "time":
		return m.Time
	case "content_type":
		return m.ContentType
	case "correlation_id":
		return m.CorrelationID
	case "reply_to":
		return m.ReplyTo
	case "priority":
		return int(m.Priority)
	case "source":
		return m.Source
	case "attempt":
		return m.Attempt
	default:
		return nil
	}
}

// safeBuiltins stand in for functions of the engine, with sorted order, bounded
// growth and exact numbers.
func safeBuiltins() []function {
	return []function{
		{name: "__keys", call: sortedKeys},
		{name: "__values", call: sortedValues},
		{name: "__toPairs", call: sortedPairs},
		{name: "__int", call: func(a ...any) (any, error) { return toInt(a[0]) }},
		{name: "__float", call: func(a ...any) (any, error) { return toFloat(a[0]) }},
		{name: "__string", call: func(a ...any) (any, error) { return toText(a[0]) }},
		{name: "__toJSON", call: func(a ...any) (any, error) { return toJSON(a[0]) }},
		{name: "__fromJSON", call: func(a ...any) (any, error) { return fromJSON(a[0]) }},
		{name: "__replace", call: replace},
		{name: "__join", call: join},
		{name: "__repeat", call: repeat},
		{name: "__abs", call: func(a ...any) (any, error) { return abs(a[0]) }},
		{name: "__round", call: func(a ...any) (any, error) { return round(a[0]) }},
		{name: "__sum", call: func(a ...any) (any, error) { return sum(a[0]) }},
	}
}

func mapOf(v any) (m map[string]any, keys []string, err error) {
	m, ok := textKeys(v)
	if !ok {
		return nil, nil, errTypes("a mapping is needed")
	}
	keys = make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return m, keys, nil
}

// textKeys returns a mapping with text keys. The engine's groupBy and fromPairs make
// mappings with keys of any kind.
func textKeys(v any) (map[string]any, bool) {
	switch m := v.(type) {
	case map[string]any:
		return m, true
	case map[any]any:
		return named(m)
	case map[any][]any:
		return named(m)
	default:
		return nil, false
	}
}

func named[V any](m map[any]V) (map[string]any, bool) {
	out := make(map[string]any, len(m))
	for k, v := range m {
		name, ok := k.(string)
		if !ok {
			return nil, false
		}
		out[name] = v
	}
	return out, true
}

func sortedKeys(a ...any) (any, error) {
	_, keys, err := mapOf(a[0])
	out := make([]any, len(keys))
	for i, k := range keys {
		out[i] = k
	}
	return out, err
}

func sortedValues(a ...any) (any, error) {
	m, keys, err := mapOf(a[0])
	out := make([]any, len(keys))
	for i, k := range keys {
		out[i] = m[k]
	}
	return out, err
}

func sortedPairs(a ...any) (any, error) {
	m, keys, err := mapOf(a[0])
	out := make([]any, len(keys))
	for i, k := range keys {
		out[i] = []any{k, m[k]}
	}
	return out, err
}
