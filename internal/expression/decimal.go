package expression

import (
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
)

// Decimal is an exact number, for money. Sums, differences and products are exact;
// a quotient is too, and is rounded half to even at 34 significant decimals when it
// is written and has no finite decimal form.
type Decimal struct{ r *big.Rat }

const maxDecimalBits = 4096

// String returns the decimal digits.
func (d Decimal) String() string { return string(d.append(nil)) }

func toDecimal(v any) (any, error) {
	switch x := v.(type) {
	case Decimal:
		return x, nil
	case int:
		return Decimal{new(big.Rat).SetInt64(int64(x))}, nil
	case float64:
		if err := finite(x); err != nil {
			return nil, err
		}
		// The shortest text is what the writer meant: 0.1 is a tenth.
		return parseDecimal(strconv.FormatFloat(x, 'g', -1, 64))
	case json.Number:
		return parseDecimal(string(x))
	case string:
		return parseDecimal(strings.TrimSpace(x))
	default:
		return nil, errTypes("decimal needs a number or a text that is one")
	}
}

// parseDecimal reads a JSON number, so that 0x1p4, 1/3 and 1e999999999 are refused.
func parseDecimal(text string) (any, error) {
	mantissa, exponent, hasExp := strings.Cut(strings.ToLower(text), "e")
	digits := strings.TrimLeft(mantissa, "+-")
	if digits == "" || len(digits) > 400 || strings.Trim(digits, "0123456789.") != "" || len(strings.TrimLeft(exponent, "+-0")) > 3 {
		return nil, errTypes("decimal needs a number or a text that is one")
	}
	if hasExp && exponent == "" {
		return nil, errTypes("decimal needs a number or a text that is one")
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, errTypes("decimal needs a number or a text that is one")
	}
	return Decimal{r}, nil
}

// exactPair returns both operands as decimals when one of them is one.
func exactPair(a, b any) (x, y Decimal, ok bool) {
	x, okA := a.(Decimal)
	y, okB := b.(Decimal)
	switch {
	case okA && okB:
		return x, y, true
	case okA:
		other, err := toDecimal(b)
		if _, isText := b.(string); err != nil || isText {
			return Decimal{}, Decimal{}, false
		}
		return x, other.(Decimal), true
	case okB:
		other, err := toDecimal(a)
		if _, isText := a.(string); err != nil || isText {
			return Decimal{}, Decimal{}, false
		}
		return other.(Decimal), y, true
	default:
		return Decimal{}, Decimal{}, false
	}
}

func compareExact(a, b any) (order int, ok bool) {
	x, y, ok := exactPair(a, b)
	if !ok {
		return 0, false
	}
	return x.r.Cmp(y.r), true
}

func bounded1(r *big.Rat) (any, error) {
	if r.Num().BitLen() > maxDecimalBits || r.Denom().BitLen() > maxDecimalBits {
		return nil, errTooBig()
	}
	return Decimal{r}, nil
}

func (d Decimal) add(e Decimal) (any, error) { return bounded1(new(big.Rat).Add(d.r, e.r)) }
func (d Decimal) sub(e Decimal) (any, error) { return bounded1(new(big.Rat).Sub(d.r, e.r)) }
func (d Decimal) mul(e Decimal) (any, error) { return bounded1(new(big.Rat).Mul(d.r, e.r)) }
func (d Decimal) neg() Decimal               { return Decimal{new(big.Rat).Neg(d.r)} }

func (d Decimal) abs() Decimal { return Decimal{new(big.Rat).Abs(d.r)} }

// round gives the nearest whole number, halves away from zero.
func (d Decimal) round() Decimal {
	text := new(big.Rat).Set(d.r).FloatString(0)
	r, _ := new(big.Rat).SetString(text)
	return Decimal{r}
}

func (d Decimal) div(e Decimal) (any, error) {
	if e.r.Sign() == 0 {
		return nil, errDivision()
	}
	return bounded1(new(big.Rat).Quo(d.r, e.r))
}

func (d Decimal) float() float64 {
	f, _ := d.r.Float64()
	return f
}

// truncate drops the fraction, as int() does for floats.
func (d Decimal) truncate() (any, error) {
	q := new(big.Int).Quo(d.r.Num(), d.r.Denom())
	if !q.IsInt64() {
		return nil, errOverflow()
	}
	return int(q.Int64()), nil
}

func (d Decimal) append(dst []byte) []byte {
	places, exact := d.r.FloatPrec()
	if !exact || places > 400 {
		places = 34
	}
	text := d.r.FloatString(places)
	if !exact && strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return append(dst, text...)
}
