package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

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
