package expression

import (
	"strings"

	"github.com/expr-lang/expr/ast"
)

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
