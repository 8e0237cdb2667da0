package jsonscan

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
)

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds of JSON values. Invalid is what does not start like one.
const (
	Invalid Kind = iota
	Null
	Bool
	Number
	String
	Object
	Array
)

// String is the kind's name as JSON Schema writes it.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "boolean"
	case Number:
		return "number"
	case String:
		return "string"
	case Object:
		return "object"
	case Array:
		return "array"
	default:
		return "invalid"
	}
}

// KindOf tells the kind by the first byte of a value.
func KindOf(raw []byte) Kind {
	i := skip(raw, 0)
	if i == len(raw) {
		return Invalid
	}
	switch c := raw[i]; {
	case c == '"':
		return String
	case c == '{':
		return Object
	case c == '[':
		return Array
	case c == 't' || c == 'f':
		return Bool
	case c == 'n':
		return Null
	case c == '-' || c-'0' <= 9:
		return Number
	default:
		return Invalid
	}
}

// ErrNotString is returned for a value that is not one JSON string.
var ErrNotString = errors.New("the value is not a string")

// AppendUnquoted appends the text of a JSON string, its escapes undone, to dst. It checks the string strictly.
func AppendUnquoted(dst, raw []byte) ([]byte, error) {
	raw = trim(raw)
	if len(raw) < 2 || raw[0] != '"' {
		return dst, ErrNotString
	}
	end := plainEnd(raw, 1)
	if end == len(raw)-1 && raw[end] == '"' {
		return append(dst, raw[1:end]...), nil
	}
	var d Doc
	if end = d.stringEnd(raw, 1); end < 0 {
		return dst, d.err
	}
	if end != len(raw) {
		return dst, &SyntaxError{CodeTrailing, end}
	}
	return appendText(dst, raw[1:end-1]), nil
}

// Unquote returns the text of a JSON string, its escapes undone. It checks the string strictly.
func Unquote(raw []byte) (string, error) {
	b, err := AppendUnquoted(nil, raw)
	return string(b), err
}

// Decode turns a document into Go values: nil, bool, string, []any, map[string]any and, by the policy for numbers, int
// for an integer literal that fits 64 bits and float64 for every other number. It is as strict as Scan; a number
// beyond float64 is refused with CodeNumber.
func Decode(raw []byte) (any, error) {
	if err := Check(raw); err != nil {
		return nil, err
	}
	return DecodeScanned(raw)
}

// DecodeScanned is Decode for a value that has passed a scan, alone or within its document. What has not passed one
// may give a wrong value or an error, but no panic.
func DecodeScanned(raw []byte) (any, error) {
	return decode(decoder{}, raw)
}

// DecodeText is DecodeScanned with every number as the json.Number of its text.
func DecodeText(raw []byte) (any, error) {
	return decode(decoder{exact: true}, raw)
}

func decode(d decoder, raw []byte) (any, error) {
	d.scan.raw = raw
	v, pos := d.value(skip(raw, 0), 0)
	if d.scan.err != nil {
		return nil, d.scan.err
	}
	if pos = skip(raw, pos); pos < len(raw) {
		return nil, &SyntaxError{CodeTrailing, pos}
	}
	return v, nil
}

// decoder reads Go values. The Doc lends it the grammar of strings and numbers.
type decoder struct {
	scan  Doc
	exact bool // numbers keep their text
}

func (d *decoder) fail(pos int) (any, int) { return nil, d.scan.fail(CodeMalformed, pos) }

// value decodes the value at pos. It recurses by depth, which is bounded.
func (d *decoder) value(pos, depth int) (any, int) {
	raw := d.scan.raw
	if pos >= len(raw) {
		return d.fail(pos)
	}
	if depth > MaxDepth {
		return nil, d.scan.fail(CodeDepth, pos)
	}
	switch raw[pos] {
	case '"':
		return d.text(pos)
	case '{':
		return d.object(pos, depth)
	case '[':
		return d.array(pos, depth)
	case 't':
		return true, d.scan.literalEnd(raw, pos, "true")
	case 'f':
		return false, d.scan.literalEnd(raw, pos, "false")
	case 'n':
		return nil, d.scan.literalEnd(raw, pos, "null")
	default:
		return d.number(pos)
	}
}

func (d *decoder) text(pos int) (any, int) {
	s, end := d.string(pos)
	return s, end
}

func (d *decoder) string(pos int) (string, int) {
	raw := d.scan.raw
	end := plainEnd(raw, pos+1)
	if end < len(raw) && raw[end] == '"' {
		return string(raw[pos+1 : end]), end + 1
	}
	if end = d.scan.oddStringEnd(raw, end); end < 0 {
		return "", end
	}
	return string(appendText(nil, raw[pos+1:end-1])), end
}

func (d *decoder) number(pos int) (any, int) {
	raw := d.scan.raw
	end := d.scan.numberEnd(raw, pos)
	if end < 0 {
		return nil, end
	}
	text := string(raw[pos:end])
	if d.exact {
		return json.Number(text), end
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return int(i), end
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, d.scan.fail(CodeNumber, pos)
	}
	return f, end
}

func (d *decoder) array(pos, depth int) (any, int) {
	raw := d.scan.raw
	list := []any{}
	pos = skip(raw, pos+1)
	if pos < len(raw) && raw[pos] == ']' {
		return list, pos + 1
	}
	for {
		v, end := d.value(pos, depth+1)
		if end < 0 {
			return nil, end
		}
		list = append(list, v)
		if pos = skip(raw, end); pos >= len(raw) {
			return d.fail(pos)
		}
		switch raw[pos] {
		case ',':
			pos = skip(raw, pos+1)
		case ']':
			return list, pos + 1
		default:
			return d.fail(pos)
		}
	}
}

func (d *decoder) object(pos, depth int) (any, int) {
	raw := d.scan.raw
	m := map[string]any{}
	pos = skip(raw, pos+1)
	if pos < len(raw) && raw[pos] == '}' {
		return m, pos + 1
	}
	for {
		if pos >= len(raw) || raw[pos] != '"' {
			return d.fail(pos)
		}
		name, end := d.string(pos)
		if end < 0 {
			return nil, end
		}
		if pos = d.scan.colon(raw, end); pos < 0 {
			return nil, pos
		}
		if m[name], end = d.value(pos, depth+1); end < 0 {
			return nil, end
		}
		if pos = skip(raw, end); pos >= len(raw) {
			return d.fail(pos)
		}
		switch raw[pos] {
		case ',':
			pos = skip(raw, pos+1)
		case '}':
			return m, pos + 1
		default:
			return d.fail(pos)
		}
	}
}
