package message

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"time"
)

// Header is one property of a message. Names are case-sensitive; protocols whose
// names are not (HTTP) deliver them in lower case.
type Header struct {
	Name  string
	Value Value
}

// Headers is an ordered list of properties. A name may repeat, as in HTTP, STOMP
// and MQTT 5; Get returns the first.
type Headers []Header

// Get returns the first value of name.
func (h Headers) Get(name string) (Value, bool) {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value, true
		}
	}
	return Value{}, false
}

// Text returns the first value of name as text, or "" when there is none.
func (h Headers) Text(name string) string {
	v, _ := h.Get(name)
	return v.Text()
}

// Set replaces every value of name by v, or appends it.
func (h *Headers) Set(name string, v Value) {
	for i := range *h {
		if (*h)[i].Name == name {
			(*h)[i].Value = v
			rest := (*h)[i+1:]
			rest.Del(name)
			*h = (*h)[:i+1+len(rest)]
			return
		}
	}
	*h = append(*h, Header{Name: name, Value: v})
}

// Add appends a value and keeps those that are there.
func (h *Headers) Add(name string, v Value) { *h = append(*h, Header{Name: name, Value: v}) }

// Del removes every value of name.
func (h *Headers) Del(name string) {
	*h = slices.DeleteFunc(*h, func(x Header) bool { return x.Name == name })
}

// Clone returns a copy that shares no memory with h.
func (h Headers) Clone() Headers { return slices.Clone(h) }

// Kind is the type of a header value. The kinds are those that AMQP 1.0
// application properties, JMS properties and AMQP 0-9-1 tables have in common.
type Kind uint8

// The kinds of header values.
const (
	KindNull Kind = iota
	KindString
	KindBytes
	KindBool
	KindInt
	KindFloat
	KindTime
)

// Value is a typed header value. The zero Value is null. Values are immutable and
// comparable with ==.
type Value struct {
	str  string
	num  uint64
	kind Kind
}

// String returns a text value.
func String(s string) Value { return Value{kind: KindString, str: s} }

// Bytes returns a binary value. The bytes are copied.
func Bytes(b []byte) Value { return Value{kind: KindBytes, str: string(b)} }

// Bool returns a truth value.
func Bool(b bool) Value {
	v := Value{kind: KindBool}
	if b {
		v.num = 1
	}
	return v
}

// Int returns an integer value.
func Int(i int64) Value { return Value{kind: KindInt, num: uint64(i)} }

// Float returns a floating-point value.
func Float(f float64) Value { return Value{kind: KindFloat, num: math.Float64bits(f)} }

// Time returns an instant, kept in milliseconds since the epoch as AMQP and JMS do.
func Time(t time.Time) Value {
	return Value{kind: KindTime, num: uint64(t.UnixMilli())}
}

// Kind returns the type of v.
func (v Value) Kind() Kind { return v.kind }

// Raw returns the representation of v for an encoder: the string part and the
// numeric part. [FromRaw] is its inverse.
func (v Value) Raw() (str string, num uint64) { return v.str, v.num }

// FromRaw rebuilds a value from its representation. An unknown kind gives null.
func FromRaw(kind Kind, str string, num uint64) Value {
	if kind > KindTime {
		return Value{}
	}
	return Value{kind: kind, str: str, num: num}
}

// Any returns v as nil, string, []byte, bool, int, float64 or time.Time (UTC).
func (v Value) Any() any {
	switch v.kind {
	case KindString:
		return v.str
	case KindBytes:
		return []byte(v.str)
	case KindBool:
		return v.num == 1
	case KindInt:
		return int(v.num)
	case KindFloat:
		return math.Float64frombits(v.num)
	case KindTime:
		return time.UnixMilli(int64(v.num)).UTC()
	default:
		return nil
	}
}

// Text returns v as text: the string itself, decimal digits, true or false, RFC
// 3339 for instants, base64 for binary values, and "" for null.
func (v Value) Text() string {
	switch v.kind {
	case KindString:
		return v.str
	case KindBytes:
		return base64.StdEncoding.EncodeToString([]byte(v.str))
	case KindBool:
		return strconv.FormatBool(v.num == 1)
	case KindInt:
		return strconv.FormatInt(int64(v.num), 10)
	case KindFloat:
		return strconv.FormatFloat(math.Float64frombits(v.num), 'g', -1, 64)
	case KindTime:
		return time.UnixMilli(int64(v.num)).UTC().Format(time.RFC3339Nano)
	default:
		return ""
	}
}

func (v Value) size() int { return len(v.str) + 8 }
