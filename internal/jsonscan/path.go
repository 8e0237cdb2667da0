package jsonscan

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ElemKind says how an Elem selects.
type ElemKind uint8

// The kinds of path elements.
const (
	Member ElemKind = iota // the member of an object, by name
	Index                  // one element of an array, by position from 0
	Each                   // every element of an array
)

// maxPath bounds the elements of a path: a longer one could never be matched usefully and would cost every lane.
const maxPath = 100

// Elem is one step of a path.
type Elem struct {
	// Name is the name of a Member.
	Name string
	// Index is the position of an Index.
	Index int
	// Kind says which of the fields counts.
	Kind ElemKind
}

// Path is a parsed field path, relative to the document. The empty path is the whole document.
type Path []Elem

// ParsePath reads a path in the syntax of expressions: a.b, a["x-y"], items[0].sku, and items[*].sku for every
// element. The empty text is the whole document. The error is a *PathError.
func ParsePath(s string) (Path, error) {
	var p Path
	i := 0
	for i < len(s) {
		var e Elem
		var err *PathError
		if s[i] == '[' {
			e, i, err = parseBracket(s, i)
		} else {
			e, i, err = parseName(s, i, len(p) == 0)
		}
		if err != nil {
			return nil, err
		}
		if p = append(p, e); len(p) > maxPath {
			return nil, &PathError{s, i, "more than 100 elements"}
		}
	}
	return p, nil
}

func parseName(s string, i int, first bool) (Elem, int, *PathError) {
	if !first {
		if s[i] != '.' {
			return Elem{}, i, &PathError{s, i, `a "." or a "[" must come here`}
		}
		i++
	}
	n := identLen(s[i:])
	if n == 0 {
		return Elem{}, i, &PathError{s, i, `a name must come here; a name with other characters is written ["x-y"]`}
	}
	return Elem{Name: s[i : i+n]}, i + n, nil
}

// identLen is the length of the identifier that s starts with, by the rules of expressions.
func identLen(s string) int {
	for i, r := range s {
		letter := r == '_' || r == '$' || unicode.IsLetter(r)
		if !letter && (i == 0 || !unicode.IsDigit(r)) || r == utf8.RuneError {
			return i
		}
	}
	return len(s)
}

func parseBracket(s string, i int) (Elem, int, *PathError) {
	open := i
	i++
	if i < len(s) && (s[i] == '"' || s[i] == '\'') {
		return parseQuoted(s, i)
	}
	n := strings.IndexByte(s[i:], ']')
	if n < 0 {
		return Elem{}, open, &PathError{s, open, `the "[" is not closed`}
	}
	text := s[i : i+n]
	if text == "*" {
		return Elem{Kind: Each}, i + n + 1, nil
	}
	v, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return Elem{}, i, &PathError{s, i, `brackets hold a number from 0, a quoted name or *`}
	}
	return Elem{Index: int(v), Kind: Index}, i + n + 1, nil
}

func parseQuoted(s string, i int) (Elem, int, *PathError) {
	quote := s[i]
	end := i + 1
	for end < len(s) && s[end] != quote {
		if s[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s) {
		return Elem{}, i, &PathError{s, i, "the quoted name is not closed"}
	}
	text := s[i+1 : end]
	if quote == '\'' {
		text = strings.ReplaceAll(strings.ReplaceAll(text, `\'`, `'`), `"`, `\"`)
	}
	name, err := strconv.Unquote(`"` + text + `"`)
	if err != nil || !utf8.ValidString(text) || !utf8.ValidString(name) {
		return Elem{}, i, &PathError{s, i, "the quoted name has an escape that is not known or is not valid UTF-8"}
	}
	if end++; end >= len(s) || s[end] != ']' {
		return Elem{}, end, &PathError{s, end, `a "]" must come here`}
	}
	return Elem{Name: name}, end + 1, nil
}

// String writes the path so that ParsePath reads it back.
func (p Path) String() string {
	var b strings.Builder
	for i, e := range p {
		switch {
		case e.Kind == Each:
			b.WriteString("[*]")
		case e.Kind == Index:
			b.WriteByte('[')
			b.WriteString(strconv.Itoa(e.Index))
			b.WriteByte(']')
		case e.Name != "" && identLen(e.Name) == len(e.Name):
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(e.Name)
		default:
			b.WriteByte('[')
			b.WriteString(strconv.Quote(e.Name))
			b.WriteByte(']')
		}
	}
	return b.String()
}

// Many reports whether the path has an Each and so may match more than one value.
func (p Path) Many() bool {
	for _, e := range p {
		if e.Kind == Each {
			return true
		}
	}
	return false
}

// Overlaps reports whether a value of one path can lie within, hold or be a value of the other.
func (p Path) Overlaps(q Path) bool {
	for i := range min(len(p), len(q)) {
		if !p[i].overlaps(q[i]) {
			return false
		}
	}
	return true
}

func (e Elem) overlaps(f Elem) bool {
	switch {
	case e.Kind == Member || f.Kind == Member:
		return e.Kind == f.Kind && e.Name == f.Name
	case e.Kind == Each || f.Kind == Each:
		return true
	default:
		return e.Index == f.Index
	}
}
