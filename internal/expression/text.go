package expression

import (
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

func toText(v any) (any, error) {
	switch x := v.(type) {
	case string:
		return x, nil
	case time.Time:
		return x.UTC().Format(time.RFC3339Nano), nil
	case time.Duration:
		return x.String(), nil
	case nil:
		return "null", nil
	default:
		return toJSON(v)
	}
}

func toJSON(v any) (any, error) {
	text, err := appendJSON(nil, v, 0)
	return string(text), err
}

func fromJSON(v any) (any, error) {
	text, ok := v.(string)
	if !ok {
		return nil, errTypes("fromJSON needs a text")
	}
	if err := jsonscan.Check([]byte(text)); err != nil {
		return nil, &failure{code: "LS2205", text: "fromJSON was given a text that is not JSON"}
	}
	out, err := jsonscan.Decode([]byte(text))
	if err != nil {
		return nil, &failure{code: "LS2207", text: "a number is out of range"}
	}
	return out, nil
}

func replace(a ...any) (any, error) {
	s, ok1 := a[0].(string)
	from, ok2 := a[1].(string)
	to, ok3 := a[2].(string)
	if !ok1 || !ok2 || !ok3 {
		return nil, errTypes("replace needs texts")
	}
	n := -1
	if len(a) == 4 {
		limit, ok := a[3].(int)
		if !ok {
			return nil, errTypes("the fourth argument of replace must be a whole number")
		}
		n = limit
	}
	count := strings.Count(s, from)
	if n >= 0 {
		count = min(count, n)
	}
	if len(s)+count*max(len(to)-len(from), 0) > maxText {
		return nil, errTooBig()
	}
	return strings.Replace(s, from, to, n), nil
}

func join(a ...any) (any, error) {
	glue := ""
	if len(a) == 2 {
		g, ok := a[1].(string)
		if !ok {
			return nil, errTypes("the second argument of join must be a text")
		}
		glue = g
	}
	var parts []string
	switch list := a[0].(type) {
	case []string:
		parts = list
	case []any:
		for _, item := range list {
			s, ok := item.(string)
			if !ok {
				return nil, errTypes("join needs a list of texts")
			}
			parts = append(parts, s)
		}
	default:
		return nil, errTypes("join needs a list of texts")
	}
	size := len(glue) * len(parts)
	for _, s := range parts {
		if size += len(s); size > maxText {
			return nil, errTooBig()
		}
	}
	return strings.Join(parts, glue), nil
}

func repeat(a ...any) (any, error) {
	s, ok1 := a[0].(string)
	n, ok2 := a[1].(int)
	if !ok1 || !ok2 || n < 0 {
		return nil, errTypes("repeat needs a text and a count of zero or more")
	}
	if n > maxText || len(s)*n > maxText {
		return nil, errTooBig()
	}
	return strings.Repeat(s, n), nil
}
