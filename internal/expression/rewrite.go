package expression

import (
	"github.com/expr-lang/expr/ast"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

// Names of the functions that the rewriter puts in. The guard keeps users from
// calling them.
const (
	fnGet    = "__get"
	fnHeader = "__header"
	fnAll    = "__all"
	fnProp   = "__property"
	fnNow    = "__now"
	fnTick   = "__tick"
	fnNeg    = "__neg"
	fnExact  = "__exact"
	fnAdd    = "__add"
	fnCost   = "__cost"
)

// rewriter turns what the language calls by name into calls that read the message
// through Env: payload paths become slots, headers and properties become look-ups,
// arithmetic becomes checked, and every body of a closure counts its runs.
type rewriter struct {
	c       *compilation
	program *Program
	calls   map[ast.Node]pending
	exact   bool
}

// pending is a read that a longer path may still swallow.
type pending struct {
	root     string
	path     jsonscan.Path
	optional []bool
}

// Visit implements ast.Visitor. Children come before their parents.
func (w *rewriter) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		w.identifier(node, n)
	case *ast.MemberNode:
		w.member(node, n)
	case *ast.BinaryNode:
		w.binary(node, n)
	case *ast.UnaryNode:
		if n.Operator == "-" && !isNumber(n.Node) {
			w.replace(node, fnNeg, n.Node)
		}
	case *ast.PredicateNode:
		n.Node = w.call(fnTick, &ast.IdentifierNode{Value: "$env"}, n.Node)
	case *ast.BuiltinNode:
		w.builtin(node, n)
	case *ast.CallNode:
		w.decimal(n)
	}
}

func (w *rewriter) call(name string, args ...ast.Node) *ast.CallNode {
	return &ast.CallNode{Callee: &ast.IdentifierNode{Value: name}, Arguments: args}
}

func (w *rewriter) replace(node *ast.Node, name string, args ...ast.Node) *ast.CallNode {
	call := w.call(name, args...)
	ast.Patch(node, call)
	return call
}

// read registers a read and replaces node by it. Shorter reads that the node
// contained are forgotten, because the longer path is all that is looked at.
func (w *rewriter) read(node *ast.Node, p pending) {
	if w.calls == nil {
		w.calls = map[ast.Node]pending{}
	}
	var call *ast.CallNode
	env := &ast.IdentifierNode{Value: "$env"}
	switch {
	case p.root == rootPayload:
		call = w.replace(node, fnGet, env, &ast.IntegerNode{Value: w.addRead(p)})
	case len(p.path) == 0:
		w.addRead(p)
		call = w.replace(node, fnAll, env, &ast.StringNode{Value: p.root})
	case p.root == rootHeaders:
		w.addRead(p)
		call = w.replace(node, fnHeader, env, &ast.StringNode{Value: p.path[0].Name})
	default:
		w.addRead(p)
		call = w.replace(node, fnProp, env, &ast.StringNode{Value: p.path[0].Name})
	}
	w.calls[call] = p
}

func (w *rewriter) addRead(p pending) int {
	r := Read{Root: p.root, optional: p.optional}
	if p.root == rootPayload {
		r.Path = p.path
		for i := range len(p.path) + 1 {
			r.slots = append(r.slots, w.c.scope.Paths.Add(p.path[:i]))
		}
		r.Slot = r.slots[len(p.path)]
	} else if len(p.path) > 0 {
		r.Name = p.path[0].Name
	}
	w.program.reads = append(w.program.reads, r)
	return len(w.program.reads) - 1
}

func (w *rewriter) forget(p pending) {
	for i := len(w.program.reads) - 1; i >= 0; i-- {
		r := &w.program.reads[i]
		if r.Root == p.root && len(r.Path) == len(p.path) && i == len(w.program.reads)-1 {
			w.program.reads = w.program.reads[:i]
			return
		}
	}
}

func (w *rewriter) identifier(node *ast.Node, n *ast.IdentifierNode) {
	switch n.Value {
	case rootPayload, rootHeaders, rootMessage:
		w.read(node, pending{root: n.Value})
	}
}

func (w *rewriter) member(node *ast.Node, n *ast.MemberNode) {
	inner := n.Node
	if c, ok := inner.(*ast.ChainNode); ok {
		inner = c.Node
	}
	p, ok := w.calls[inner]
	if !ok {
		return
	}
	elem, ok := element(n.Property)
	if !ok {
		if p.root == rootHeaders && len(p.path) == 0 {
			w.replace(node, fnHeader, &ast.IdentifierNode{Value: "$env"}, n.Property)
		}
		return
	}
	if p.root != rootPayload && (len(p.path) > 0 || elem.Kind != jsonscan.Member) {
		return
	}
	w.forget(p)
	w.read(node, pending{
		root:     p.root,
		path:     append(append(jsonscan.Path{}, p.path...), elem),
		optional: append(append([]bool{}, p.optional...), n.Optional),
	})
}

func isNumber(n ast.Node) bool {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return true
	default:
		return false
	}
}

func (w *rewriter) binary(node *ast.Node, n *ast.BinaryNode) {
	switch n.Operator {
	case "+":
		w.replace(node, fnAdd, &ast.IdentifierNode{Value: "$env"}, n.Left, n.Right)
	case "-", "*", "/", "%", "**", "^":
		w.replace(node, arithmeticName(n.Operator), n.Left, n.Right)
	case "==", "!=", "<", "<=", ">", ">=":
		if w.exact {
			w.replace(node, compareName(n.Operator), n.Left, n.Right)
		}
	}
}

func arithmeticName(op string) string {
	switch op {
	case "-":
		return "__sub"
	case "*":
		return "__mul"
	case "/":
		return "__div"
	case "%":
		return "__mod"
	default:
		return "__pow"
	}
}

func compareName(op string) string {
	switch op {
	case "==":
		return "__eq"
	case "!=":
		return "__ne"
	case "<":
		return "__lt"
	case "<=":
		return "__le"
	case ">":
		return "__gt"
	default:
		return "__ge"
	}
}

// builtin replaces functions of the engine whose results depend on the clock or on
// map order, that may grow text without bound, or that lose digits.
func (w *rewriter) builtin(node *ast.Node, n *ast.BuiltinNode) {
	switch n.Name {
	case "now":
		w.replace(node, fnNow, &ast.IdentifierNode{Value: "$env"})
	case "sum":
		if len(n.Arguments) == 2 {
			n.Arguments = []ast.Node{&ast.BuiltinNode{Name: "map", Arguments: n.Arguments}}
		}
		w.safe(node, n)
	case "round":
		w.exact = true
		w.safe(node, n)
	case "keys", "values", "toPairs", "int", "float", "string", "toJSON", "fromJSON", "replace", "join", "repeat", "abs":
		w.safe(node, n)
	case "uniq", "sort", "reverse", "flatten", "concat", "mean", "median", "min", "max", "first", "last", "take",
		"upper", "lower", "trim", "trimPrefix", "trimSuffix", "split", "splitAfter", "indexOf", "lastIndexOf", "hasPrefix", "hasSuffix",
		"toBase64", "fromBase64", "fromPairs", "len":
		if len(n.Arguments) > 0 {
			n.Arguments[0] = w.call(fnCost, &ast.IdentifierNode{Value: "$env"}, n.Arguments[0], &ast.BoolNode{Value: n.Name == "uniq"})
		}
	}
}

// safe puts our function in the place of the engine's.
func (w *rewriter) safe(node *ast.Node, n *ast.BuiltinNode) {
	w.replace(node, "__"+n.Name, append([]ast.Node{&ast.IdentifierNode{Value: "$env"}}, n.Arguments...)...)
}

// decimal(payload.x) reads the digits as they stand in the document instead of a
// rounded float.
func (w *rewriter) decimal(n *ast.CallNode) {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || callee.Value != "decimal" || len(n.Arguments) != 1 {
		return
	}
	w.exact = true
	arg := n.Arguments[0]
	if c, isChain := arg.(*ast.ChainNode); isChain {
		arg = c.Node
	}
	if p, isRead := w.calls[arg]; isRead && p.root == rootPayload {
		get, isCall := arg.(*ast.CallNode)
		if isCall {
			n.Arguments[0] = w.call(fnExact, get.Arguments...)
		}
	}
}

// literalPrefix returns the text that every result of the program starts with.
func literalPrefix(n ast.Node) string {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value
	case *ast.CallNode:
		if callee, ok := x.Callee.(*ast.IdentifierNode); ok && callee.Value == fnAdd {
			return literalPrefix(x.Arguments[1])
		}
	default:
	}
	return ""
}

// plain reports whether the program is one payload read and nothing else.
func (w *rewriter) plain(root ast.Node) bool {
	if c, ok := root.(*ast.ChainNode); ok {
		root = c.Node
	}
	p, ok := w.calls[root]
	return ok && p.root == rootPayload
}
