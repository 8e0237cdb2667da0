// Package expression compiles the rules of a pipeline once and runs them safely.
//
// The language is expr-lang/expr. A program reads a message and cannot change it;
// it is deterministic (now() is the message's time, keys() and values() are sorted);
// it is bounded in source length, nesting, nodes, iterations, text growth and
// memory; integer overflow, division by zero and results that JSON cannot carry are
// errors. Methods of Go values are not reachable. An error of a run carries a code,
// a position and a class, never a value of the message.
//
// Numbers: an integer literal that fits 64 bits is an integer, any other number is
// a 64-bit float; decimal(x) is exact.
//
// payload.a.b is compiled to a slot of the pipeline's path set, so that only what a
// program reads is taken out of the raw bytes. This is the only package that imports
// the expression engine.
package expression

import (
	"time"

	"github.com/expr-lang/expr/vm"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
)

// Env is what a program runs against: one message and the view on its payload. A
// lane owns one Env and points it from message to message. It is not safe for
// concurrent use.
type Env struct {
	Message *message.Message
	Doc     *jsonscan.Doc

	ticks int
	grown int
	vm    vm.VM
}

// Program is a compiled expression. It is immutable and shared by all lanes.
type Program struct {
	where  Where
	code   *vm.Program
	reads  []Read
	fast   evaluator
	plain  bool
	prefix string
}

// Where is the place of an expression in a pipeline, for reasons at run time.
type Where struct {
	// Step names the step, such as "steps[0] keep".
	Step string
	File string
	Line int
}

// Read is one thing that a program reads.
type Read struct {
	// Root is payload, headers or message.
	Root string
	// Path is the field path in the payload. Empty with Root payload: all of it.
	Path jsonscan.Path
	// Name is the header's or the property's name. Empty: all of them.
	Name string
	// Slot is the place of Path in the path set.
	Slot int

	optional []bool
	slots    []int
}

// Reads returns what the program reads of a message. It is complete: a program
// cannot see anything that is not listed.
func (p *Program) Reads() []Read { return p.reads }

// ReadsPayload reports whether the program looks into the payload.
func (p *Program) ReadsPayload() bool {
	for i := range p.reads {
		if p.reads[i].Root == rootPayload {
			return true
		}
	}
	return false
}

// Prefix returns the literal text that every result starts with, or "".
func (p *Program) Prefix() string { return p.prefix }

// Copy returns the slot when the whole program is the plain copy of one payload
// field, so that its bytes can be copied instead of decoded.
func (p *Program) Copy() (slot int, ok bool) {
	if !p.plain || len(p.reads) != 1 {
		return 0, false
	}
	return p.reads[0].Slot, true
}

// Match runs a condition. A result that is not true or false is an error.
func (p *Program) Match(e *Env) (bool, error) {
	if p.fast != nil {
		v, err := p.fast(e)
		if err == nil && v.kind == kindBool {
			return v.num != 0, nil
		}
	}
	out, err := p.run(e)
	if err != nil {
		return false, err
	}
	b, ok := out.(bool)
	if !ok {
		return false, p.reason(&failure{code: "LS2204", text: "the condition gave neither true nor false"})
	}
	return b, nil
}

// Eval runs the program. The result is nil, bool, int, float64, string, []byte,
// time.Time, time.Duration, Decimal, []any or map[string]any.
func (p *Program) Eval(e *Env) (any, error) {
	if p.fast != nil {
		if v, err := p.fast(e); err == nil {
			return v.any(), nil
		}
	}
	return p.run(e)
}

// AppendJSON runs the program and appends the JSON text of its result.
func (p *Program) AppendJSON(dst []byte, e *Env) ([]byte, error) {
	out, err := p.Eval(e)
	if err != nil {
		return nil, err
	}
	dst, err = appendJSON(dst, out, 0)
	if err != nil {
		return nil, p.reason(err)
	}
	return dst, nil
}

// Value runs the program and returns its result as a header value. Lists and
// mappings become JSON text.
func (p *Program) Value(e *Env) (message.Value, error) {
	out, err := p.Eval(e)
	if err != nil {
		return message.Value{}, err
	}
	v, err := headerValue(out)
	if err != nil {
		return message.Value{}, p.reason(err)
	}
	return v, nil
}

// Text runs the program and returns its result as text. Null gives ok false.
func (p *Program) Text(e *Env) (text string, ok bool, err error) {
	v, err := p.Value(e)
	if err != nil {
		return "", false, err
	}
	return v.Text(), v.Kind() != message.KindNull, nil
}

func (p *Program) run(e *Env) (any, error) {
	e.ticks, e.grown = 0, 0
	out, err := e.vm.Run(p.code, e)
	if err != nil {
		return nil, p.runtimeError(err)
	}
	return out, nil
}

func headerValue(v any) (message.Value, error) {
	switch x := v.(type) {
	case nil:
		return message.Value{}, nil
	case string:
		return message.String(x), nil
	case bool:
		return message.Bool(x), nil
	case int:
		return message.Int(int64(x)), nil
	case float64:
		if err := finite(x); err != nil {
			return message.Value{}, err
		}
		return message.Float(x), nil
	case []byte:
		return message.Bytes(x), nil
	case time.Time:
		return message.Time(x), nil
	default:
		text, err := appendJSON(nil, x, 0)
		if err != nil {
			return message.Value{}, err
		}
		return message.String(string(text)), nil
	}
}
