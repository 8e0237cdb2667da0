package amqp091

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/message"
)

// maxShort is the length of a short string, in bytes.
const maxShort = 255

// short reports whether s can be a short string (AMQP 0-9-1 §4.2.5.3).
func short(s string) bool { return len(s) <= maxShort && text(s) }

// text reports whether s is text without NUL.
func text(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

// readHeaders appends the fields of a table, ordered by name, since a table has no order.
// An array of plain values becomes a header that repeats; other arrays, and tables, become
// JSON.
func readHeaders(h message.Headers, t amqp.Table) message.Headers {
	first := len(h)
	for key, field := range t {
		list, isList := field.([]any)
		if !isList || len(list) == 0 || slices.ContainsFunc(list, nested) {
			h = append(h, message.Header{Name: key, Value: readValue(field)})
			continue
		}
		for _, item := range list {
			h = append(h, message.Header{Name: key, Value: readValue(item)})
		}
	}
	slices.SortStableFunc(h[first:], func(a, b message.Header) int { return strings.Compare(a.Name, b.Name) })
	return h
}

func nested(field any) bool {
	switch field.(type) {
	case []any, amqp.Table:
		return true
	default:
		return false
	}
}

func readValue(field any) message.Value {
	switch v := field.(type) {
	case string:
		if !utf8.ValidString(v) {
			return message.Bytes([]byte(v))
		}
		return message.String(v)
	case []byte:
		return message.Bytes(v)
	case bool:
		return message.Bool(v)
	case float64:
		return message.Float(v)
	case float32:
		return message.Float(float64(v))
	case time.Time:
		if !sane(v) {
			return message.Int(v.Unix())
		}
		return message.Time(v)
	case amqp.Decimal:
		return message.String(decimal(v))
	case []any, amqp.Table:
		return message.String(jsonText(v))
	case nil:
		return message.Value{}
	default:
		i, _ := integer(field)
		return message.Int(i)
	}
}

// integer returns a whole number of any width.
func integer(field any) (int64, bool) {
	switch v := field.(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case int16:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint32:
		return int64(v), true
	default:
		return 0, false
	}
}

// sane reports whether an instant is in the years that texts can name.
func sane(t time.Time) bool { return t.Unix() >= -62135596800 && t.Unix() < 253402300800 }

func decimal(d amqp.Decimal) string {
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(d.Scale)), nil)
	return new(big.Rat).SetFrac(big.NewInt(int64(d.Value)), scale).FloatString(int(d.Scale))
}

// jsonText writes a nested value. Binary values are base64, instants RFC 3339.
func jsonText(field any) string {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(plain(field)); err != nil {
		return "" // cannot be: plain leaves only what JSON has
	}
	return strings.TrimSuffix(buf.String(), "\n")
}

func plain(field any) any {
	switch v := field.(type) {
	case amqp.Table:
		out := make(map[string]any, len(v))
		for key, item := range v {
			out[key] = plain(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case float64, float32:
		f := readValue(v)
		if number, _ := f.Any().(float64); !math.IsNaN(number) && !math.IsInf(number, 0) {
			return number
		}
		return f.Text()
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	default:
		switch value := readValue(field); value.Kind() {
		case message.KindInt, message.KindBool, message.KindNull:
			return value.Any()
		default:
			return value.Text()
		}
	}
}

// writeHeaders turns headers into a table. What is nil is left out: the caller has put it
// elsewhere. A name that repeats becomes an array. Why is empty when all can be carried.
func writeHeaders(h message.Headers) (t amqp.Table, why string) {
	if len(h) == 0 {
		return nil, ""
	}
	t = make(amqp.Table, len(h)+1)
	for i := range h {
		key := h[i].Name
		if why := refusedName(key); why != "" {
			return nil, why
		}
		field, ok := writeValue(h[i].Value)
		if !ok {
			return nil, "the text of a header has NUL or is not UTF-8"
		}
		before, repeats := t[key]
		list, isList := before.([]any)
		switch {
		case !repeats:
			t[key] = field
		case isList:
			t[key] = append(list, field)
		default:
			t[key] = []any{before, field}
		}
	}
	return t, ""
}

// refusedName says why a header must not have a name.
func refusedName(key string) string {
	switch {
	case key == "CC" || key == "BCC":
		return "the headers CC and BCC are further routing keys to the broker"
	case key == "" || !short(key):
		return "the name of a header is empty, has more than 255 bytes or NUL, or is not UTF-8"
	default:
		return ""
	}
}

func writeValue(v message.Value) (field any, ok bool) {
	raw, number := v.Raw()
	switch v.Kind() {
	case message.KindString:
		return raw, text(raw)
	case message.KindBytes:
		return []byte(raw), true
	case message.KindBool:
		return number == 1, true
	case message.KindInt:
		return int64(number), true
	case message.KindFloat:
		return math.Float64frombits(number), true
	case message.KindTime:
		if ms := int64(number); ms%1000 == 0 {
			return time.UnixMilli(ms), true
		}
		return v.Text(), true // a timestamp has no milliseconds
	default:
		return nil, true
	}
}
