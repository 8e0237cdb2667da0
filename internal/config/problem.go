package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Severity says whether a problem stops linkspan.
type Severity uint8

// The severities.
const (
	Error Severity = iota
	Warning
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Position is a place in a file. Line and Column count from 1; Column counts
// characters, not bytes.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// String returns file:line:column.
func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Problem is one thing that is wrong with a file: what and why, where, and what to
// write instead.
type Problem struct {
	Position
	// Code is stable across releases: LS11xx YAML, LS12xx expressions, LS13xx
	// pipelines, LS14xx schemas, LS3xxx policy.
	Code     string   `json:"code"`
	Severity Severity `json:"-"`
	// Path is the place in the YAML tree, such as route[0].when.
	Path string `json:"path,omitempty"`
	// Message says what is wrong and why.
	Message string `json:"message"`
	// Fix says what to write. Empty when the message already does.
	Fix string `json:"fix,omitempty"`
	// Source is the line of the file.
	Source string `json:"source,omitempty"`
	// Width is the number of characters that the caret marks, at least 1.
	Width int `json:"-"`

	file *File // of which Source is read when all secrets in it are known
}

// Error returns the first line of the text form.
func (p Problem) Error() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", p.File, p.Code, p.Message)
	}
	return fmt.Sprintf("%s: %s: %s", p.Position, p.Code, p.Message)
}

// Text returns the problem with its source line, a caret and the fix.
func (p Problem) Text() string {
	var b strings.Builder
	b.WriteString(p.Error())
	if p.Severity == Warning {
		b.WriteString(" [warning]")
	}
	if p.Source != "" && p.Line > 0 {
		number := strconv.Itoa(p.Line)
		pad := strings.Repeat(" ", len(number))
		fmt.Fprintf(&b, "\n  %s | %s\n  %s | %s%s", number, p.Source, pad, caretPad(p.Source, p.Column), strings.Repeat("^", max(p.Width, 1)))
	}
	if p.Fix != "" {
		fmt.Fprintf(&b, "\n  fix: %s", p.Fix)
	}
	return b.String()
}

// caretPad keeps tabs so that the caret stays under its character.
func caretPad(line string, column int) string {
	var b strings.Builder
	for i, r := range []rune(line) {
		if i >= column-1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Report collects problems, so that all of them can be shown at once. The zero
// value is ready.
type Report struct {
	problems []Problem
}

// Add appends a problem, unless the same one is there already.
func (r *Report) Add(p Problem) {
	same := func(q Problem) bool { return q.Position == p.Position && q.Code == p.Code && q.Message == p.Message }
	if !slices.ContainsFunc(r.problems, same) {
		r.problems = append(r.problems, p)
	}
}

// Errorf adds an error at n. Fix may be empty.
func (r *Report) Errorf(n Node, code, fix, format string, args ...any) {
	r.Add(n.problem(code, fix, fmt.Sprintf(format, args...)))
}

// Warnf adds a warning at n.
func (r *Report) Warnf(n Node, code, fix, format string, args ...any) {
	p := n.problem(code, fix, fmt.Sprintf(format, args...))
	p.Severity = Warning
	r.Add(p)
}

// Problems returns what was collected, ordered by file, line and column.
func (r *Report) Problems() []Problem {
	out := slices.Clone(r.problems)
	for i := range out {
		if out[i].file != nil {
			out[i].Source = out[i].file.line(out[i].Line)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return out
}

// Failed reports whether there is an error among the problems.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool { return p.Severity == Error })
}
