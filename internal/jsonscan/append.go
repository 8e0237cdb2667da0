package jsonscan

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Errors of Append. They never quote the value.
var (
	ErrNotFinite = errors.New("the number is infinite or not a number, which JSON cannot carry")
	ErrNotText   = errors.New("the text is not valid UTF-8, which JSON cannot carry")
	ErrTooDeep   = errors.New("the value has too many nested objects and arrays")
)

// AppendString appends s as a JSON string to dst. Only what JSON demands is escaped. Bytes that are not valid UTF-8
// become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			dst = appendEscape(append(dst, s[from:i]...), c)
			from = i + 1
		}
		i++
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	default:
		return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
	}
}

// Append appends a Go value as JSON to dst: what Decode gives, every size of integer and float, time.Time (RFC 3339
// with nanoseconds), []byte (base64), json.RawMessage and json.Number (checked), and slices, arrays and maps with string
// keys of any of these. Members are sorted by name. NaN, infinities, text that is not UTF-8, and every other type are
// refused; after an error the result is dst as it was.
func Append(dst []byte, v any) ([]byte, error) {
	out, err := appendValue(dst, v, 0)
	if err != nil {
		return dst, err
	}
	return out, nil
}

func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return appendValid(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		return appendFloat(dst, v, 64)
	case []any:
		return appendList(dst, len(v), depth, func(i int) any { return v[i] })
	case map[string]any:
		return appendMap(dst, v, depth)
	case []byte:
		if v == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '"')
		return append(base64.StdEncoding.AppendEncode(dst, v), '"'), nil
	case time.Time:
		dst = append(dst, '"')
		return append(v.AppendFormat(dst, time.RFC3339Nano), '"'), nil
	case json.RawMessage:
		return appendChecked(dst, v)
	case json.Number:
		return appendChecked(dst, []byte(v))
	default:
		return appendOther(dst, v, depth)
	}
}

func appendValid(dst []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, ErrNotText
	}
	return AppendString(dst, s), nil
}

func appendChecked(dst, raw []byte) ([]byte, error) {
	if err := Check(raw); err != nil {
		return nil, err
	}
	return append(dst, trim(raw)...), nil
}

func appendFloat(dst []byte, f float64, size int) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, ErrNotFinite
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, size), nil
}

// appendOther appends by the kind of a value whose type is not one of the common ones.
func appendOther(dst []byte, v any, depth int) ([]byte, error) {
	r := reflect.ValueOf(v)
	if r.Type().PkgPath() == "" {
		switch {
		case r.CanInt():
			return strconv.AppendInt(dst, r.Int(), 10), nil
		case r.CanUint():
			return strconv.AppendUint(dst, r.Uint(), 10), nil
		case r.CanFloat():
			return appendFloat(dst, r.Float(), r.Type().Bits())
		case r.Kind() == reflect.Slice && r.IsNil():
			return append(dst, "null"...), nil
		case r.Kind() == reflect.Slice, r.Kind() == reflect.Array:
			return appendList(dst, r.Len(), depth, func(i int) any { return r.Index(i).Interface() })
		case r.Kind() == reflect.Map && r.Type().Key().Kind() == reflect.String:
			m := make(map[string]any, r.Len())
			for k, e := range r.Seq2() {
				m[k.String()] = e.Interface()
			}
			return appendMap(dst, m, depth)
		}
	}
	return nil, fmt.Errorf("a value of the Go type %T has no form in JSON", v)
}

func appendList(dst []byte, n, depth int, at func(i int) any) (_ []byte, err error) {
	if depth >= MaxDepth {
		return nil, ErrTooDeep
	}
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValue(dst, at(i), depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func appendMap(dst []byte, m map[string]any, depth int) (_ []byte, err error) {
	if depth >= MaxDepth {
		return nil, ErrTooDeep
	}
	dst = append(dst, '{')
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValid(dst, k); err != nil {
			return nil, err
		}
		dst = append(dst, ':')
		if dst, err = appendValue(dst, m[k], depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}
