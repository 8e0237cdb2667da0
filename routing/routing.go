// Package routing decides where each message goes: a content-based router with
// first match, and a recipient list. Every message has a destination, because a
// route ends with else; a message that a rule cannot be computed for is failed.
package routing

import (
	"slices"
	"strings"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/message"
)

// DeadLetter is the name of the reserved destination for messages that must be
// looked at.
const DeadLetter = "dead_letter"

// Reply is the name of the reserved sink that answers the request a message came from,
// or replies to by its correlation id.
const Reply = "reply"

// Destination is where a rule sends messages: to sinks, to the dead letters, or
// nowhere for a stated reason.
type Destination struct {
	// Sinks are indexes into the names given to Compile.
	Sinks []int
	// DeadLetter: keep the original for a person to look at.
	DeadLetter bool
	// Drop is the stated reason for letting the message go.
	Drop string
	// Rule names the rule that decided: "route[1]".
	Rule string
	// File and Line are its place.
	File string
	Line int
}

// Table is a compiled route. It is immutable.
type Table struct {
	rules []rule
	last  Destination
}

type rule struct {
	when *expression.Program
	to   Destination
}

// Compile reads a route. Sinks are the names that it may send to. A zero node means
// that every message goes to the only sink.
func Compile(n, root config.Node, sinks []string, scope expression.Scope, r *config.Report) *Table {
	c := compiler{sinks: sinks, scope: scope, report: r, used: map[string]bool{}}
	if n.IsZero() {
		if len(sinks) == 1 {
			return &Table{last: Destination{Sinks: []int{0}, Rule: "route"}}
		}
		r.Errorf(root, "LS1310", "add route: with rules and a last `- else: …`", "there are %d sinks and no route", len(sinks))
		return nil
	}
	t := c.compile(n)
	for _, s := range sinks {
		if !c.used[s] && t != nil {
			r.Warnf(n, "LS1311", "send something to it, or remove it from out", "no rule sends to the sink %q", s)
		}
	}
	return t
}

type compiler struct {
	sinks  []string
	scope  expression.Scope
	report *config.Report
	used   map[string]bool
}

func (c *compiler) compile(n config.Node) *Table {
	items := n.Items()
	if len(items) == 0 {
		c.report.Errorf(n, "LS1310", "write a list of `- when: … to: …` that ends with `- else: …`", "a route is a list of rules")
		return nil
	}
	t := &Table{}
	good := true
	for i, item := range items {
		last := i == len(items)-1
		if otherwise := item.Get("else"); !otherwise.IsZero() {
			c.onlyKeys(item, "else")
			if !last {
				c.report.Errorf(item, "LS1312", "move it to the end", "else must be the last rule; the rules behind it are never reached")
				good = false
			}
			t.last = c.destination(otherwise)
			continue
		}
		if last {
			c.report.Errorf(item, "LS1312", "add `- else: dead_letter`, `- else: SINK` or `- else: {drop: \"REASON\"}`", "the route must end with else, so that no message is lost without a word")
			good = false
		}
		when := c.rule(item)
		if when == nil {
			good = false
			continue
		}
		t.rules = append(t.rules, rule{when, c.destination(item.Get("to"))})
	}
	if !good {
		return nil
	}
	return t
}

func (c *compiler) onlyKeys(n config.Node, keys ...string) {
	for _, f := range n.Fields() {
		if !slices.Contains(keys, f.Name) {
			c.report.Errorf(f.Key, "LS1104", config.Suggest(f.Name, keys), "unknown key %q", f.Name)
		}
	}
}

func (c *compiler) rule(n config.Node) *expression.Program {
	if !n.IsMapping() {
		c.report.Errorf(n, "LS1310", "write `- when: EXPRESSION` and `to: SINK`", "a rule is a mapping")
		return nil
	}
	c.onlyKeys(n, "when", "to", "else")
	if n.Get("to").IsZero() {
		c.report.Errorf(n, "LS1111", "add `to: SINK`", "the key \"to\" is missing")
	}
	var e config.Expr
	if n.Get("when").IsZero() {
		c.report.Errorf(n, "LS1111", "add `when: EXPRESSION`", "the key \"when\" is missing")
		return nil
	}
	e.DecodeConfig(n.Get("when"), c.report)
	if e.IsZero() {
		return nil
	}
	return expression.Compile(e, expression.Condition, c.scope, n.Path(), c.report)
}

func (c *compiler) destination(n config.Node) Destination {
	at := n.Position()
	d := Destination{Rule: n.Path(), File: at.File, Line: at.Line}
	switch {
	case n.IsZero():
	case n.IsMapping():
		c.onlyKeys(n, "drop")
		reason := n.Get("drop")
		if !reason.IsScalar() || reason.IsNull() || strings.TrimSpace(reason.Text()) == "" {
			c.report.Errorf(n, "LS1313", "write {drop: \"REASON\"}", "a drop needs a reason")
			return d
		}
		d.Drop = reason.Text()
	case n.IsSequence():
		if len(n.Items()) == 0 {
			c.report.Errorf(n, "LS1313", "name a sink, or write {drop: \"REASON\"}", "the list of sinks is empty")
		}
		for _, item := range n.Items() {
			c.sink(item, &d)
		}
	default:
		c.sink(n, &d)
	}
	return d
}

func (c *compiler) sink(n config.Node, d *Destination) {
	name := n.Text()
	c.used[name] = true
	if name == DeadLetter {
		d.DeadLetter = true
		return
	}
	i := slices.Index(c.sinks, name)
	switch {
	case i < 0:
		c.report.Errorf(n, "LS1313", config.Suggest(name, append(slices.Clone(c.sinks), DeadLetter)), "there is no sink %q in out", name)
	case slices.Contains(d.Sinks, i):
		c.report.Errorf(n, "LS1313", "remove one of them", "the sink %q is there twice", name)
	default:
		d.Sinks = append(d.Sinks, i)
	}
}

// ReadsPayload reports whether a rule looks into the payload.
func (t *Table) ReadsPayload() bool {
	return slices.ContainsFunc(t.rules, func(r rule) bool { return r.when.ReadsPayload() })
}

// Route returns the destination of the message in env. The error is a reason.
func (t *Table) Route(env *expression.Env) (*Destination, error) {
	for i := range t.rules {
		matched, err := t.rules[i].when.Match(env)
		if err != nil {
			return nil, err
		}
		if matched {
			return &t.rules[i].to, nil
		}
	}
	return &t.last, nil
}

// Reason says why a rule dead-letters a message.
func (d *Destination) Reason() *message.Reason {
	return &message.Reason{Code: "LS2501", Step: d.Rule, File: d.File, Line: d.Line, Text: "a route sends the message to the dead letters", Permanent: true}
}
