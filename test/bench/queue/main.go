// Command queue measures the journal engine against Pebble and against the disk, and
// prints one table with the targets and whether they were met.
//
//	go run ./queue            about 6 minutes
//	go run ./queue -short     under a minute
//
// The engines are measured in turn, round after round, each time in an empty
// directory; a figure is the median of the rounds, with the lowest and the highest. A
// ratio is that of two figures of the same round. Messages are 1 KiB and do not
// compress. Bytes written are wchar of /proc/self/io, so it needs Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // this is main
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func command(ctx context.Context, args []string, in io.Reader, out, progress io.Writer) error {
	flags := flag.NewFlagSet("queue", flag.ContinueOnError)
	flags.SetOutput(progress)
	short := flags.Bool("short", false, "one short round and a tenth of the backlog")
	n := flags.Int("backlog", 2_000_000, "messages of the backlog")
	dir := flags.String("dir", "", "where to put the data; the default is a new directory in TMPDIR")
	role := flags.String("role", "", "for the processes that this one starts")
	engine := flags.String("engine", "", "for the processes that this one starts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *role != "" {
		return play(ctx, *role, *engine, *dir, *n, in, out)
	}
	p := fullPlan(*n)
	if *short {
		p = shortPlan(*n / 10)
	}
	return measure(ctx, *dir, p, out, progress)
}

// play runs one of the child processes.
func play(ctx context.Context, role, engine, dir string, n int, in io.Reader, out io.Writer) error {
	i := slices.IndexFunc(variants(), func(v variant) bool { return v.name == engine })
	switch {
	case i < 0:
		return fmt.Errorf("there is no engine %q", engine)
	case role == "load":
		return load(ctx, variants()[i], dir, n, in, out)
	case role == "drain":
		return drain(ctx, variants()[i], dir, n, out)
	}
	return fmt.Errorf("there is no role %q", role)
}

func measure(ctx context.Context, parent string, p plan, out, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp(parent, "linkspan-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	start := time.Now()
	b := &bench{dir: dir, plan: p, variants: variants(), pool: newPool(), results: results{}, progress: progress}
	if err := b.run(ctx); err != nil {
		return err
	}
	b.say("took %v", time.Since(start).Round(time.Second))
	return b.results.write(out, rows(p.backlog, variants()), variants())
}
