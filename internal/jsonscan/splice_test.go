package jsonscan

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEditsKeepWhiteSpace(t *testing.T) {
	const in = "{\n  \"a\": 1.0,\n  \"b\": {\"c\" : [1, 2,3 ] },\n  \"e\": { }\n}\n"
	type doc = *Doc
	set, s, err := NewSet("a", "b", "b.c", "b.c[0]", "b.c[2]", "b.d", "e", "e.x", "f", "g.h", "b.c[*]")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		edit func(doc)
		want string
	}{
		{"nothing", func(doc) {}, in},
		{"replace", func(d doc) { d.Set(s[0], []byte("2")) }, strings.Replace(in, "1.0", "2", 1)},
		{"remove the first", func(d doc) { d.Unset(s[0]) }, "{\n  \"b\": {\"c\" : [1, 2,3 ] },\n  \"e\": { }\n}\n"},
		{"remove the last", func(d doc) { d.Unset(s[6]) }, "{\n  \"a\": 1.0,\n  \"b\": {\"c\" : [1, 2,3 ] }\n}\n"},
		{"remove all", func(d doc) { d.Unset(s[6]); d.Unset(s[0]); d.Unset(s[1]) }, "{}\n"},
		{"remove the first and the middle", func(d doc) { d.Unset(s[0]); d.Unset(s[1]) }, "{\n  \"e\": { }\n}\n"},
		{"remove all and add", func(d doc) {
			d.Unset(s[6])
			d.Set(s[8], []byte("1"))
			d.Set(s[9], []byte("2"))
			d.Unset(s[0])
			d.Unset(s[1])
		}, `{"f":1,"g":{"h":2}}` + "\n"},
		{"remove an element", func(d doc) { d.Unset(s[3]) }, strings.Replace(in, "[1, 2,3 ]", "[2,3 ]", 1)},
		{"remove the last element", func(d doc) { d.Unset(s[4]) }, strings.Replace(in, "[1, 2,3 ]", "[1, 2 ]", 1)},
		{"remove every element", func(d doc) { d.Unset(s[10]) }, strings.Replace(in, "[1, 2,3 ]", "[]", 1)},
		{"add to an object with blanks only", func(d doc) { d.Set(s[7], []byte("1")) }, strings.Replace(in, "{ }", `{"x":1 }`, 1)},
		{"add to two objects", func(d doc) { d.Set(s[8], []byte("1")); d.Set(s[5], []byte("2")) }, "{\n  \"a\": 1.0,\n  \"b\": {\"c\" : [1, 2,3 ],\"d\":2 },\n  \"e\": { },\"f\":1\n}\n"},
		{"write what was added", func(d doc) { d.Set(s[8], []byte("1")); d.Set(s[8], []byte("2")) }, strings.Replace(in, "{ }", `{ },"f":2`, 1)},
		{"read above an edit", func(d doc) { d.Set(s[3], []byte("7")); d.Get(s[1]); d.Unset(s[4]) }, strings.Replace(in, "[1, 2,3 ]", "[7, 2 ]", 1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Doc
			d.Reset(set, []byte(in))
			tt.edit(&d)
			if diff := cmp.Diff(tt.want, string(d.AppendTo(nil))); diff != "" {
				t.Errorf("AppendTo (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, string(d.Bytes())); diff != "" {
				t.Errorf("Bytes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetRefusals(t *testing.T) {
	set, s, err := NewSet("a.b", "a.b.c", "l[0]", "l[3]", "l[*].x", "n.x", "m[0].x")
	if err != nil {
		t.Fatal(err)
	}
	var d Doc
	d.Reset(set, []byte(`{"a":{"b":1},"l":[1,2],"n":null}`))
	for i, want := range []error{nil, ErrParentKind, nil, ErrParentKind, ErrManyValues, ErrParentKind, ErrParentKind} {
		if err := d.Set(s[i], []byte("1")); !errors.Is(err, want) {
			t.Errorf("%v: got %v, want %v", set.Path(s[i]), err, want)
		}
	}
	d.Reset(set, []byte(`{"a":`))
	if err := d.Set(s[0], []byte("1")); err == nil {
		t.Error("Set on a malformed document gave no error")
	}
	if err := d.Each(s[0], func([]byte) ([]byte, error) { return nil, nil }); err == nil {
		t.Error("Each on a malformed document gave no error")
	}
	d.Unset(s[0])
	if _, ok := d.Get(s[0]); ok || d.Changed() || string(d.Bytes()) != `{"a":` {
		t.Error("a malformed document gave a value or took an edit")
	}
}

// TestEditTooDeep checks that a value which makes the document too deep is noticed by the scan after it.
func TestEditTooDeep(t *testing.T) {
	set, s, err := NewSet("a", "a.b")
	if err != nil {
		t.Fatal(err)
	}
	var d Doc
	d.Reset(set, []byte(`{"a":1}`))
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	if err := d.Set(s[0], []byte(deep)); err != nil {
		t.Fatal(err)
	}
	_, ok := d.Get(s[1])
	if code, _ := IsSyntax(d.Err()); ok || code != CodeDepth {
		t.Errorf("got %v, %v", ok, d.Err())
	}
	if err := d.Each(s[0], func([]byte) ([]byte, error) { return nil, fmt.Errorf("called") }); err == nil {
		t.Error("no error")
	}
}
