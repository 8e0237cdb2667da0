package expression

import (
	"time"

	"github.com/expr-lang/expr/types"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/schemas"
)

// exprType translates a schema type for the engine's checker. What may be null is
// any, because the engine has no type for "string or null".
func exprType(t *schemas.Type) types.Type {
	if t == nil || t.Nullable {
		return types.Any
	}
	switch t.Kind {
	case schemas.Boolean:
		return types.Bool
	case schemas.Integer:
		return types.Int
	case schemas.Number:
		return types.Float64
	case schemas.String:
		return types.String
	case schemas.Array:
		if t.Items == nil {
			return types.Array(types.Any)
		}
		return types.Array(exprType(t.Items))
	case schemas.Object:
		m := types.Map{}
		for name, field := range t.Fields {
			m[name] = exprType(field)
		}
		if t.Open || len(t.Fields) == 0 {
			m[types.Extra] = types.Any
		}
		return m
	default:
		return types.Any
	}
}

func messageType() types.Map {
	m := types.Map{}
	for _, name := range propertyNames() {
		m[name] = types.String
	}
	m["time"] = types.TypeOf(time.Time{})
	m["priority"] = types.Int
	m["attempt"] = types.Int
	return m
}

// misspelt reports whether the last element of path names a member that the schema
// does not have, and which it has.
func misspelt(t *schemas.Type, path jsonscan.Path) (unknown bool, siblings []string) {
	for i, elem := range path {
		if t == nil {
			return false, nil
		}
		switch {
		case elem.Kind != jsonscan.Member:
			t = t.Items
		case t.Kind == schemas.Object && len(t.Fields) > 0:
			next, ok := t.Fields[elem.Name]
			if !ok && !t.Open && i == len(path)-1 {
				return true, t.Names()
			}
			t = next
		default:
			return false, nil
		}
	}
	return false, nil
}
