// Command linkspan is a multi-protocol integration bridge: it receives messages,
// keeps them on disk, filters, changes, masks and routes them by YAML pipelines, and
// hands them on.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	start := time.Now()
	ctx, stop := signals()
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, start: start}))
}

// signals returns a context that the first SIGTERM or SIGINT ends. The second ends
// the process at once, with the exit code that shells expect.
func signals() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
	watch(ctx, func() {
		if _, ok := <-ch; !ok {
			return
		}
		cancel()
		if s, ok := <-ch; ok {
			os.Exit(128 + int(s.(syscall.Signal))) //nolint:forcetypeassert // Notify sends these
		}
	})
	return ctx, func() {
		signal.Stop(ch)
		close(ch)
		cancel()
	}
}
