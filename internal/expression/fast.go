package expression

import (
	"strings"
	"unsafe"

	"github.com/expr-lang/expr/ast"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
)

// Comparisons, membership and logic make up most rules. They are compiled to Go
// closures over slots, which neither allocate nor decode more than they compare. A
// closure only ever answers what the engine would answer: when it meets an error or a
// value that it does not know, the engine runs the program and has the last word.

type valueKind uint8

const (
	kindNull valueKind = iota
	kindBool
	kindInt
	kindFloat
	kindText
)

// value is a scalar without an allocation. Text may alias the payload, so it is
// copied before it leaves the package.
type value struct {
	text string
	real float64
	num  int
	kind valueKind
}

func (v value) any() any {
	switch v.kind {
	case kindBool:
		return v.num != 0
	case kindInt:
		return v.num
	case kindFloat:
		return v.real
	case kindText:
		return strings.Clone(v.text)
	default:
		return nil
	}
}

type evaluator func(*Env) (value, error)

func boolValue(b bool) value {
	v := value{kind: kindBool}
	if b {
		v.num = 1
	}
	return v
}

// compileFast returns nil when a node is not one of the simple ones.
func compileFast(n ast.Node, p *Program) evaluator {
	switch x := n.(type) {
	case *ast.ChainNode:
		return compileFast(x.Node, p)
	case *ast.NilNode:
		return constant(value{})
	case *ast.BoolNode:
		return constant(boolValue(x.Value))
	case *ast.IntegerNode:
		return constant(value{kind: kindInt, num: x.Value})
	case *ast.FloatNode:
		return constant(value{kind: kindFloat, real: x.Value})
	case *ast.StringNode:
		return constant(value{kind: kindText, text: x.Value})
	case *ast.UnaryNode:
		return compileNot(x, p)
	case *ast.CallNode:
		return compileCall(x, p)
	case *ast.BinaryNode:
		return compileBinary(x, p)
	case *ast.ConditionalNode:
		return compileConditional(x, p)
	default:
		return nil
	}
}

func constant(v value) evaluator { return func(*Env) (value, error) { return v, nil } }

func compileNot(n *ast.UnaryNode, p *Program) evaluator {
	inner := compileFast(n.Node, p)
	if inner == nil || n.Operator != "!" && n.Operator != "not" {
		return nil
	}
	return func(e *Env) (value, error) {
		v, err := inner(e)
		if err != nil {
			return v, err
		}
		if v.kind != kindBool {
			return v, errTypes("`not` needs true or false")
		}
		return boolValue(v.num == 0), nil
	}
}

func compileCall(n *ast.CallNode, p *Program) evaluator {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || len(n.Arguments) != 2 {
		return nil
	}
	switch callee.Value {
	case fnGet:
		index, isInt := n.Arguments[1].(*ast.IntegerNode)
		if !isInt {
			return nil
		}
		return compileGet(p, index.Value)
	case fnHeader:
		name, isText := n.Arguments[1].(*ast.StringNode)
		if !isText {
			return nil
		}
		return compileHeader(name.Value)
	case fnProp:
		name, isText := n.Arguments[1].(*ast.StringNode)
		if !isText || name.Value == "time" {
			return nil
		}
		return func(e *Env) (value, error) { return scalarProperty(e.Message, name.Value), nil }
	default:
		return nil
	}
}

// compileGet reads a scalar from its slot.
func compileGet(p *Program, index int) evaluator {
	return func(e *Env) (value, error) {
		r := &p.reads[index]
		raw, ok := e.Doc.Get(r.Slot)
		if !ok {
			return value{}, r.absent(e)
		}
		return scalar(raw)
	}
}

func scalar(raw []byte) (value, error) {
	switch raw[0] {
	case '"':
		inner := raw[1 : len(raw)-1]
		text := unsafe.String(unsafe.SliceData(inner), len(inner)) //nolint:gosec // valid until the evaluation ends, see value
		if strings.IndexByte(text, '\\') < 0 {
			return value{kind: kindText, text: text}, nil
		}
		decoded, err := jsonscan.Unquote(raw)
		return value{kind: kindText, text: decoded}, err
	case 't':
		return boolValue(true), nil
	case 'f':
		return boolValue(false), nil
	case 'n':
		return value{}, nil
	case '{', '[':
		return value{}, errComposite{}
	default:
		return number(raw)
	}
}

// number reads short integers in place; everything else takes the general way.
func number(raw []byte) (value, error) {
	if len(raw) < 18 {
		n, negative, digits := 0, raw[0] == '-', raw
		if negative {
			digits = raw[1:]
		}
		for _, c := range digits {
			if c < '0' || c > '9' {
				return decodedNumber(raw)
			}
			n = n*10 + int(c-'0')
		}
		if negative {
			n = -n
		}
		return value{kind: kindInt, num: n}, nil
	}
	return decodedNumber(raw)
}

func decodedNumber(raw []byte) (value, error) {
	v, err := jsonscan.DecodeScanned(raw)
	if err != nil {
		return value{}, &failure{code: "LS2207", text: "a number is out of range"}
	}
	if i, ok := v.(int); ok {
		return value{kind: kindInt, num: i}, nil
	}
	f, _ := v.(float64)
	return value{kind: kindFloat, real: f}, nil
}

// errComposite asks for the engine, which handles lists and mappings.
type errComposite struct{}

// Error implements error.
func (errComposite) Error() string { return "a list or mapping" }

func compileHeader(name string) evaluator {
	return func(e *Env) (value, error) {
		v, ok := e.Message.Headers.Get(name)
		if !ok {
			return value{}, nil
		}
		switch v.Kind() {
		case message.KindNull:
			return value{}, nil
		case message.KindString:
			return value{kind: kindText, text: v.Text()}, nil
		case message.KindInt:
			_, num := v.Raw()
			return value{kind: kindInt, num: int(num)}, nil
		case message.KindBool:
			_, num := v.Raw()
			return boolValue(num == 1), nil
		default:
			return value{}, errComposite{}
		}
	}
}

func scalarProperty(m *message.Message, name string) value {
	switch x := property(m, name).(type) {
	case int:
		return value{kind: kindInt, num: x}
	case string:
		return value{kind: kindText, text: x}
	default:
		return value{}
	}
}
