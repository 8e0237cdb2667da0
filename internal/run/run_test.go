package run_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/internal/run"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The first error ends the others, and Wait returns it after all have returned.
func TestGroup(t *testing.T) {
	first := errors.New("first")
	g := run.NewGroup(t.Context())
	ended := false
	g.Go("waits", func(ctx context.Context) error {
		<-ctx.Done()
		ended = true
		return errors.New("second")
	})
	g.Go("fails", func(context.Context) error { return first })
	if err := g.Wait(); !errors.Is(err, first) || !ended {
		t.Errorf("%v, the other ended: %v", err, ended)
	}
}

// A panic becomes an error whose text does not quote the panic's value.
func TestPanic(t *testing.T) {
	g := run.NewGroup(t.Context())
	g.Go("lane", func(context.Context) error { panic("078-05-1120") })
	err := g.Wait()
	p, ok := errors.AsType[*run.PanicError](err)
	if !ok || len(p.Stack) == 0 || strings.Contains(err.Error(), "1120") {
		t.Errorf("%v", err)
	}
}
