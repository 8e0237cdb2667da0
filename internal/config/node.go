package config

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Node is a value in a YAML file, with its place. The zero Node is absent.
type Node struct {
	file *File
	y    *yaml.Node
	key  *yaml.Node
	path string
}

// Field is one member of a mapping.
type Field struct {
	// Name is the key's text.
	Name string
	// Key is the key itself, for problems about it.
	Key Node
	// Value is what stands at the key.
	Value Node
}

// IsZero reports whether there is no value at all.
func (n Node) IsZero() bool { return n.y == nil }

// Path returns the place in the tree, such as route[0].when.
func (n Node) Path() string { return n.path }

// Position returns where the value starts.
func (n Node) Position() Position {
	if n.y == nil {
		return Position{}
	}
	return Position{File: n.file.Name, Line: n.y.Line, Column: n.y.Column}
}

func (n Node) resolved() *yaml.Node {
	if n.y != nil && n.y.Kind == yaml.AliasNode {
		return n.y.Alias
	}
	return n.y
}

// IsMapping reports whether n is a mapping.
func (n Node) IsMapping() bool { y := n.resolved(); return y != nil && y.Kind == yaml.MappingNode }

// IsSequence reports whether n is a sequence.
func (n Node) IsSequence() bool { y := n.resolved(); return y != nil && y.Kind == yaml.SequenceNode }

// IsScalar reports whether n is a scalar.
func (n Node) IsScalar() bool { y := n.resolved(); return y != nil && y.Kind == yaml.ScalarNode }

// IsNull reports whether n is absent, empty or null.
func (n Node) IsNull() bool {
	y := n.resolved()
	return y == nil || y.Kind == yaml.ScalarNode && y.ShortTag() == "!!null"
}

// Text returns a scalar's text as it stands in the file, whatever its tag.
func (n Node) Text() string {
	if y := n.resolved(); y != nil && y.Kind == yaml.ScalarNode {
		return y.Value
	}
	return ""
}

// IsText reports whether a scalar is text: in quotes, or nothing that YAML takes for a
// number, a truth value or null.
func (n Node) IsText() bool {
	y := n.resolved()
	return y != nil && y.Kind == yaml.ScalarNode && y.ShortTag() == "!!str"
}

// Fields returns the members of a mapping in file order.
func (n Node) Fields() []Field {
	if !n.IsMapping() {
		return nil
	}
	y := n.resolved()
	fields := make([]Field, 0, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Value == "<<" {
			continue // reported when the file was parsed
		}
		path := joinPath(n.path, key.Value)
		fields = append(fields, Field{
			Name:  key.Value,
			Key:   Node{file: n.file, y: key, path: path},
			Value: Node{file: n.file, y: value, key: key, path: path},
		})
	}
	return fields
}

// Get returns the member of this name, or the zero Node.
func (n Node) Get(name string) Node {
	for _, f := range n.Fields() {
		if f.Name == name {
			return f.Value
		}
	}
	return Node{}
}

// Items returns the elements of a sequence.
func (n Node) Items() []Node {
	if !n.IsSequence() {
		return nil
	}
	y := n.resolved()
	items := make([]Node, len(y.Content))
	for i, c := range y.Content {
		items[i] = Node{file: n.file, y: c, path: n.path + "[" + itoa(i) + "]"}
	}
	return items
}

// PositionAt returns the place of the byte at offset in a scalar's text, in the
// coordinates of the file: quotes and the indentation of block scalars count.
func (n Node) PositionAt(offset int) Position {
	y := n.resolved()
	p := n.Position()
	if y == nil || y.Kind != yaml.ScalarNode {
		return p
	}
	p = Position{File: n.file.Name, Line: y.Line, Column: y.Column}
	offset = min(max(offset, 0), len(y.Value))
	before := y.Value[:offset]
	switch {
	case y.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		line := strings.Count(before, "\n")
		last := before[strings.LastIndexByte(before, '\n')+1:]
		p.Line = y.Line + 1 + line
		p.Column = indentOf(n.file.line(p.Line)) + utf8.RuneCountInString(last) + 1
	case y.Style&yaml.SingleQuotedStyle != 0:
		p.Column += 1 + utf8.RuneCountInString(before) + strings.Count(before, "'")
	case y.Style&yaml.DoubleQuotedStyle != 0:
		p.Column += 1 + utf8.RuneCountInString(before) + strings.Count(before, `"`) + strings.Count(before, `\`)
	default:
		p.Column += utf8.RuneCountInString(before)
	}
	if y.Style&yaml.FoldedStyle != 0 || p.Column > utf8.RuneCountInString(n.file.line(p.Line))+1 {
		return n.Position() // the text was folded from several lines
	}
	return p
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func (n Node) problem(code, fix, message string) Problem {
	p := Problem{Position: n.Position(), Code: code, Path: n.path, Message: message, Fix: fix, Width: 1, file: n.file}
	if n.y == nil {
		return p
	}
	p.Source = n.file.line(p.Line)
	if n.y.Kind == yaml.ScalarNode && n.y.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		p.Width = max(utf8.RuneCountInString(n.y.Value), 1)
		rest := utf8.RuneCountInString(p.Source) - p.Column + 1
		p.Width = max(min(p.Width, rest), 1)
	}
	return p
}

// ProblemAt makes a problem inside a scalar: at offset, marking width characters.
func (n Node) ProblemAt(offset, width int, code, fix, message string) Problem {
	p := n.problem(code, fix, message)
	if n.y == nil {
		return p
	}
	p.Position = n.PositionAt(offset)
	p.Source = n.file.line(p.Line)
	p.Width = max(width, 1)
	return p
}

// CutByComment reports whether YAML ended this plain scalar at " #", which an
// expression may have meant as text.
func (n Node) CutByComment() bool {
	y := n.resolved()
	if y == nil || y.Kind != yaml.ScalarNode || y.Style&^yaml.FlowStyle != 0 {
		return false
	}
	line := []rune(n.file.line(y.Line))
	end := y.Column - 1 + utf8.RuneCountInString(y.Value)
	if end > len(line) {
		return false
	}
	return strings.HasPrefix(strings.TrimLeft(string(line[end:]), " "), "#")
}

func referencePattern() *regexp.Regexp {
	return regexp.MustCompile(`^\$\{(env|file):([^{}]+)\}$`)
}

// hide keeps the scalar out of every line that is shown.
func (n Node) hide() {
	if y := n.resolved(); y != nil && y.Kind == yaml.ScalarNode && !n.IsReference() {
		n.file.hidden = append(n.file.hidden, y)
	}
}

// IsReference reports whether the scalar is a whole ${env:…} or ${file:…}.
func (n Node) IsReference() bool {
	return strings.HasPrefix(n.Text(), "${") && referencePattern().MatchString(n.Text())
}

// resolve returns the scalar's text, with a reference replaced by what it names.
func (n Node) resolve(r *Report) (text string, ok bool) {
	text = n.Text()
	if !strings.Contains(text, "${") {
		return text, true
	}
	m := referencePattern().FindStringSubmatch(text)
	if m == nil {
		if strings.Contains(text, "${env:") || strings.Contains(text, "${file:") || strings.HasPrefix(text, "${") {
			r.Errorf(n, "LS1108", "make ${env:NAME} or ${file:PATH} the whole value, and put the rest into it",
				"a reference must be the whole value; text is never substituted inside text")
			return "", false
		}
		return text, true
	}
	return n.dereference(m[1], m[2], r)
}

func (n Node) dereference(kind, name string, r *Report) (string, bool) {
	if kind == "env" {
		if n.file.lookup.Env != nil {
			if v, ok := n.file.lookup.Env(name); ok {
				return v, true
			}
		}
		r.Errorf(n, "LS1109", "set it before starting linkspan", "the environment variable %s is not set", name)
		return "", false
	}
	if n.file.lookup.ReadFile != nil {
		data, err := n.file.lookup.ReadFile(name)
		if err == nil {
			return strings.TrimRight(string(data), "\r\n"), true
		}
		r.Errorf(n, "LS1109", "check the path and its permissions", "%s: %s", name, ReadErrorText(err))
		return "", false
	}
	r.Errorf(n, "LS1109", "", "files cannot be read here")
	return "", false
}
