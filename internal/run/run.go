// Package run is the only place in linkspan that starts goroutines. Whoever
// starts one owns it through a Group and waits for it, so that nothing outlives the
// call that made it.
package run

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Group is a set of goroutines with one owner. The first error cancels the context
// of all. A panic in one is turned into an error and does not end the process.
type Group struct {
	ctx    context.Context //nolint:containedctx // a Group is a context with its goroutines
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error
}

// NewGroup returns a Group whose goroutines run under ctx.
func NewGroup(ctx context.Context) *Group {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: ctx, cancel: cancel}
}

// Go starts f. The name says what it is for, in errors and panics.
func (g *Group) Go(name string, f func(ctx context.Context) error) {
	g.wg.Go(func() {
		if err := Protect(name, func() error { return f(g.ctx) }); err != nil {
			g.once.Do(func() {
				g.err = err
				g.cancel(err)
			})
		}
	})
}

// Stop cancels the context of all goroutines.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Context returns the context that the goroutines run under.
func (g *Group) Context() context.Context { return g.ctx }

// Wait blocks until every goroutine has returned, and returns the first error.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel(context.Canceled)
	return g.err
}

// Pause waits for d. It returns false when ctx ended first.
func Pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// PanicError is a panic that was caught. Its text names the place, not the value,
// because the value may quote data.
type PanicError struct {
	// Name is what the goroutine was for.
	Name string
	// Stack is the trace at the panic, for the log.
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string { return fmt.Sprintf("%s: internal error (panic)", e.Name) }

// Protect calls f and returns its error, or a *PanicError when it panicked.
func Protect(name string, f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = &PanicError{Name: name, Stack: debug.Stack()}
		}
	}()
	return f()
}
