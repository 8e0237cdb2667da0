package expression

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr/file"

	"github.com/linkspan/linkspan/message"
)

// runtimeError turns an error of the engine into a reason. The engine's texts quote
// the values that they choked on, so only their class and place are kept.
func (p *Program) runtimeError(err error) error {
	if own, ok := errors.AsType[*failure](err); ok {
		return p.reason(own)
	}
	f := &failure{code: "LS2201", text: "the expression could not be computed"}
	if fe, ok := errors.AsType[*file.Error](err); ok {
		f = classify(fe.Message)
		f.text += fmt.Sprintf(", at character %d", fe.From+1)
	}
	return p.reason(f)
}

func classify(text string) *failure {
	switch {
	case strings.HasPrefix(text, "cannot fetch"):
		return &failure{code: "LS2202", text: "a field is absent, null or of another shape"}
	case strings.Contains(text, "out of range"):
		return &failure{code: "LS2203", text: "a list has fewer elements"}
	case strings.Contains(text, "memory budget"):
		return errTooBig().(*failure) //nolint:errorlint,forcetypeassert // made here
	case strings.Contains(text, "divide by zero"):
		return errDivision().(*failure) //nolint:errorlint,forcetypeassert // made here
	case strings.HasPrefix(text, "invalid operation"), strings.Contains(text, "interface conversion"), strings.HasPrefix(text, "invalid argument"):
		return &failure{code: "LS2205", text: "the types do not fit"}
	default:
		return &failure{code: "LS2201", text: "the expression could not be computed"}
	}
}

func (p *Program) reason(err error) error {
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{code: "LS2201", text: "the expression could not be computed"}
	}
	return &message.Reason{
		Code: f.code, Text: f.text, Permanent: true,
		Step: p.where.Step, File: p.where.File, Line: p.where.Line,
	}
}
