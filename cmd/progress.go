package cmd

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// progressEvery is how often a line about what goes on is renewed.
const progressEvery = 200 * time.Millisecond

// progress renews a line on a terminal until the returned function is called, which
// removes it. On anything else it does nothing.
func progress(ctx context.Context, w io.Writer, text func() string) (end func()) {
	if !isTerminal(w) {
		return func() {}
	}
	g := run.NewGroup(ctx)
	g.Go("progress", func(ctx context.Context) error {
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
				fmt.Fprint(w, "\r\x1b[K"+text())
			}
		}
	})
	return func() {
		g.Stop()
		_ = g.Wait()
		fmt.Fprint(w, "\r\x1b[K")
	}
}

// spin says for how long something has been going on.
func spin(ctx context.Context, w io.Writer, what string) (end func()) {
	start := time.Now()
	return progress(ctx, w, func() string {
		return fmt.Sprintf("%s: %d s", what, int(time.Since(start).Seconds()))
	})
}
