// Package transform is what a step provides to a pipeline, and what it is lent.
//
// A step changes the messages of a batch in place. A message that a step cannot
// handle is failed, never passed on: the pipeline dead-letters it with the original
// bytes. Failing one message does not touch the others. Steps see the payload
// through jsonscan.Doc: they read the fields that they named when they were
// compiled, and their edits are spliced into the bytes once, at the end.
package transform

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/schemas"
)

// Step changes a batch. Apply is called by one lane at a time for a batch, and
// concurrently for different batches, so a Step holds no state of a message. What
// goes wrong is told to the item that it goes wrong for.
type Step interface {
	Apply(ctx context.Context, b *Batch)
}

// Batch is what steps work on.
type Batch struct {
	// Items are the messages. Steps skip those that are not live.
	Items []*Item

	env expression.Env
}

// Item is one message on its way through the steps.
type Item struct {
	// Message is the working copy: steps may change its headers and properties. Its
	// payload is changed through Doc.
	Message message.Message
	// Doc is the view on the payload.
	Doc jsonscan.Doc

	reason  *message.Reason
	dropped string
	written []string
}

// Reset points the item at a message with the paths of a plan.
func (it *Item) Reset(m *message.Message, set *jsonscan.Set) {
	it.Message = *m
	it.Doc.Reset(set, m.Payload)
	it.reason, it.dropped, it.written = nil, "", it.written[:0]
}

// SetHeader writes a header, or removes it when v is null. What a step writes leaves
// through every sink that carries headers; what the sender wrote does not.
func (it *Item) SetHeader(name string, v message.Value) {
	// The list may still belong to the queue's record.
	headers := append(make(message.Headers, 0, len(it.Message.Headers)+1), it.Message.Headers...)
	if v.Kind() == message.KindNull {
		headers.Del(name)
	} else {
		headers.Set(name, v)
	}
	it.Message.Headers = headers
	if !slices.Contains(it.written, name) {
		it.written = append(it.written, name)
	}
}

// Written returns the headers that steps have written on the message.
func (it *Item) Written() []string { return it.written }

// Inherit makes the item count headers as written that were written on its way here.
func (it *Item) Inherit(written []string) { it.written = append(it.written[:0], written...) }

// Live reports whether the message is neither failed nor dropped.
func (it *Item) Live() bool { return it.reason == nil && it.dropped == "" }

// Fail ends the message's way with a reason. The first reason stays.
func (it *Item) Fail(r *message.Reason) {
	if it.reason == nil {
		it.reason = r
	}
}

// Drop lets the message go. By is the step that decided.
func (it *Item) Drop(by string) {
	if it.Live() {
		it.dropped = by
	}
}

// Failed returns why the message failed, or nil.
func (it *Item) Failed() *message.Reason { return it.reason }

// Dropped returns the step that dropped the message, or "".
func (it *Item) Dropped() string { return it.dropped }

// Payload returns the payload with the edits applied. Opaque payloads come back as
// they are.
func (it *Item) Payload() []byte {
	if !it.Doc.Changed() {
		return it.Message.Payload
	}
	return it.Doc.Bytes()
}

// Env returns the environment of expressions for one item. It is valid until the
// next call.
func (b *Batch) Env(it *Item) *expression.Env {
	b.env.Message, b.env.Doc = &it.Message, &it.Doc
	return &b.env
}

// Where is the place of a step in the YAML, for reasons.
type Where struct {
	// Step names the step: "steps[2] mask".
	Step string
	File string
	Line int
}

// Reason makes a reason of a step for a message. Format must not include data.
func (w Where) Reason(code, format string, args ...any) *message.Reason {
	return &message.Reason{Code: code, Step: w.Step, File: w.File, Line: w.Line, Text: fmt.Sprintf(format, args...), Permanent: true}
}

// AsReason returns err as a reason of this step.
func (w Where) AsReason(err error) *message.Reason {
	if r, ok := err.(*message.Reason); ok { //nolint:errorlint // made by us, never wrapped
		return r
	}
	if code, ok := jsonscan.IsSyntax(err); ok {
		return w.Reason(code, "%s", err)
	}
	return w.Reason("LS2200", "the step could not be applied")
}

// Spec describes a step: one value per verb, collected in transform/all.
type Spec struct {
	// Name is the verb in YAML: keep, set, mask.
	Name string
	// Compile turns the YAML value into a Step. Problems go to the compiler's report,
	// and the Step is nil then. It has no side effects.
	Compile func(n config.Node, c *Compiler) Step
}

// Compiler is what a step is lent while it is compiled. It follows the type of the
// payload from step to step.
type Compiler struct {
	Report *config.Report
	Scope  expression.Scope
	Where  Where
	// Keys gives the keys of keyed masks.
	Keys *keys.Source
	// Schemas are the schemas that the file names.
	Schemas map[string]*schemas.Schema
	// Payload is set when a step reads or writes the payload, which makes the lane
	// scan it.
	Payload bool
}

// Expression compiles an expression of the step.
func (c *Compiler) Expression(n config.Node, want expression.Want) *expression.Program {
	var e config.Expr
	before := len(c.Report.Problems())
	e.DecodeConfig(n, c.Report)
	if len(c.Report.Problems()) > before {
		return nil
	}
	p := expression.Compile(e, want, c.Scope, c.Where.Step, c.Report)
	if p != nil && p.ReadsPayload() {
		c.Payload = true
	}
	return p
}

// Target is what a step writes: a field of the payload or a header.
type Target struct {
	// Header is the header's name. Empty: a field of the payload.
	Header string
	// Path is the field, and Slot its place in the path set.
	Path jsonscan.Path
	Slot int
}

// Overlaps reports whether writing one target may change what the other names.
func (t Target) Overlaps(o Target) bool {
	if t.Header != "" || o.Header != "" {
		return t.Header == o.Header
	}
	return t.Path.Overlaps(o.Path)
}

// Target reads a key such as payload.a.b, payload["x-y"][0] or headers.x-y.
func (c *Compiler) Target(n config.Node, text string) (Target, bool) {
	root, rest := splitRoot(text)
	switch root {
	case "headers":
		if strings.HasPrefix(rest, reserved) || strings.HasPrefix(rest, `["`+reserved) {
			c.Report.Errorf(n, "LS1301", "choose another name", "headers that start with %s are linkspan's own", reserved)
			return Target{}, false
		}
		if name, ok := headerName(rest); ok {
			return Target{Header: name}, true
		}
		c.Report.Errorf(n, "LS1301", "write headers.NAME or headers[\"NAME\"]", "%q does not name a header", text)
		return Target{}, false
	case "payload":
		path, err := jsonscan.ParsePath(rest)
		if err != nil || len(path) == 0 {
			c.Report.Errorf(n, "LS1301", "write payload.a.b, payload[\"a-b\"] or payload.list[*].a", "%q does not name a field of the payload", text)
			return Target{}, false
		}
		c.Payload = true
		return Target{Path: path, Slot: c.Scope.Paths.Add(path)}, true
	default:
		c.Report.Errorf(n, "LS1301", config.Suggest(root, []string{"payload", "headers"}), "%q must start with payload. or headers.", text)
		return Target{}, false
	}
}

// reserved is the prefix of headers that linkspan itself writes.
const reserved = "linkspan."

func splitRoot(text string) (root, rest string) {
	for i := range len(text) {
		switch text[i] {
		case '.':
			return text[:i], text[i+1:]
		case '[':
			return text[:i], text[i:]
		}
	}
	return text, ""
}

func headerName(rest string) (string, bool) {
	if len(rest) > 4 && rest[0] == '[' {
		path, err := jsonscan.ParsePath(rest)
		if err != nil || len(path) != 1 || path[0].Kind != jsonscan.Member {
			return "", false
		}
		return path[0].Name, true
	}
	return rest, rest != "" && !strings.ContainsAny(rest, "[]\"' \r\n\x00")
}

// Declare tells the steps behind this one that a field exists with a type.
func (c *Compiler) Declare(path jsonscan.Path, t *schemas.Type) {
	if c.Scope.Payload != nil {
		c.Scope.Payload = c.Scope.Payload.Extend(path, t)
	}
}

// Forget tells the steps behind this one that a field is gone.
func (c *Compiler) Forget(path jsonscan.Path) {
	c.Scope.Payload = c.Scope.Payload.Without(path)
}
