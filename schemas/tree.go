package schemas

// maxFields bounds the fields of a Type: a schema whose definitions refer to each other can describe very many.
const maxFields = 20_000

// branch is a place in the tree that is being made.
type branch struct {
	facts *facts
	out   *Type
	up    *branch
}

// tree makes a Type, which has no cycles, of facts, which may. What repeats itself, and what is beyond the bound, is Any
// with the labels of everything that can be there.
func (t *typing) tree(root *facts) *Type {
	out := &Type{}
	queue := []branch{{facts: root, out: out}}
	for i := 0; i < len(queue); i++ {
		b := queue[i]
		if i >= maxFields || b.repeats() {
			b.out.Kind, b.out.Open, b.out.Labels = Any, true, t.reachable(b.facts)
			continue
		}
		f := b.facts
		b.out.Kind, b.out.Nullable, b.out.Labels = f.kind, f.nullable, f.labels
		b.out.Open, b.out.Closed = f.says, !f.open
		if f.fields != nil {
			b.out.Fields = make(map[string]*Type, len(f.fields))
		}
		for _, name := range sortedNames(f.fields) {
			field := &Type{Required: f.required[name]}
			b.out.Fields[name] = field
			queue = append(queue, branch{f.fields[name], field, &b})
		}
		if f.items != nil {
			b.out.Items = &Type{}
			queue = append(queue, branch{f.items, b.out.Items, &b})
		}
		if f.rest != nil {
			b.out.Rest = &Type{}
			queue = append(queue, branch{f.rest, b.out.Rest, &b})
		}
	}
	return out
}

// repeats reports whether the same facts stand further up.
func (b *branch) repeats() bool {
	for up := b.up; up != nil; up = up.up {
		if up.facts == b.facts {
			return true
		}
	}
	return false
}

// reachable is the labels of a value and of everything in it.
func (t *typing) reachable(f *facts) []string {
	var out []string
	seen := map[*facts]bool{}
	todo := []*facts{f}
	for len(todo) > 0 && len(out) < len(t.every) {
		f := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if f == nil || seen[f] {
			continue
		}
		seen[f] = true
		out = union(out, f.labels)
		todo = append(todo, f.items, f.rest)
		for _, field := range f.fields {
			todo = append(todo, field)
		}
	}
	return out
}
