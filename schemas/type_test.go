package schemas

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

func path(t *testing.T, s string) jsonscan.Path {
	t.Helper()
	p, err := jsonscan.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExtendAndWithout(t *testing.T) {
	base := load(t, `{"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"string"}}},"l":{"items":{"type":"object","properties":{"x":{}}}}}}`).Type()
	before := load(t, `{"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"string"}}},"l":{"items":{"type":"object","properties":{"x":{}}}}}}`).Type()
	leaf := &Type{Kind: Integer}
	got := base.Extend(path(t, "a.c.d"), leaf).Extend(path(t, "l[*].y"), leaf).Without(path(t, "a.b")).Without(path(t, "q.r"))
	want := &Type{Kind: Object, Fields: map[string]*Type{
		"a": {Kind: Object, Fields: map[string]*Type{"c": {Kind: Object, Open: true, Fields: map[string]*Type{"d": leaf}}}},
		"l": {Kind: Array, Items: &Type{Kind: Object, Fields: map[string]*Type{"x": {}, "y": leaf}}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, base); diff != "" {
		t.Errorf("the type itself was changed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "l"}, base.Names()); diff != "" {
		t.Error(diff)
	}
}

func TestJoin(t *testing.T) {
	a := load(t, `{"type":"object","required":["x","y"],"properties":{"x":{"type":"integer","x-classification":"a"},"y":{"type":"string"},"l":{"items":{"type":"string"}}}}`).Type()
	b := load(t, `{"type":"object","required":["x"],"properties":{"x":{"type":["string","null"],"x-classification":"b"},"z":{},"l":{"items":{"type":"string","x-classification":"c"}}}}`).Type()
	want := &Type{Kind: Object, Fields: map[string]*Type{
		"x": {Kind: Any, Nullable: true, Labels: []string{"a", "b"}},
		"l": {Kind: Array, Items: &Type{Kind: String, Labels: []string{"c"}}},
	}}
	if diff := cmp.Diff(want, Join(a, b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if Join(a, nil) != nil || Join(nil, b) != nil {
		t.Error("a source without a schema has no type")
	}
}
