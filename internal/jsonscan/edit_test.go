package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tree is the reference: a document as an ordered tree that keeps the text of scalars.
type tree struct {
	kind  Kind
	text  string // of a scalar
	names []string
	kids  []*tree
}

var spaceGen = rapid.SampledFrom([]string{"", "", "", " ", "\n", "\t ", "\r\n  "})

func genTree(t *rapid.T, depth int) *tree {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth > 3 && kind < 4 {
		kind = 4
	}
	switch {
	case kind < 2:
		n := &tree{kind: Object}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "x-y", "", "é", "long_member_name", "long_member_nome"}), 0, 5, rapid.ID).Draw(t, "names") {
			n.names = append(n.names, name)
			n.kids = append(n.kids, genTree(t, depth+1))
		}
		return n
	case kind < 4:
		n := &tree{kind: Array}
		for range rapid.IntRange(0, 3).Draw(t, "len") {
			n.kids = append(n.kids, genTree(t, depth+1))
		}
		return n
	default:
		return scalar(rapid.SampledFrom([]string{"1", "-0", "1.50", "1e2", "true", "null", `""`, `"a\"b"`, `"\\"`, `"{,}"`, `"\u00e9é😀"`, "12345678901234567890123"}).Draw(t, "scalar"))
	}
}

func scalar(s string) *tree { return &tree{kind: KindOf([]byte(s)), text: s} }

// write is the text of the tree, with random white space if t is given.
func (n *tree) write(t *rapid.T, b *strings.Builder) {
	sp := func() {
		if t != nil {
			b.WriteString(spaceGen.Draw(t, "space"))
		}
	}
	switch n.kind {
	case Object:
		b.WriteByte('{')
		for i, k := range n.kids {
			if i > 0 {
				b.WriteByte(',')
			}
			sp()
			b.Write(AppendString(nil, n.names[i]))
			sp()
			b.WriteByte(':')
			sp()
			k.write(t, b)
			sp()
		}
		if len(n.kids) == 0 {
			sp()
		}
		b.WriteByte('}')
	case Array:
		b.WriteByte('[')
		for i, k := range n.kids {
			if i > 0 {
				b.WriteByte(',')
			}
			sp()
			k.write(t, b)
			sp()
		}
		if len(n.kids) == 0 {
			sp()
		}
		b.WriteByte(']')
	default:
		b.WriteString(n.text)
	}
}

func (n *tree) String() string {
	var b strings.Builder
	n.write(nil, &b)
	return b.String()
}

// all calls f with every match of the path, and with its parent and place there.
func (n *tree) all(p Path, f func(parent *tree, i int)) {
	if len(p) == 0 {
		return
	}
	var places []int
	for i := range n.kids {
		switch e := p[0]; {
		case n.kind == Object && e.Kind == Member && n.names[i] == e.Name,
			n.kind == Array && e.Kind == Each,
			n.kind == Array && e.Kind == Index && i == e.Index:
			places = append(places, i)
		}
	}
	slices.Reverse(places) // so that removals do not move what is still to come
	for _, i := range places {
		if len(p) == 1 {
			f(n, i)
		} else {
			n.kids[i].all(p[1:], f)
		}
	}
}

func (n *tree) get(p Path) (got []*tree) {
	if len(p) == 0 {
		return []*tree{n}
	}
	n.all(p, func(parent *tree, i int) { got = append(got, parent.kids[i]) })
	slices.Reverse(got)
	return got
}

func (n *tree) set(p Path, v *tree) error {
	if p.Many() {
		return ErrManyValues
	}
	for i, e := range p {
		at := -1
		if e.Kind == Member && n.kind == Object {
			at = slices.Index(n.names, e.Name)
			if at < 0 {
				if slices.ContainsFunc(p[i:], func(e Elem) bool { return e.Kind != Member }) {
					return ErrParentKind
				}
				at = len(n.kids)
				n.names = append(n.names, e.Name)
				n.kids = append(n.kids, &tree{kind: Object})
			}
		} else if e.Kind == Index && n.kind == Array && e.Index < len(n.kids) {
			at = e.Index
		}
		if at < 0 {
			return ErrParentKind
		}
		n = n.kids[at]
	}
	*n = *v
	return nil
}

func (n *tree) unset(p Path) {
	n.all(p, func(parent *tree, i int) {
		parent.kids = slices.Delete(parent.kids, i, i+1)
		if parent.kind == Object {
			parent.names = slices.Delete(parent.names, i, i+1)
		}
	})
}

var editPaths = []string{
	"", "a", "b", "c", "d", "a.a", "a.b", "a.b.c", "a.b.d", "a[0]", "a[1]", "a[0].b", "a[*]", "a[*].b", "a[*].c", "a[*].c.d",
	"b[*][*]", "b[0][*]", "b[1][0]", "b[*][0]", "c.d", "c.d.a", "c.d.b", `["x-y"]`, `d["é"]`, `d[""]`, "d.long_member_nome",
	"[0]", "[*]", "[*].a", "[1].a", "[1].b.c",
}

func compact(t require, raw []byte) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, raw)
	}
	return b.String()
}

type require interface {
	Fatalf(format string, args ...any)
	Helper()
}

// TestEditsAgainstTree compares any sequence of reads and edits with the same on a decoded tree.
func TestEditsAgainstTree(t *testing.T) {
	set, slots, err := NewSet(editPaths...)
	if err != nil {
		t.Fatal(err)
	}
	var d Doc
	rapid.Check(t, func(t *rapid.T) {
		ref := genTree(t, 0)
		var b strings.Builder
		b.WriteString(spaceGen.Draw(t, "before"))
		ref.write(t, &b)
		b.WriteString(spaceGen.Draw(t, "after"))
		raw := []byte(b.String())
		d.Reset(set, raw)
		var held [][2]string // slices that were handed out, and what they said
		var heldRaw [][]byte
		hold := func(raw []byte) {
			held = append(held, [2]string{string(raw)})
			heldRaw = append(heldRaw, raw)
		}
		changed := false
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			i := rapid.IntRange(0, len(editPaths)-1).Draw(t, "path")
			p, slot := set.Path(slots[i]), slots[i]
			switch op := rapid.SampledFrom([]string{"get", "set", "set", "unset", "each", "append"}).Draw(t, "op"); op {
			case "get":
				got, ok := d.Get(slot)
				want := ref.get(p)
				if ok != (len(want) > 0) {
					t.Fatalf("get %v: found %v, want %v in %s", p, ok, !ok, ref)
				}
				if ok {
					hold(got)
					if c := compact(t, got); c != want[0].String() || string(trim(got)) != string(got) {
						t.Fatalf("get %v: got %q, want %s", p, got, want[0])
					}
				}
			case "set":
				v := genTree(t, 2)
				got, want := d.Set(slot, []byte(" "+v.String()+"\n")), ref.set(p, v)
				if !errors.Is(got, want) {
					t.Fatalf("set %v: got %v, want %v", p, got, want)
				}
				changed = changed || want == nil
			case "unset":
				changed = changed || len(p) > 0 && len(ref.get(p)) > 0
				d.Unset(slot)
				ref.unset(p)
			case "each":
				n := 0
				odd := rapid.IntRange(1, 2).Draw(t, "odd")
				want := ref.get(p)
				err := d.Each(slot, func(raw []byte) ([]byte, error) {
					hold(raw)
					if c := compact(t, raw); c != want[n].String() {
						t.Fatalf("each %v: got %q, want %s", p, raw, want[n])
					}
					if n++; n%odd != 0 {
						return nil, nil
					}
					changed = true
					*want[n-1] = *scalar(strconv.Itoa(n))
					return []byte(strconv.Itoa(n)), nil
				})
				if err != nil || n != len(want) {
					t.Fatalf("each %v: %d of %d, %v", p, n, len(want), err)
				}
			case "append":
				if got := compact(t, d.AppendTo([]byte("[{"))[2:]); got != ref.String() {
					t.Fatalf("append: got %s\nwant %s", got, ref)
				}
			}
		}
		if d.Changed() != changed {
			t.Fatalf("changed: %v", d.Changed())
		}
		out := d.Bytes()
		if got := compact(t, out); got != ref.String() {
			t.Fatalf("got  %s\nwant %s\nfrom %s", got, ref, raw)
		}
		if !changed && !bytes.Equal(out, raw) {
			t.Fatalf("nothing changed, but got %q from %q", out, raw)
		}
		if string(raw) != b.String() {
			t.Fatalf("the caller's bytes were written to")
		}
		for i := range held {
			if string(heldRaw[i]) != held[i][0] {
				t.Fatalf("a slice handed out was written to: %q became %q", held[i][0], heldRaw[i])
			}
		}
	})
}

// TestReplaceKeepsTheRest checks that all bytes around replaced values come out as they were.
func TestReplaceKeepsTheRest(t *testing.T) {
	set, slots, err := NewSet(editPaths...)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		genTree(t, 0).write(t, &b)
		raw := []byte(b.String())
		var d Doc
		d.Reset(set, raw)
		slot := rapid.SampledFrom(slots).Draw(t, "slot")
		at, rest := 0, []string(nil)
		err := d.Each(slot, func(v []byte) ([]byte, error) {
			start := at + offsetOf(raw[at:], v)
			rest = append(rest, string(raw[at:start]))
			at = start + len(v)
			return []byte(`"masked"`), nil
		})
		if err != nil {
			t.Fatalf("each: %v", err)
		}
		want := strings.Join(append(rest, string(raw[at:])), `"masked"`)
		if got := string(d.Bytes()); got != want {
			t.Fatalf("got  %q\nwant %q", got, want)
		}
	})
}

// offsetOf is where the slice v of raw starts.
func offsetOf(raw, v []byte) int {
	for i := range raw {
		if len(v) > 0 && &raw[i] == &v[0] {
			return i
		}
	}
	panic("not a slice of the document")
}

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
