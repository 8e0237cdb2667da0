// Package all lists the steps. A new step is one folder and one line here.
package all

import (
	"github.com/linkspan/linkspan/transform"
	"github.com/linkspan/linkspan/transform/filter"
	"github.com/linkspan/linkspan/transform/mask"
	"github.com/linkspan/linkspan/transform/set"
	"github.com/linkspan/linkspan/transform/validate"
)

// Specs returns every step.
func Specs() []transform.Spec {
	return []transform.Spec{
		filter.Keep(), filter.Drop(), set.Set(), set.Unset(), mask.Spec(), validate.Spec(),
	}
}
