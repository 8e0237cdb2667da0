package expression

import (
	"encoding/json"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr/vm/runtime"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

func errOverflow() error {
	return &failure{code: "LS2207", text: "the integer result does not fit 64 bits; use decimal() or float()"}
}
func errDivision() error { return &failure{code: "LS2207", text: "division by zero"} }
func errInfinite() error {
	return &failure{code: "LS2207", text: "the result is not a finite number, which JSON cannot carry"}
}

func finite(f float64) error {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return errInfinite()
	}
	return nil
}

func arithmeticFunctions() []function {
	fn := func(name string, f func(a, b any) (any, error)) function {
		return function{name: name, call: func(a ...any) (any, error) { return f(a[0], a[1]) }}
	}
	cmp := func(name string, f func(order int, equal bool) bool, op func(a, b any) bool) function {
		return fn(name, func(a, b any) (any, error) {
			if c, ok := compareExact(a, b); ok {
				return f(c, c == 0), nil
			}
			return op(a, b), nil
		})
	}
	return []function{
		{name: fnAdd, call: func(a ...any) (any, error) { return charged(a[0])(add(a[1], a[2])) }},
		fn("__sub", sub), fn("__mul", mul), fn("__div", div), fn("__mod", mod), fn("__pow", pow),
		cmp("__eq", func(_ int, eq bool) bool { return eq }, runtime.Equal),
		cmp("__ne", func(_ int, eq bool) bool { return !eq }, func(a, b any) bool { return !runtime.Equal(a, b) }),
		cmp("__lt", func(c int, _ bool) bool { return c < 0 }, runtime.Less),
		cmp("__le", func(c int, _ bool) bool { return c <= 0 }, runtime.LessOrEqual),
		cmp("__gt", func(c int, _ bool) bool { return c > 0 }, runtime.More),
		cmp("__ge", func(c int, _ bool) bool { return c >= 0 }, runtime.MoreOrEqual),
	}
}

func add(a, b any) (any, error) {
	switch x := a.(type) {
	case int:
		if y, ok := b.(int); ok {
			s := x + y
			if (s > x) != (y > 0) && y != 0 {
				return nil, errOverflow()
			}
			return s, nil
		}
	case string:
		if y, ok := b.(string); ok {
			if len(x)+len(y) > maxText {
				return nil, errTooBig()
			}
			return x + y, nil
		}
	}
	if x, y, ok := exactPair(a, b); ok {
		return x.add(y)
	}
	return engine(a, b, runtime.Add)
}

func sub(a, b any) (any, error) {
	if x, ok := a.(int); ok {
		if y, ok := b.(int); ok {
			d := x - y
			if (d < x) != (y > 0) && y != 0 {
				return nil, errOverflow()
			}
			return d, nil
		}
	}
	if x, y, ok := exactPair(a, b); ok {
		return x.sub(y)
	}
	return engine(a, b, runtime.Subtract)
}

func mul(a, b any) (any, error) {
	if x, ok := a.(int); ok {
		if y, ok := b.(int); ok {
			return mulInt(x, y)
		}
	}
	if x, y, ok := exactPair(a, b); ok {
		return x.mul(y)
	}
	return engine(a, b, runtime.Multiply)
}

func mulInt(x, y int) (any, error) {
	high, low := bits.Mul64(magnitude(x), magnitude(y))
	negative := (x < 0) != (y < 0)
	if high != 0 || low > math.MaxInt64+1 || low == math.MaxInt64+1 && !negative {
		return nil, errOverflow()
	}
	return x * y, nil
}

func magnitude(x int) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

func div(a, b any) (any, error) {
	if x, y, ok := exactPair(a, b); ok {
		return x.div(y)
	}
	if isZero(b) {
		return nil, errDivision()
	}
	return engine(a, b, func(a, b any) any { return runtime.Divide(a, b) })
}

func mod(a, b any) (any, error) {
	x, ok1 := a.(int)
	y, ok2 := b.(int)
	if !ok1 || !ok2 {
		return nil, errTypes("% needs whole numbers")
	}
	switch y {
	case 0:
		return nil, errDivision()
	case -1:
		return 0, nil
	default:
		return x % y, nil
	}
}

func pow(a, b any) (any, error) {
	return engine(a, b, func(a, b any) any { return runtime.Exponent(a, b) })
}

// engine runs the engine's own operator and refuses results that are not finite.
// Its panics quote operands, so they end here.
func engine(a, b any, op func(a, b any) any) (out any, err error) {
	defer func() {
		if recover() != nil {
			out, err = nil, errTypes("the types of the two sides do not fit the operator")
		}
	}()
	out = op(a, b)
	if f, ok := out.(float64); ok {
		return out, finite(f)
	}
	return out, nil
}

func isZero(v any) bool {
	switch x := v.(type) {
	case int:
		return x == 0
	case float64:
		return x == 0
	default:
		return false
	}
}

func negate(v any) (any, error) {
	switch x := v.(type) {
	case int:
		if x == math.MinInt {
			return nil, errOverflow()
		}
		return -x, nil
	case float64:
		return -x, nil
	case Decimal:
		return x.neg(), nil
	default:
		return nil, errTypes("- needs a number")
	}
}

func toInt(v any) (any, error) {
	switch x := v.(type) {
	case int:
		return x, nil
	case float64:
		if x != x || x >= math.MaxInt64 || x < math.MinInt64 {
			return nil, errOverflow()
		}
		return int(x), nil
	case Decimal:
		return x.truncate()
	case string:
		i, err := strconv.ParseInt(strings.TrimSpace(x), 10, 64)
		if err != nil {
			return nil, errTypes("int needs a text of digits that fits 64 bits")
		}
		return int(i), nil
	case time.Duration:
		return int(x), nil
	default:
		return nil, errTypes("int needs a number or a text of digits")
	}
}

func toFloat(v any) (any, error) {
	switch x := v.(type) {
	case int:
		return float64(x), nil
	case float64:
		return x, nil
	case Decimal:
		f := x.float()
		return f, finite(f)
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(x), 64)
		if err != nil || finite(f) != nil {
			return nil, errTypes("float needs a text that is a finite number")
		}
		return f, nil
	default:
		return nil, errTypes("float needs a number or a text that is one")
	}
}

func abs(v any) (any, error) {
	switch x := v.(type) {
	case int:
		if x >= 0 {
			return x, nil
		}
		return negate(x)
	case float64:
		return math.Abs(x), nil
	case Decimal:
		return x.abs(), nil
	default:
		return nil, errTypes("abs needs a number")
	}
}

// round gives the nearest whole number, halves away from zero, as the engine does.
func round(v any) (any, error) {
	switch x := v.(type) {
	case int:
		return float64(x), nil
	case float64:
		return math.Round(x), nil
	case Decimal:
		return x.round(), nil
	default:
		return nil, errTypes("round needs a number")
	}
}

func sum(v any) (any, error) {
	list, ok := v.([]any)
	ints, isRange := v.([]int)
	if !ok && !isRange {
		return nil, errTypes("sum needs a list of numbers")
	}
	for _, i := range ints {
		list = append(list, i)
	}
	var total any = 0
	for _, item := range list {
		var err error
		if total, err = add(total, item); err != nil {
			return nil, err
		}
		if _, isText := total.(string); isText {
			return nil, errTypes("sum needs a list of numbers")
		}
	}
	return total, nil
}

// appendJSON appends the JSON text of a result, bounded in size and depth.
func appendJSON(dst []byte, v any, depth int) ([]byte, error) {
	if depth > 200 || len(dst) > maxText {
		return nil, errTooBig()
	}
	switch x := v.(type) {
	case Decimal:
		return x.append(dst), nil
	case json.Number:
		return append(dst, x...), nil
	case time.Duration:
		return jsonscan.AppendString(dst, x.String()), nil
	case map[string]any, map[any]any, map[any][]any:
		return appendMap(dst, x, depth)
	case []any:
		return appendList(dst, x, depth)
	default:
		out, err := jsonscan.Append(dst, v)
		if err != nil {
			return nil, &failure{code: "LS2207", text: "JSON cannot carry the result"}
		}
		if len(out) > maxText*2 {
			return nil, errTooBig()
		}
		return out, nil
	}
}

func appendMap(dst []byte, v any, depth int) ([]byte, error) {
	m, keys, err := mapOf(v)
	if err != nil {
		return nil, err
	}
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(jsonscan.AppendString(dst, k), ':')
		if dst, err = appendJSON(dst, m[k], depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func appendList(dst []byte, list []any, depth int) ([]byte, error) {
	var err error
	dst = append(dst, '[')
	for i, item := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendJSON(dst, item, depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}
