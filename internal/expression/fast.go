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

func compileBinary(n *ast.BinaryNode, p *Program) evaluator {
	if n.Operator == "in" {
		return compileIn(n, p)
	}
	left, right := compileFast(n.Left, p), compileFast(n.Right, p)
	if left == nil || right == nil {
		return nil
	}
	switch n.Operator {
	case "and", "&&":
		return logic(left, right, false)
	case "or", "||":
		return logic(left, right, true)
	case "??":
		return func(e *Env) (value, error) {
			if v, err := left(e); err != nil || v.kind != kindNull {
				return v, err
			}
			return right(e)
		}
	case "==":
		return both(left, right, func(a, b value) (bool, error) { return equal(a, b), nil })
	case "!=":
		return both(left, right, func(a, b value) (bool, error) { return !equal(a, b), nil })
	case "<", "<=", ">", ">=":
		return both(left, right, ordering(n.Operator))
	case "contains":
		return both(left, right, texts(strings.Contains))
	case "startsWith":
		return both(left, right, texts(strings.HasPrefix))
	case "endsWith":
		return both(left, right, texts(strings.HasSuffix))
	default:
		return nil
	}
}

func logic(left, right evaluator, decisive bool) evaluator {
	return func(e *Env) (value, error) {
		v, err := left(e)
		if err != nil {
			return v, err
		}
		if v.kind != kindBool {
			return v, errTypes("a condition needs true or false")
		}
		if (v.num != 0) == decisive {
			return v, nil
		}
		v, err = right(e)
		if err == nil && v.kind != kindBool {
			return v, errTypes("a condition needs true or false")
		}
		return v, err
	}
}

func both(left, right evaluator, op func(a, b value) (bool, error)) evaluator {
	return func(e *Env) (value, error) {
		a, err := left(e)
		if err != nil {
			return a, err
		}
		b, err := right(e)
		if err != nil {
			return b, err
		}
		ok, err := op(a, b)
		return boolValue(ok), err
	}
}

func equal(a, b value) bool {
	switch {
	case a.kind == kindFloat && b.kind == kindInt:
		return a.real == float64(b.num)
	case a.kind == kindInt && b.kind == kindFloat:
		return float64(a.num) == b.real
	default:
		return a == b
	}
}

func ordering(op string) func(a, b value) (bool, error) {
	holds := func(c int) bool {
		switch op {
		case "<":
			return c < 0
		case "<=":
			return c <= 0
		case ">":
			return c > 0
		default:
			return c >= 0
		}
	}
	return func(a, b value) (bool, error) {
		switch {
		case a.kind == kindInt && b.kind == kindInt:
			return holds(compare(a.num, b.num)), nil
		case a.kind == kindText && b.kind == kindText:
			return holds(strings.Compare(a.text, b.text)), nil
		case a.numeric() && b.numeric():
			return holds(compare(a.float(), b.float())), nil
		default:
			return false, errTypes("the types of the two sides cannot be compared")
		}
	}
}

func (v value) numeric() bool { return v.kind == kindInt || v.kind == kindFloat }

func (v value) float() float64 {
	if v.kind == kindInt {
		return float64(v.num)
	}
	return v.real
}

func compare[T int | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func texts(f func(a, b string) bool) func(a, b value) (bool, error) {
	return func(a, b value) (bool, error) {
		if a.kind != kindText || b.kind != kindText {
			if a.kind == kindNull || b.kind == kindNull {
				return false, nil
			}
			return false, errTypes("a text is needed on both sides")
		}
		return f(a.text, b.text), nil
	}
}

func compileIn(n *ast.BinaryNode, p *Program) evaluator {
	left := compileFast(n.Left, p)
	set, ok := constantSet(n.Right)
	if left == nil || !ok {
		return nil
	}
	return func(e *Env) (value, error) {
		v, err := left(e)
		if err != nil {
			return v, err
		}
		for _, c := range set {
			if equal(v, c) {
				return boolValue(true), nil
			}
		}
		return boolValue(false), nil
	}
}

// constantSet reads a list of scalar constants, in the forms that the engine's
// optimiser gives it.
func constantSet(n ast.Node) ([]value, bool) {
	var items []any
	switch x := n.(type) {
	case *ast.ArrayNode:
		for _, item := range x.Nodes {
			items = append(items, literal(item))
		}
	case *ast.ConstantNode:
		switch list := x.Value.(type) {
		case []any:
			items = list
		case []int:
			for _, i := range list {
				items = append(items, i)
			}
		case []string:
			for _, s := range list {
				items = append(items, s)
			}
		default:
			return nil, false
		}
	default:
		return nil, false
	}
	set := make([]value, len(items))
	for i, item := range items {
		switch x := item.(type) {
		case string:
			set[i] = value{kind: kindText, text: x}
		case int:
			set[i] = value{kind: kindInt, num: x}
		default:
			return nil, false
		}
	}
	return set, true
}

func literal(n ast.Node) any {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value
	case *ast.IntegerNode:
		return x.Value
	default:
		return nil
	}
}

func compileConditional(n *ast.ConditionalNode, p *Program) evaluator {
	cond, yes, no := compileFast(n.Cond, p), compileFast(n.Exp1, p), compileFast(n.Exp2, p)
	if cond == nil || yes == nil || no == nil {
		return nil
	}
	return func(e *Env) (value, error) {
		v, err := cond(e)
		if err != nil {
			return v, err
		}
		if v.kind != kindBool {
			return v, errTypes("a condition needs true or false")
		}
		if v.num != 0 {
			return yes(e)
		}
		return no(e)
	}
}
