package amqp1

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/Azure/go-amqp"

	"github.com/linkspan/linkspan/message"
)

// text reports whether s is text without NUL.
func text(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

// readValue turns a value into that of a header. Lists, maps and arrays become JSON.
func readValue(value any) message.Value {
	switch v := value.(type) {
	case nil, amqp.Null:
		return message.Value{}
	case string:
		return textOrBytes(v)
	case amqp.Symbol:
		return textOrBytes(string(v))
	case []byte:
		return message.Bytes(v)
	case bool:
		return message.Bool(v)
	case float64:
		return message.Float(v)
	case float32:
		return message.Float(float64(v))
	case time.Time:
		return readTime(v)
	case amqp.UUID:
		return message.String(v.String())
	}
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return message.Int(v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if v.Uint() > math.MaxInt64 {
			return message.String(strconv.FormatUint(v.Uint(), 10))
		}
		return message.Int(int64(v.Uint()))
	default:
		return message.String(jsonText(value))
	}
}

func textOrBytes(s string) message.Value {
	if !utf8.ValidString(s) {
		return message.Bytes([]byte(s))
	}
	return message.String(s)
}

// readTime keeps instants in the years that texts can name.
func readTime(t time.Time) message.Value {
	if !sane(t) {
		return message.Int(t.UnixMilli())
	}
	return message.Time(t)
}

func sane(t time.Time) bool { return t.Unix() >= -62135596800 && t.Unix() < 253402300800 }

// writeValue turns the value of a header into a simple value, as application-properties
// have.
func writeValue(v message.Value) (value any, ok bool) {
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
		return time.UnixMilli(int64(number)), true
	default:
		return nil, true
	}
}

// jsonText writes a value as JSON. Binary values are base64, instants RFC 3339, and
// numbers that JSON does not have are texts.
func jsonText(value any) string {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(plain(reflect.ValueOf(value))); err != nil {
		return "" // cannot be: plain leaves only what JSON has
	}
	return strings.TrimSuffix(buf.String(), "\n")
}

func plain(v reflect.Value) any {
	for v.IsValid() && v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() {
		return nil
	}
	switch value := v.Interface().(type) {
	case amqp.Null:
		return nil
	case []byte:
		return base64.StdEncoding.EncodeToString(value)
	case amqp.UUID:
		return value.String()
	case time.Time:
		return readTime(value).Text()
	}
	switch v.Kind() {
	case reflect.Map:
		out := make(map[string]any, v.Len())
		for _, key := range v.MapKeys() {
			out[fmt.Sprint(key.Interface())] = plain(v.MapIndex(key))
		}
		return out
	case reflect.Slice, reflect.Array:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	case reflect.Uint64, reflect.Uint:
		return v.Uint()
	case reflect.Struct, reflect.Pointer, reflect.Chan, reflect.Func:
		return nil // a described type: nothing that a message should hold
	default:
		x := readValue(v.Interface())
		if f, isFloat := x.Any().(float64); isFloat && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return x.Text()
		}
		return x.Any()
	}
}
