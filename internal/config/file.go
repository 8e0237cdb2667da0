// Package config turns YAML into typed values and never forgets where a value
// stands, so that every later check can point at file, line and column.
//
// It is strict: unknown keys, duplicate keys, wrong types, a second document,
// unknown tags, merge keys and alias bombs are refused. It collects all problems
// instead of stopping at the first. ${env:NAME} and ${file:PATH}, as the whole value
// of a field, are references that are resolved after parsing and never printed.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

const (
	maxFileSize = 4 << 20
	maxNodes    = 100_000
	maxDepth    = 64
)

// Lookup resolves references. The zero value resolves nothing.
type Lookup struct {
	// Env returns an environment variable, as os.LookupEnv does.
	Env func(name string) (string, bool)
	// ReadFile returns a file's content, as os.ReadFile does.
	ReadFile func(name string) ([]byte, error)
}

// SystemLookup resolves references from the process environment and the disk.
func SystemLookup() Lookup { return Lookup{Env: os.LookupEnv, ReadFile: os.ReadFile} }

// File is a parsed YAML file.
type File struct {
	// Name is the path as the user gave it.
	Name   string
	lines  []string
	root   *yaml.Node
	lookup Lookup
	// hidden are the scalars that were read as secrets.
	hidden []*yaml.Node
}

// Parse reads one YAML document. Problems go to the report; the File is nil when
// there is nothing to work on.
func Parse(name string, data []byte, lookup Lookup, r *Report) *File {
	f := &File{Name: name, lookup: lookup, lines: strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")}
	if len(data) > maxFileSize {
		f.problem(r, 1, 1, "LS1101", "split the file", "the file has %d bytes; at most %d are read", len(data), maxFileSize)
		return nil
	}
	if !f.parse(data, r) {
		return nil
	}
	return f
}

// Load reads and parses a file from a file system.
func Load(fsys fs.FS, name string, lookup Lookup, r *Report) *File {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		r.Add(Problem{Position: Position{File: name}, Code: "LS1101", Message: ReadErrorText(err), Fix: "check the path"})
		return nil
	}
	return Parse(name, data, lookup, r)
}

// ReadErrorText returns the reason of a file error without the path, which the
// position already names.
func ReadErrorText(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return "the file cannot be read: " + p.Err.Error()
	}
	return "the file cannot be read: " + err.Error()
}

func (f *File) parse(data []byte, r *Report) bool {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			f.problem(r, 1, 1, "LS1102", "start with `pipeline: NAME`", "the file is empty")
			return false
		}
		f.syntaxProblem(r, err)
		return false
	}
	if len(doc.Content) == 0 {
		f.problem(r, 1, 1, "LS1102", "start with `pipeline: NAME`", "the file is empty")
		return false
	}
	f.root = doc.Content[0]
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		f.problem(r, max(second.Line, 1), 1, "LS1103", "put it into a file of its own", "there is a second document in this file")
		return false
	} else if !errors.Is(err, io.EOF) {
		f.syntaxProblem(r, err)
		return false
	}
	c := checker{file: f, report: r, left: maxNodes}
	c.check(f.root, "", 0)
	return !c.fatal
}

// Root returns the document.
func (f *File) Root() Node { return Node{file: f, y: f.root} }

func (f *File) line(n int) string {
	if n < 1 || n > len(f.lines) {
		return ""
	}
	return hideSecrets(f.starred(n))
}

// starred returns a line with the scalars that were read as secrets starred out. The
// width stays, and the caret with it.
func (f *File) starred(n int) string {
	line := []rune(f.lines[n-1])
	for _, y := range f.hidden {
		if y.Line != n || y.Column > len(line) {
			continue
		}
		end := min(y.Column-1+utf8.RuneCountInString(y.Value)+2, len(line)) // with quotes
		if y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 {
			end = min(y.Column-1+utf8.RuneCountInString(y.Value), len(line))
		} else if i := strings.LastIndexAny(string(line), "\"'"); i >= 0 {
			end = max(end, min(utf8.RuneCountInString(string(line)[:i])+1, len(line)))
		}
		for i := y.Column - 1; i < end; i++ {
			line[i] = '*'
		}
	}
	return string(line)
}

// hideSecrets stars out what stands where a secret would, and the password of an
// address, in a line that is shown with a problem. The width stays, and the caret with
// it.
func hideSecrets(line string) string {
	const pattern = `(?i)\b(?:pass(?:word|code|phrase)|secret|token|bearer|keys)["']?\s*:\s*("(?:[^"$][^"]*)?"|'(?:[^'$][^']*)?'|[^\s"'$,}\]][^,}\]]*|["'][^$"'][^,}\]]*)|\busers\s*:\s*\{([^}]*)|://[^/\s:@]*:([^/\s@]+)@`
	out := []byte(line)
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatchIndex(out, -1) {
		for _, group := range [][]int{m[2:4], m[4:6], m[6:8]} {
			if group[0] >= 0 {
				stars := strings.Repeat("*", utf8.RuneCount(out[group[0]:group[1]]))
				out = append(append(append([]byte{}, out[:group[0]]...), stars...), out[group[1]:]...)
			}
		}
	}
	return string(out)
}

func (f *File) problem(r *Report, line, column int, code, fix, format string, args ...any) {
	r.Add(Problem{
		Position: Position{File: f.Name, Line: line, Column: column},
		Code:     code, Message: fmt.Sprintf(format, args...), Fix: fix, Source: f.line(line), Width: 1,
	})
}

func yamlErrorPlace(err error) (line, column int, text string) {
	place := regexp.MustCompile(`line (\d+)(?:, column (\d+))?:?\s*`)
	text = err.Error()
	if m := place.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		column, _ = strconv.Atoi(m[2])
		text = strings.Replace(text, m[0], "", 1)
	}
	text = strings.TrimSpace(strings.TrimPrefix(text, "yaml:"))
	return max(line, 1), max(column, 1), text
}

// syntaxProblem explains the parser's error, naming the traps of expressions in
// YAML where the line shows one.
func (f *File) syntaxProblem(r *Report, err error) {
	line, column, text := yamlErrorPlace(err)
	text = strings.Join(strings.Fields(text), " ")
	fix := "check the indentation and the quotes of this line and of the one before"
	if f.line(line) != f.lines[min(line, len(f.lines))-1] { // it shows a secret
		f.problem(r, line, column, "LS1102", "put the secret into ${env:NAME} or ${file:PATH}", "this is not valid YAML, at a value that is not shown")
		return
	}
	key, value, isPair := strings.Cut(f.line(line), ": ")
	value = strings.TrimSpace(value)
	at := utf8.RuneCountInString(key) + 3
	switch {
	case strings.Contains(f.line(line), "{") && strings.Contains(f.line(line), "${"):
		column = utf8.RuneCountInString(f.line(line)[:strings.Index(f.line(line), "${")]) + 1
		fix = "inside braces a reference must be quoted: \"${env:NAME}\""
	case strings.Contains(f.line(line), "{") && strings.Contains(f.line(line), "[*]"):
		column = utf8.RuneCountInString(f.line(line)[:strings.Index(f.line(line), "[*]")]) + 1
		fix = "inside braces a key with [*] must be quoted: 'payload.list[*].field'"
	case strings.Contains(f.line(line), "\t"):
		fix = "YAML does not allow tabs for indentation; use spaces"
	case isPair && strings.Contains(value, ": ") && !strings.HasPrefix(value, "{") && !strings.ContainsAny(value[:1], `"'`):
		column = at + utf8.RuneCountInString(value[:strings.Index(value, ": ")])
		fix = "an expression that contains `: ` (a ternary) must be quoted: '" + value + "'"
	case isPair && value != "" && strings.ContainsAny(value[:1], `"'`):
		column = at
		fix = "a value that starts with a quote must end with it; put the whole expression into single quotes: '" + strings.ReplaceAll(value, "'", "''") + "'"
	case isPair && value != "" && strings.ContainsAny(value[:1], "!*&%@`"):
		column = at
		fix = "a value cannot start with " + value[:1] + " in YAML; put the whole expression into single quotes: '" + strings.ReplaceAll(value, "'", "''") + "'"
	}
	f.problem(r, line, column, "LS1102", fix, "this is not valid YAML: %s", text)
}

// checker refuses what YAML allows and linkspan does not, and bounds the size of
// the tree once aliases are followed.
type checker struct {
	file   *File
	report *Report
	left   int
	fatal  bool
}

func (c *checker) check(y *yaml.Node, path string, depth int) {
	if c.fatal {
		return
	}
	n := Node{file: c.file, y: y, path: path}
	c.left--
	if c.left < 0 || depth > maxDepth {
		c.fatal = true
		c.report.Errorf(n, "LS1105", "write the values out, or split the file",
			"the file is too deep or too large once its aliases are followed (limits: depth %d, %d values)", maxDepth, maxNodes)
		return
	}
	switch y.Kind {
	case yaml.AliasNode:
		c.check(y.Alias, path, depth+1)
	case yaml.MappingNode:
		c.checkMapping(n, depth)
	case yaml.SequenceNode:
		for i, item := range y.Content {
			c.check(item, path+"["+strconv.Itoa(i)+"]", depth+1)
		}
	default:
	}
	c.checkTag(n)
}

func (c *checker) checkTag(n Node) {
	switch n.y.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp", "":
	default:
		if n.y.Kind != yaml.AliasNode {
			c.report.Errorf(n, "LS1106", "a value that starts with `!` must be put into single quotes", "the tag %s is not known", n.y.Tag)
		}
	}
}

func (c *checker) checkMapping(n Node, depth int) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.y.Content); i += 2 {
		key, value := n.y.Content[i], n.y.Content[i+1]
		k := Node{file: c.file, y: key, path: n.path}
		switch {
		case key.Kind != yaml.ScalarNode:
			c.report.Errorf(k, "LS1107", "write a plain name", "a key must be plain text")
			continue
		case key.Value == "<<":
			c.report.Errorf(k, "LS1107", "write the keys out", "merge keys are not supported")
			continue
		}
		if line, dup := seen[key.Value]; dup {
			c.report.Errorf(k, "LS1107", "remove one of them", "the key %q is there twice, first on line %d", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		c.check(value, joinPath(n.path, key.Value), depth+1)
	}
}

func joinPath(parent, key string) string {
	switch {
	case strings.ContainsAny(key, ".[]\"' "):
		return parent + "[" + strconv.Quote(key) + "]"
	case parent == "":
		return key
	default:
		return parent + "." + key
	}
}
