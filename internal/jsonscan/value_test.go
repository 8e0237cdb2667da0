package jsonscan

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPaths(t *testing.T) {
	tests := []struct {
		in, out string
		path    Path
	}{
		{"", "", nil},
		{"a", "a", Path{{Name: "a"}}},
		{"a.b_1.$c", "a.b_1.$c", Path{{Name: "a"}, {Name: "b_1"}, {Name: "$c"}}},
		{"größe", "größe", Path{{Name: "größe"}}},
		{`a["x-y"]`, `a["x-y"]`, Path{{Name: "a"}, {Name: "x-y"}}},
		{`a['x"y'].b`, `a["x\"y"].b`, Path{{Name: "a"}, {Name: `x"y`}, {Name: "b"}}},
		{`["a.b"]`, `["a.b"]`, Path{{Name: "a.b"}}},
		{`["ab"]`, `ab`, Path{{Name: "ab"}}},
		{`[""]`, `[""]`, Path{{Name: ""}}},
		{`a["\u0041\n]"]`, `a["A\n]"]`, Path{{Name: "a"}, {Name: "A\n]"}}},
		{"items[*].sku", "items[*].sku", Path{{Name: "items"}, {Kind: Each}, {Name: "sku"}}},
		{"items[0][12]", "items[0][12]", Path{{Name: "items"}, {Kind: Index}, {Kind: Index, Index: 12}}},
		{"[*]", "[*]", Path{{Kind: Each}}},
	}
	for _, tt := range tests {
		p, err := ParsePath(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.path, p); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.in, diff)
		}
		if p.String() != tt.out {
			t.Errorf("%q: written as %q", tt.in, p.String())
		}
	}
}

func TestPathErrors(t *testing.T) {
	for in, offset := range map[string]int{
		".a": 0, "a.": 2, "a..b": 2, "a b": 1, "a-b": 1, "1a": 0, "a[": 1, "a[]": 2, "a[-1]": 2, "a[1": 1, "a[x]": 2, `a["x]`: 2,
		`a["x"`: 5, `a["x"b]`: 5, `a["\q"]`: 2, "a[*]b": 4, "a[99999999999]": 2, "a[0x1]": 2, "a?.b": 1, "a[\"\xff\"]": 2,
		strings.Repeat("a.", 100) + "a": 201, "a\xff": 1,
	} {
		var e *PathError
		if _, err := ParsePath(in); !errors.As(err, &e) || e.Offset != offset {
			t.Errorf("%q: got %v, want an error at %d", in, err, offset)
		}
	}
}

func TestPathRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Path
		for range rapid.IntRange(0, 5).Draw(t, "len") {
			switch ElemKind(rapid.IntRange(0, 2).Draw(t, "kind")) {
			case Member:
				p = append(p, Elem{Name: rapid.String().Draw(t, "name")})
			case Index:
				p = append(p, Elem{Kind: Index, Index: rapid.IntRange(0, 1<<31-1).Draw(t, "index")})
			case Each:
				p = append(p, Elem{Kind: Each})
			}
		}
		q, err := ParsePath(p.String())
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if diff := cmp.Diff(p, q); diff != "" {
			t.Fatalf("%s: %s", p, diff)
		}
	})
}

func TestBuilderSlots(t *testing.T) {
	var b Builder
	add := func(s string) int {
		slot, err := b.AddText(s)
		if err != nil {
			t.Fatal(err)
		}
		return slot
	}
	abc, a, root := add("a.b.c"), add("a"), add("")
	if root != 0 || a != 1 || abc != 3 || add(`a["b"].c`) != abc {
		t.Fatalf("slots %d %d %d", root, a, abc)
	}
	set, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	if p := set.Path(2).String(); p != "a.b" || set.Len() != 4 {
		t.Errorf("slot 2 is %q of %d", p, set.Len())
	}
	p, _ := ParsePath("a.b")
	if slot, ok := set.Slot(p); !ok || slot != 2 {
		t.Errorf("slot of %v: %d, %v", p, slot, ok)
	}
	if later := add("z"); later != 4 {
		t.Errorf("a path added after Build got slot %d", later)
	}
	if _, err := b.AddText("a["); err == nil {
		t.Error("no error")
	}
}

func TestDecode(t *testing.T) {
	tests := map[string]any{
		"null": nil, "true": true, "false": false, "1": 1, "-0": 0, "9223372036854775807": math.MaxInt64,
		"9223372036854775808": 9223372036854775808.0, "-9223372036854775808": math.MinInt64, "1.0": 1.0, "1e2": 100.0,
		"1e-400": 0.0, `"a\u00e9\n\ud83d\ude00/"`: "aé\n😀/", "[]": []any{}, " { } ": map[string]any{},
		`{"a":[1,{"\u0062":"x"}] , "c":null}`: map[string]any{"a": []any{1, map[string]any{"b": "x"}}, "c": nil},
	}
	for in, want := range tests {
		got, err := Decode([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
	for in, want := range map[string]string{
		"": CodeEmpty, "1e400": CodeNumber, "-1e309": CodeNumber, `{"a":1,"a":2}`: CodeDuplicate, "1 2": CodeTrailing,
		"[1": CodeMalformed, "1e401": CodeNumber,
	} {
		if code, _ := IsSyntax(func() error { _, err := Decode([]byte(in)); return err }()); code != want {
			t.Errorf("%q: got %q, want %q", in, code, want)
		}
	}
}

func TestDecodeText(t *testing.T) {
	got, err := DecodeText([]byte(`{"a":[1.50,-0,1e400]}`))
	want := map[string]any{"a": []any{json.Number("1.50"), json.Number("-0"), json.Number("1e400")}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestAppend(t *testing.T) {
	at := time.Date(2025, 3, 4, 5, 6, 7, 89, time.UTC)
	var list []any
	tests := []struct {
		in   any
		want string
	}{
		{nil, "null"},
		{true, "true"},
		{"a\"\\\n\x01</é😀\u2028", `"a\"\\\n\u0001</é😀` + "\u2028" + `"`},
		{1, "1"},
		{int64(-5), "-5"},
		{uint64(math.MaxUint64), "18446744073709551615"},
		{int8(3), "3"},
		{1.0, "1"},
		{1e21, "1e+21"},
		{1e-7, "1e-07"},
		{float32(0.1), "0.1"},
		{math.Copysign(0, -1), "-0"},
		{at, `"2025-03-04T05:06:07.000000089Z"`},
		{[]byte("hi"), `"aGk="`},
		{[]byte(nil), "null"},
		{list, "[]"},
		{map[string]any{"b": 1, "a": []any{nil, "x"}}, `{"a":[null,"x"],"b":1}`},
		{[]string{"x", "y"}, `["x","y"]`},
		{[]int{1, 2}, "[1,2]"},
		{[2]bool{true}, "[true,false]"},
		{map[string]string{"k": "v"}, `{"k":"v"}`},
		{json.Number("1.50"), "1.50"},
		{json.RawMessage(` {"a": 1} `), `{"a": 1}`},
	}
	for _, tt := range tests {
		got, err := Append([]byte(">"), tt.in)
		if err != nil || string(got) != ">"+tt.want {
			t.Errorf("%#v: got %s, %v, want %s", tt.in, got, err, tt.want)
		}
		if err == nil && Check(got[1:]) != nil {
			t.Errorf("%#v: %s is not JSON", tt.in, got[1:])
		}
	}
}

func TestAppendRefusals(t *testing.T) {
	loop := map[string]any{}
	loop["x"] = []any{loop}
	for name, v := range map[string]any{
		"NaN": math.NaN(), "infinity in a list": []any{math.Inf(-1)}, "invalid text": "a\xff", "invalid name": map[string]any{"\xff": 1},
		"a loop": loop, "a function": func() {}, "a channel": make(chan int), "a struct": struct{ A int }{}, "a pointer": new(int),
		"a duration": time.Second, "bad number": json.Number("1e"), "bad raw": json.RawMessage(`{"a":1,"a":2}`),
		"complex": complex(1, 1), "a map by number": map[int]any{1: 1},
	} {
		if got, err := Append([]byte("kept"), v); err == nil || string(got) != "kept" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if got := string(AppendString(nil, "a\xffb\xc3")); got != "\"a\ufffdb\ufffd\"" {
		t.Errorf("got %q", got)
	}
}

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{
		`"abc"`: "abc", `""`: "", ` "a\tb" `: "a\tb", `"\"\\\/\b\f\n\r\t\u00E9\ud83d\uDE00é"`: "\"\\/\b\f\n\r\té😀é",
	} {
		if got, err := Unquote([]byte(in)); err != nil || got != want {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", `"`, "1", `"a`, `"a"b"`, `"a\"`, `"\x"`, "\"\xff\"", `"\ud800"`, "\"\n\"", `"a" "`} {
		if got, err := Unquote([]byte(in)); err == nil {
			t.Errorf("%s: got %q", in, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		if got, err := Unquote(AppendString(nil, s)); err != nil || got != s {
			t.Fatalf("%q: got %q, %v", s, got, err)
		}
	})
}

func TestKinds(t *testing.T) {
	for in, want := range map[string]Kind{
		"null": Null, " true": Bool, "false": Bool, "-1": Number, "0": Number, `"x"`: String, "{}": Object, "\n[": Array, "": Invalid, "x": Invalid,
	} {
		if got := KindOf([]byte(in)); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}
