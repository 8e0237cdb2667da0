package schemas

import (
	"maps"
	"slices"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

// Kind is the kind of a field as a schema declares it.
type Kind uint8

// The kinds. Any stands for what the schema leaves open: no type, several types, or
// a combination that is not followed.
const (
	Any Kind = iota
	Null
	Boolean
	Integer
	Number
	String
	Array
	Object
)

// String returns the name that JSON Schema uses.
func (k Kind) String() string {
	return [...]string{"any", "null", "boolean", "integer", "number", "string", "array", "object"}[k]
}

// Type is what a schema says about the shape of a value. The expression compiler
// checks field names and operators against it. Types are immutable; Extend returns
// changed copies. A Type is a tree: where a schema refers to itself, the repetition is
// Any with all labels that can be in it.
type Type struct {
	Kind Kind
	// Nullable: the value may be null.
	Nullable bool
	// Fields are the declared members of an object. They are kept for Any too, with
	// the labels that they may have.
	Fields map[string]*Type
	// Open: the schema says explicitly that an object may have other members.
	Open bool
	// Closed: the schema says explicitly that an object has no other members. Validation sees to it.
	Closed bool
	// Rest is the type of other members, if the schema gives one.
	Rest *Type
	// Items is the type of an array's elements; for schemas by position it covers
	// all. Nil: any.
	Items *Type
	// Required: the member must be present.
	Required bool
	// Labels are the classification labels that stand at this place, sorted. Those of
	// the places above it are not repeated.
	Labels []string
}

// Names returns the names of the declared members, sorted.
func (t *Type) Names() []string { return slices.Sorted(maps.Keys(t.Fields)) }

// Extend returns t with the value at path declared as leaf, creating the objects on
// the way. A step writes a new field; what follows it may read it.
func (t *Type) Extend(path jsonscan.Path, leaf *Type) *Type {
	if len(path) == 0 {
		return leaf
	}
	c := Type{Kind: Any}
	if t != nil {
		c = *t
	}
	if path[0].Kind != jsonscan.Member {
		if c.Items != nil {
			c.Items = c.Items.Extend(path[1:], leaf)
		}
		return &c
	}
	if c.Kind != Object {
		c = Type{Kind: Object, Open: c.Kind == Any}
	}
	c.Fields = maps.Clone(c.Fields)
	if c.Fields == nil {
		c.Fields = map[string]*Type{}
	}
	c.Fields[path[0].Name] = c.Fields[path[0].Name].Extend(path[1:], leaf)
	return &c
}

// Without returns t with the member at path removed.
func (t *Type) Without(path jsonscan.Path) *Type {
	if t == nil || len(path) == 0 || path[0].Kind != jsonscan.Member || t.Fields[path[0].Name] == nil {
		return t
	}
	c := *t
	c.Fields = maps.Clone(t.Fields)
	if len(path) == 1 {
		delete(c.Fields, path[0].Name)
	} else {
		c.Fields[path[0].Name] = c.Fields[path[0].Name].Without(path[1:])
	}
	return &c
}

// Join returns what holds for values of both types: the fields that both have, and the
// labels of either.
func Join(a, b *Type) *Type {
	switch {
	case a == nil || b == nil:
		return nil
	case a.Kind != b.Kind:
		return &Type{Kind: Any, Nullable: a.Nullable || b.Nullable, Labels: union(a.Labels, b.Labels)}
	}
	c := &Type{Kind: a.Kind, Nullable: a.Nullable || b.Nullable, Open: a.Open && b.Open, Required: a.Required && b.Required}
	c.Closed = a.Closed && b.Closed
	c.Labels = union(a.Labels, b.Labels)
	if a.Kind == Object {
		c.Fields = map[string]*Type{}
		for name, field := range a.Fields {
			if other := b.Fields[name]; other != nil {
				c.Fields[name] = Join(field, other)
			}
		}
	}
	if a.Kind == Array && a.Items != nil && b.Items != nil {
		c.Items = Join(a.Items, b.Items)
	}
	return c
}
