// Package filter lets messages pass or go: keep and drop. A message that a condition
// cannot be computed for is failed, so it neither passes nor vanishes.
package filter

import (
	"context"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/transform"
)

// Keep describes the step that drops every message that does not match.
func Keep() transform.Spec { return spec("keep", false) }

// Drop describes the step that drops every message that matches.
func Drop() transform.Spec { return spec("drop", true) }

func spec(name string, drops bool) transform.Spec {
	return transform.Spec{Name: name, Compile: func(n config.Node, c *transform.Compiler) transform.Step {
		p := c.Expression(n, expression.Condition)
		if p == nil {
			return nil
		}
		return &step{condition: p, drops: drops, where: c.Where}
	}}
}

type step struct {
	condition *expression.Program
	drops     bool
	where     transform.Where
}

// Apply implements transform.Step.
func (s *step) Apply(_ context.Context, b *transform.Batch) {
	for _, it := range b.Items {
		if !it.Live() {
			continue
		}
		matched, err := s.condition.Match(b.Env(it))
		switch {
		case err != nil:
			it.Fail(s.where.AsReason(err))
		case matched == s.drops:
			it.Drop(s.where.Step)
		}
	}
}
