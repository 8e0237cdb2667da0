// Package validate checks payloads against a JSON Schema. A message that does not
// fit is failed; the reason names the place and the rule, never the value.
package validate

import (
	"context"
	"errors"
	"slices"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
)

// Spec describes the validate step: `validate: NAME`, with NAME from schemas.
func Spec() transform.Spec { return transform.Spec{Name: "validate", Compile: compile} }

func compile(n config.Node, c *transform.Compiler) transform.Step {
	name := n.Text()
	s, ok := c.Schemas[name]
	if !ok {
		var known []string
		for k := range c.Schemas {
			known = append(known, k)
		}
		slices.Sort(known)
		fix := config.Suggest(name, known)
		if len(known) == 0 {
			fix = "add schemas: {" + name + ": schemas/FILE.json} to the pipeline"
		}
		c.Report.Errorf(n, "LS1306", fix, "there is no schema %q", name)
		return nil
	}
	return New(s, c)
}

// New returns the step that validates against a schema. What follows it may rely on
// the schema's types.
func New(s *schemas.Schema, c *transform.Compiler) transform.Step {
	c.Payload = true
	if s != nil && c.Scope.Payload == nil {
		c.Scope.Payload = s.Type()
	}
	return &step{schema: s, where: c.Where}
}

type step struct {
	schema *schemas.Schema
	where  transform.Where
}

// Code is the code of a message that a validator's error refuses: LS2401 when the
// message does not fit, LS2402 when the validator itself failed.
func Code(err error) string {
	if _, ok := errors.AsType[*schemas.Fault](err); ok {
		return "LS2402"
	}
	return "LS2401"
}

func (s *step) reason(err error) *message.Reason {
	if _, ok := jsonscan.IsSyntax(err); ok {
		return s.where.AsReason(err)
	}
	return s.where.Reason(Code(err), "%s", err)
}

// Apply implements transform.Step.
func (s *step) Apply(_ context.Context, b *transform.Batch) {
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		if err := s.schema.Validate(it.Payload()); err != nil {
			it.Fail(s.reason(err))
		}
	}
}
