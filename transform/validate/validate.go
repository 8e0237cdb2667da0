// Package validate checks payloads against a JSON Schema. A message that does not
// fit is failed; the reason names the place and the rule, never the value.
package validate

import (
	"context"
	"errors"
	"slices"

	"github.com/linkspan/linkspan/internal/config"
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

// Apply implements transform.Step.
func (s *step) Apply(_ context.Context, b *transform.Batch) error {
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		err := s.schema.Validate(it.Payload())
		var invalid *schemas.Invalid
		switch {
		case err == nil:
		case errors.As(err, &invalid):
			it.Fail(s.where.Reason("LS2401", "%s", invalid))
		default:
			it.Fail(s.where.AsReason(err))
		}
	}
	return nil
}
