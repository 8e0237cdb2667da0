package expression

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/types"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/schemas"
)

// Bounds that hold before and while an expression is compiled. The parser and the
// compiler of the engine recurse, so nesting is bounded before they see the text.
const (
	maxSource  = 16 << 10
	maxNesting = 100
	maxNodes   = 2_000
)

const (
	rootPayload = "payload"
	rootHeaders = "headers"
	rootMessage = "message"
)

// Scope is what expressions of one place may see.
type Scope struct {
	// Payload is the type of payload. Nil: not known, everything is allowed.
	Payload *schemas.Type
	// Paths collects the payload paths that are read.
	Paths *jsonscan.Builder
}

// Want is the kind of result that a place needs.
type Want uint8

// The kinds of results.
const (
	// Anything that JSON can carry.
	Anything Want = iota
	// Condition needs true or false.
	Condition
)

// Compile checks and compiles an expression. Problems carry the position in the
// YAML file; the program is nil when there is one.
func Compile(e config.Expr, want Want, scope Scope, step string, r *config.Report) *Program {
	if !bounded(e, r) {
		return nil
	}
	c := &compilation{expr: e, scope: scope, report: r}
	if !c.typecheck(want) {
		return nil
	}
	at := e.Node.Position()
	p := &Program{where: Where{Step: step, File: at.File, Line: at.Line}}
	if err := c.generate(p); err != nil {
		c.problem(err)
		return nil
	}
	return p
}

func bounded(e config.Expr, r *config.Report) bool {
	if strings.TrimSpace(e.Source) == "" {
		r.Errorf(e.Node, "LS1201", "write an expression, such as payload.type == \"order\"", "the expression is empty")
		return false
	}
	if len(e.Source) > maxSource {
		r.Errorf(e.Node, "LS1202", "split it into several steps", "the expression has %d bytes; at most %d are compiled", len(e.Source), maxSource)
		return false
	}
	if depth := nesting(e.Source); depth > maxNesting {
		r.Errorf(e.Node, "LS1202", "split it into several steps", "the expression is nested too deeply; at most %d levels are compiled", maxNesting)
		return false
	}
	return true
}

// nesting is an upper bound of how deep the parser recurses: open brackets outside
// texts, and prefix operators, conditionals and right-associative operators. These
// recurse less deeply than a bracket does, so that eight of them count as one.
func nesting(src string) int {
	depth, deepest, operators := 0, 0, 0
	quote := rune(0)
	escaped := false
	for _, c := range src {
		switch {
		case quote != 0:
			if c == quote && !escaped {
				quote = 0
			}
			escaped = c == '\\' && !escaped && quote != '`'
		case strings.ContainsRune("\"'`", c):
			quote = c
		case strings.ContainsRune("([{", c):
			depth++
		case strings.ContainsRune(")]}", c):
			depth--
		case strings.ContainsRune("!-+?*|", c):
			operators++
		}
		deepest = max(deepest, depth)
	}
	return max(deepest, operators/8)
}

type compilation struct {
	expr   config.Expr
	scope  Scope
	report *config.Report
}

func (c *compilation) typecheck(want Want) bool {
	tree, err := parser.Parse(c.expr.Source)
	if err != nil {
		c.problem(err)
		return false
	}
	guard := &guard{c: c}
	ast.Walk(&tree.Node, guard)
	if guard.failed {
		return false
	}
	options := append(functionOptions(typedFunctions()), expr.Env(c.env()), expr.MaxNodes(maxNodes))
	if want == Condition {
		options = append(options, expr.AsBool())
	}
	if _, err := expr.Compile(c.expr.Source, options...); err != nil {
		c.problem(err)
		return false
	}
	return true
}

func (c *compilation) env() types.Map {
	payload := types.Type(types.Any)
	if c.scope.Payload != nil {
		payload = exprType(c.scope.Payload)
	}
	return types.Map{
		rootPayload: payload,
		rootHeaders: types.Map{types.Extra: types.Any},
		rootMessage: messageType(),
	}
}

func (c *compilation) generate(p *Program) error {
	rewrite := &rewriter{c: c, program: p}
	options := append(functionOptions(runtimeFunctions(p)),
		expr.Patch(rewrite), expr.MaxNodes(maxNodes*4), expr.AllowUndefinedVariables(), expr.Timezone("UTC"))
	code, err := expr.Compile(c.expr.Source, options...)
	if err != nil {
		return err
	}
	p.code = code
	p.plain = rewrite.plain(code.Node())
	p.prefix = literalPrefix(code.Node())
	p.fast = compileFast(code.Node(), p)
	return nil
}

// problem translates an error of the engine into the coordinates of the YAML file.
func (c *compilation) problem(err error) {
	fix := ""
	if text := err.Error(); c.expr.Node.CutByComment() && (strings.Contains(text, "EOF") || strings.Contains(text, "not terminated")) {
		fix = "YAML ends the value at ` #`; put the whole expression into single quotes"
	}
	var fe *file.Error
	if !errors.As(err, &fe) {
		c.report.Add(c.expr.Node.ProblemAt(0, 1, "LS1201", fix, "the expression is not valid: "+firstLine(err.Error())))
		return
	}
	message := firstLine(fe.Message)
	if fix == "" {
		fix = c.hint(message)
	}
	offset := byteOffset(c.expr.Source, fe.From)
	c.report.Add(c.expr.Node.ProblemAt(offset, max(fe.To-fe.From, 1), "LS1201", fix, "the expression is not valid: "+message))
}

func (c *compilation) hint(message string) string {
	switch {
	case strings.Contains(message, "unknown name"):
		name := strings.TrimPrefix(message, "unknown name ")
		return config.Suggest(name, append([]string{rootPayload, rootHeaders, rootMessage}, builtinNames()...))
	case strings.Contains(message, "unexpected token Operator(\"=\")"):
		return "write == to compare"
	case strings.Contains(message, "EOF"):
		return "the expression ends too early; if YAML cut it, put all of it into single quotes"
	default:
		return ""
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSpace(line)
}

// byteOffset turns the engine's character offset into a byte offset.
func byteOffset(s string, runes int) int {
	for i := range s {
		if runes == 0 {
			return i
		}
		runes--
	}
	return len(s)
}

// guard refuses what the language of linkspan does not have, before types are
// looked at: methods, the environment as a value, and misspelt fields.
type guard struct {
	c      *compilation
	failed bool
}

func (g *guard) fail(n ast.Node, code, fix, format string, args ...any) {
	g.failed = true
	at := n.Location()
	offset := byteOffset(g.c.expr.Source, at.From)
	g.c.report.Add(g.c.expr.Node.ProblemAt(offset, max(at.To-at.From, 1), code, fix, fmt.Sprintf(format, args...)))
}

// Visit implements ast.Visitor.
func (g *guard) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if strings.HasPrefix(n.Value, "$") || strings.HasPrefix(n.Value, "__") {
			g.fail(n, "LS1203", "name payload, headers or message", "the name %s is not available", n.Value)
		}
	case *ast.CallNode:
		if member, ok := n.Callee.(*ast.MemberNode); ok {
			g.fail(member, "LS1203", "use a function: f(x) instead of x.f()", "values have no methods")
		}
	case *ast.BinaryNode:
		g.headerWithDash(n)
	case *ast.MemberNode:
		g.member(n)
	}
}

// headerWithDash catches headers.x-debug, which the language reads as a difference.
func (g *guard) headerWithDash(n *ast.BinaryNode) {
	left, ok := n.Left.(*ast.MemberNode)
	if !ok || n.Operator != "-" {
		return
	}
	root, ok := left.Node.(*ast.IdentifierNode)
	right, okRight := n.Right.(*ast.IdentifierNode)
	prop, okProp := left.Property.(*ast.StringNode)
	if ok && okRight && okProp && root.Value == rootHeaders {
		g.fail(n, "LS1204", fmt.Sprintf("write headers[%q]", prop.Value+"-"+right.Value),
			"a name with `-` must be quoted, else it means a difference")
	}
}

func (g *guard) member(n *ast.MemberNode) {
	root, path, _, ok := chain(n)
	if !ok {
		return
	}
	switch root {
	case rootPayload:
		g.payloadMember(n, path)
	case rootMessage:
		if len(path) == 1 && path[0].Kind == jsonscan.Member && !isProperty(path[0].Name) {
			g.fail(n, "LS1205", config.Suggest(path[0].Name, propertyNames()), "message has no property %q", path[0].Name)
		}
	default:
	}
}

func (g *guard) payloadMember(n *ast.MemberNode, path jsonscan.Path) {
	if unknown, siblings := misspelt(g.c.scope.Payload, path); unknown {
		last := path[len(path)-1]
		g.fail(n.Property, "LS1205", config.Suggest(last.Name, siblings),
			"the schema has no field %q in %s", last.Name, pathName(path[:len(path)-1]))
	}
}

func pathName(p jsonscan.Path) string {
	if len(p) == 0 {
		return rootPayload
	}
	if p[0].Kind == jsonscan.Member {
		return rootPayload + "." + p.String()
	}
	return rootPayload + p.String()
}

// chain reads payload.a.b, payload["a"][0] and the like as a root and a path.
func chain(n ast.Node) (root string, path jsonscan.Path, optional []bool, ok bool) {
	switch x := n.(type) {
	case *ast.IdentifierNode:
		return x.Value, nil, nil, true
	case *ast.ChainNode:
		return chain(x.Node)
	case *ast.MemberNode:
		root, path, optional, ok = chain(x.Node)
		if !ok {
			return "", nil, nil, false
		}
		elem, good := element(x.Property)
		if !good {
			return "", nil, nil, false
		}
		return root, append(path, elem), append(optional, x.Optional), true
	default:
		return "", nil, nil, false
	}
}

func element(n ast.Node) (jsonscan.Elem, bool) {
	switch p := n.(type) {
	case *ast.StringNode:
		return jsonscan.Elem{Kind: jsonscan.Member, Name: p.Value}, true
	case *ast.IntegerNode:
		if p.Value >= 0 {
			return jsonscan.Elem{Kind: jsonscan.Index, Index: p.Value}, true
		}
	default:
	}
	return jsonscan.Elem{}, false
}

func functionOptions(fns []function) []expr.Option {
	options := make([]expr.Option, 0, len(fns))
	for _, f := range fns {
		options = append(options, expr.Function(f.name, f.call, f.types...))
	}
	return options
}

type function struct {
	name  string
	call  func(args ...any) (any, error)
	types []any
}
