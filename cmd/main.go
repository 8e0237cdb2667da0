// Package cmd is the command line of linkspan, a multi-protocol integration bridge: it
// receives messages, keeps them on disk, filters, changes, masks and routes them by YAML
// pipelines, and hands them on.
//
// It is a library, so that a Go program can be linkspan with connectors of its own:
//
//	func main() { os.Exit(cmd.Main(watermill.Of("nats", subscriber, publisher))) }
package cmd

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/linkspan/linkspan/connectors"
	connectorsall "github.com/linkspan/linkspan/connectors/all"
)

// Main runs the command line of this process and returns its exit code. The pipelines
// may use the extra connectors as they use those that linkspan is built with; the names
// must differ.
func Main(extra ...connectors.Spec) int {
	start := time.Now()
	specs, err := withExtra(extra)
	if err != nil {
		fmt.Fprintln(os.Stderr, "linkspan: "+err.Error())
		return exitUsage
	}
	ctx, stop := signals()
	defer stop()
	return execute(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, start: start, specs: specs})
}

// withExtra returns all connectors, ordered by name.
func withExtra(extra []connectors.Spec) ([]connectors.Spec, error) {
	specs := append(connectorsall.Specs(), extra...)
	slices.SortStableFunc(specs, func(a, b connectors.Spec) int { return strings.Compare(a.Name, b.Name) })
	for i, s := range specs {
		if !isName(s.Name) {
			return nil, fmt.Errorf("%q is not the name of a connector; use lower-case letters, digits and _, beginning with a letter", s.Name)
		}
		if i > 0 && specs[i-1].Name == s.Name {
			return nil, fmt.Errorf("there are two connectors %q; give one another name", s.Name)
		}
	}
	return specs, nil
}

// isName reports whether s can be a key in YAML and a word on the command line.
func isName(s string) bool {
	for i := range len(s) {
		letter, other := s[i] >= 'a' && s[i] <= 'z', s[i] >= '0' && s[i] <= '9' || s[i] == '_'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return s != ""
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
