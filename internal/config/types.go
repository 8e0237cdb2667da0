package config

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func itoa(i int) string { return strconv.Itoa(i) }

// Decoder is implemented by types that read themselves from a Node.
type Decoder interface {
	DecodeConfig(n Node, r *Report)
}

// Secret is text that is never printed: not by fmt, not by JSON, not by slog.
type Secret struct{ text string }

// NewSecret wraps a text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal returns the text. Call it where it is used and nowhere else.
func (s Secret) Reveal() string { return s.text }

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.text == "" }

// String hides the text.
func (s Secret) String() string { return "***" }

// GoString hides the text.
func (s Secret) GoString() string { return "***" }

// MarshalText hides the text.
func (s Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// DecodeConfig implements Decoder.
func (s *Secret) DecodeConfig(n Node, r *Report) {
	n.hide()
	if !n.IsScalar() || n.IsNull() {
		r.Errorf(n, "LS1110", "write ${env:NAME} or ${file:PATH}", "a secret is needed here")
		return
	}
	text, ok := n.resolve(r)
	if ok && text == "" {
		r.Errorf(n, "LS1109", "set it; an empty secret would let anybody in", "the secret is empty")
		return
	}
	s.text = text
}

// Size is a number of bytes, written as 512, 64KiB, 4MiB or 1GiB.
type Size int64

// DecodeConfig implements Decoder.
func (s *Size) DecodeConfig(n Node, r *Report) {
	text, ok := n.resolve(r)
	if !ok {
		return
	}
	v, err := ParseSize(text)
	if err != nil {
		r.Errorf(n, "LS1110", "write a size such as 512KiB, 4MiB or 1GiB", "a size is needed here, not %s", describe(n))
		return
	}
	*s = v
}

// ParseSize reads a size. kB, MB and GB are powers of 1000; KiB, MiB and GiB of 1024.
func ParseSize(text string) (Size, error) {
	text = strings.TrimSpace(text)
	digits := strings.TrimRight(text, "kKMGTiB ")
	value, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(value >= 0) { // NaN too
		return 0, fmt.Errorf("%q is not a size", text)
	}
	scale, ok := map[string]float64{
		"": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}[strings.TrimSpace(text[len(digits):])]
	if !ok || value*scale > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return Size(value * scale), nil
}

// ParseDuration reads a duration as time.ParseDuration does, and also days and
// weeks: 30d, 2w.
func ParseDuration(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	for _, unit := range []struct {
		suffix string
		d      time.Duration
	}{{"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}} {
		if number, ok := strings.CutSuffix(text, unit.suffix); ok {
			v, err := strconv.ParseFloat(number, 64)
			if err != nil || !(v >= 0 && v <= 36500) { // NaN too
				return 0, fmt.Errorf("%q is not a duration", text)
			}
			return time.Duration(v * float64(unit.d)), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration", text)
	}
	return d, nil
}

// Backoff is a range of waits, written 200ms..30s: the first wait, doubled each
// time up to the last.
type Backoff struct {
	Min, Max time.Duration
}

// DecodeConfig implements Decoder.
func (b *Backoff) DecodeConfig(n Node, r *Report) {
	text, ok := n.resolve(r)
	if !ok {
		return
	}
	low, high, isRange := strings.Cut(text, "..")
	if !isRange {
		high = low
	}
	minWait, err1 := ParseDuration(low)
	maxWait, err2 := ParseDuration(high)
	if err1 != nil || err2 != nil || minWait > maxWait || minWait == 0 {
		r.Errorf(n, "LS1110", "write a range such as 200ms..30s", "a range of waits is needed here, not %s", describe(n))
		return
	}
	b.Min, b.Max = minWait, maxWait
}

// Expr is the source of an expression and its place. It is compiled by the
// pipeline compiler, never by the package that holds it.
type Expr struct {
	Source string
	Node   Node
}

// IsZero reports whether there is no expression.
func (e Expr) IsZero() bool { return e.Node.IsZero() }

// DecodeConfig implements Decoder. The text counts, whatever tag YAML gives it.
func (e *Expr) DecodeConfig(n Node, r *Report) {
	if !n.IsScalar() || n.IsNull() {
		r.Errorf(n, "LS1110", "write one expression; quote it if it contains `: `, ` #`, `{` or `[`", "an expression is needed here")
		return
	}
	e.Source, e.Node = n.Text(), n
}

// Option is a connector option that may vary per message: a literal, or
// {expr: …}. What is an expression by nature takes it as a plain text as well. A computed option has an Index once the pipeline is compiled.
type Option struct {
	// Literal is the value when Expr is zero.
	Literal string
	// Expr computes the value.
	Expr Expr
	// Allow lists the values that the expression may give. Empty: any value with the
	// expression's literal prefix.
	Allow []string
	// Destination says that the value is where a message goes. A computed one needs a
	// text in front, or Allow, so that a sender cannot choose any.
	Destination bool
	// Expression says that a plain text is an expression too, for what is one by nature,
	// such as a key.
	Expression bool
	// Index is the place of the value in Message.Options.
	Index int
}

// IsZero reports whether the option is absent.
func (o *Option) IsZero() bool { return o.Literal == "" && o.Expr.IsZero() }

// Value returns the option for a message, given its Options.
func (o *Option) Value(options []string) string {
	if o.Expr.IsZero() {
		return o.Literal
	}
	return options[o.Index]
}

// DecodeConfig implements Decoder.
func (o *Option) DecodeConfig(n Node, r *Report) {
	if n.IsNull() {
		r.Errorf(n, "LS1110", "write a text, or {expr: EXPRESSION}", "a value is needed here")
		return
	}
	switch {
	case n.IsScalar() && o.Expression:
		o.Expr.DecodeConfig(n, r)
		return
	case n.IsScalar():
		o.Literal, _ = n.resolve(r)
		return
	}
	var c struct {
		Expr  Expr     `yaml:"expr,required"`
		Allow []string `yaml:"allow"`
	}
	Decode(n, &c, r)
	o.Expr, o.Allow = c.Expr, c.Allow
}

// Address is a URL to dial. Its password is never printed.
type Address struct{ url *url.URL }

// URL returns the address, or nil when it is absent.
func (a Address) URL() *url.URL { return a.url }

// String returns the address without its password.
func (a Address) String() string {
	if a.url == nil {
		return ""
	}
	return a.url.Redacted()
}

// NewAddress parses an address for use from Go.
func NewAddress(text string) (Address, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return Address{}, fmt.Errorf("this is not an address of the form scheme://host:port")
	}
	return Address{url: u}, nil
}

// DecodeConfig implements Decoder.
func (a *Address) DecodeConfig(n Node, r *Report) {
	if !n.IsScalar() {
		r.Errorf(n, "LS1110", "write scheme://host:port", "an address is needed here")
		return
	}
	text, ok := n.resolve(r)
	if !ok {
		return
	}
	parsed, err := NewAddress(text)
	if err != nil {
		r.Errorf(n, "LS1110", "write scheme://host:port, such as mqtt://broker:1883 or https://host/path", "%s", err)
		return
	}
	*a = parsed
}
