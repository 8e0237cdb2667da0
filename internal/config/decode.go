package config

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Decode reads a mapping into the struct that into points to. Fields are named by
// their yaml tag; ",required" after the name makes one mandatory. Fields that the
// mapping does not have keep their value, so defaults are set before. All problems
// go to the report.
//
// Field types: string, bool, integers, floats, time.Duration, slices, maps with
// string keys, structs, pointers to these, Node (kept as it is), and Decoders. A
// single value is accepted for a slice of strings. The keys of an embedded struct are keys
// of the struct that embeds it.
func Decode(n Node, into any, r *Report) {
	decodeStruct(n, reflect.ValueOf(into).Elem(), r)
}

func decodeStruct(n Node, v reflect.Value, r *Report) {
	if !n.IsMapping() {
		r.Errorf(n, "LS1110", "write keys and values: "+strings.Join(keysOf(v.Type()), ", "), "a mapping is needed here, not %s", describe(n))
		return
	}
	known := keysOf(v.Type())
	present := map[string]bool{}
	for _, f := range n.Fields() {
		index, ok := fieldByKey(v.Type(), f.Name)
		if !ok {
			r.Errorf(f.Key, "LS1104", Suggest(f.Name, known), "unknown key %q", f.Name)
			present[nearest(f.Name, known)] = true // one mistake, one problem
			continue
		}
		present[f.Name] = true
		decodeValue(f.Value, v.FieldByIndex(index), r)
	}
	for _, field := range reflect.VisibleFields(v.Type()) {
		name, required := tagOf(field)
		if required && !present[name] {
			r.Errorf(n, "LS1111", "add `"+name+":`", "the key %q is missing", name)
		}
	}
}

func tagOf(f reflect.StructField) (name string, required bool) {
	tag := f.Tag.Get("yaml")
	name, rest, _ := strings.Cut(tag, ",")
	return name, rest == "required"
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, field := range reflect.VisibleFields(t) {
		if name, _ := tagOf(field); name != "" {
			keys = append(keys, name)
		}
	}
	return keys
}

func fieldByKey(t reflect.Type, key string) ([]int, bool) {
	for _, field := range reflect.VisibleFields(t) {
		if name, _ := tagOf(field); name == key && name != "" {
			return field.Index, true
		}
	}
	return nil, false
}

func decodeValue(n Node, v reflect.Value, r *Report) {
	if d, ok := reflect.TypeAssert[Decoder](v.Addr()); ok {
		d.DecodeConfig(n, r)
		return
	}
	if node, ok := reflect.TypeAssert[*Node](v.Addr()); ok {
		*node = n
		return
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		decodeDuration(n, v, r)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			target.Elem().Set(v.Elem())
		}
		decodeValue(n, target.Elem(), r)
		v.Set(target)
	case reflect.Struct:
		decodeStruct(n, v, r)
	case reflect.Slice:
		decodeSlice(n, v, r)
	case reflect.Map:
		decodeMap(n, v, r)
	default:
		decodeScalar(n, v, r)
	}
}

func decodeDuration(n Node, v reflect.Value, r *Report) {
	text, ok := n.resolve(r)
	if !ok {
		return
	}
	d, err := ParseDuration(text)
	if err != nil {
		r.Errorf(n, "LS1110", "write a duration such as 200ms, 30s, 5m, 12h or 30d", "a duration is needed here, not %s", describe(n))
		return
	}
	v.SetInt(int64(d))
}

func decodeSlice(n Node, v reflect.Value, r *Report) {
	items := n.Items()
	if n.IsScalar() && !n.IsNull() && v.Type().Elem().Kind() == reflect.String {
		items = []Node{n}
	} else if !n.IsSequence() {
		r.Errorf(n, "LS1110", "write a list: [a, b]", "a list is needed here, not %s", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		decodeValue(item, out.Index(i), r)
	}
	v.Set(out)
}

func decodeMap(n Node, v reflect.Value, r *Report) {
	if !n.IsMapping() {
		r.Errorf(n, "LS1110", "write keys and values", "a mapping is needed here, not %s", describe(n))
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, f := range n.Fields() {
		item := reflect.New(v.Type().Elem()).Elem()
		decodeValue(f.Value, item, r)
		out.SetMapIndex(reflect.ValueOf(f.Name), item)
	}
	v.Set(out)
}

func decodeScalar(n Node, v reflect.Value, r *Report) {
	if !n.IsScalar() {
		r.Errorf(n, "LS1110", "write "+wanted(v.Kind()), "%s is needed here, not %s", wanted(v.Kind()), describe(n))
		return
	}
	text, ok := n.resolve(r)
	if !ok {
		return
	}
	if !setScalar(n, v, text) {
		r.Errorf(n, "LS1110", scalarFix(text, v.Kind()), "%s is needed here, not %s", wanted(v.Kind()), describe(n))
	}
}

func setScalar(n Node, v reflect.Value, text string) bool {
	switch v.Kind() {
	case reflect.String:
		if n.IsNull() {
			return false
		}
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return false
		}
		v.SetBool(text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil || octalLooking(text) {
			return false
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		i, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil || octalLooking(text) {
			return false
		}
		v.SetUint(i)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return false
		}
		v.SetFloat(f)
	default:
		return false
	}
	return true
}

func octalLooking(text string) bool { return regexp.MustCompile(`^-?0\d`).MatchString(text) }

func scalarFix(text string, k reflect.Kind) string {
	switch {
	case k == reflect.Bool && slices.Contains([]string{"yes", "on", "y", "True", "TRUE"}, text):
		return "write true"
	case k == reflect.Bool && slices.Contains([]string{"no", "off", "n", "False", "FALSE"}, text):
		return "write false"
	case octalLooking(text):
		return "a number must not start with 0, which some YAML readers take as octal"
	default:
		return "write " + wanted(k)
	}
}

func wanted(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}

// describe names the kind of value without quoting it: it may be a secret.
func describe(n Node) string {
	switch {
	case n.IsZero():
		return "nothing"
	case n.IsMapping():
		return "a mapping"
	case n.IsSequence():
		return "a list"
	case n.IsReference():
		return "the referenced text"
	case n.IsNull():
		return "an empty value"
	default:
		return strconv.Quote(n.Text())
	}
}
