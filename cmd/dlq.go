package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/pipelines"
)

// dlqFlags are what the verbs of dlq have in common.
type dlqFlags struct {
	at       location
	pipeline string
	code     string
	format   string
}

func (f *dlqFlags) add(cmd *cobra.Command) {
	f.format = "text"
	f.at.flags(cmd)
	cmd.Flags().StringVar(&f.pipeline, "pipeline", "", "the pipeline; may be left out when there is only one")
	asJSON(cmd, &f.format)
}

func newDLQ(io stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "look at dead letters and decide about them: ls, show, retry, drop",
		Long: `A message that a pipeline cannot handle becomes a dead letter: the original bytes,
the step and the line that refused it, and a stable code. It waits until somebody
decides, or until delivery.dead_letter.keep is over.

ls and show work on a running linkspan and on a stopped directory. retry and drop
change something, so they need the running linkspan; they go through its admin address.`,
		Example: `  linkspan dlq ls
  linkspan dlq show 17 --pipeline orders
  linkspan dlq retry 17 18 --pipeline orders
  linkspan dlq drop --all --code LS2401 --pipeline orders`,
		Args: subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQList(io), newDLQShow(io), newDLQRetry(io), newDLQDrop(io))
	return cmd
}

func newDLQList(io stdio) *cobra.Command {
	var f dlqFlags
	var limit int
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "list dead letters, oldest first",
		Long:    "ls lists dead letters of all pipelines, or of one. With --json, one object a line." + lookExitCodes,
		Example: "  linkspan dlq ls --pipeline orders --code LS2401\n  linkspan dlq ls --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usageError("--limit is a number of entries, 0 for all")
			}
			q := console.DeadLetterQuery{Pipeline: f.pipeline, Code: f.code, Limit: limit}
			return withDirectory(cmd.Context(), &f.at, func(d *directory) error { return listDead(cmd.Context(), d, q, f.format, io) })
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.code, "code", "", "only entries with this code")
	cmd.Flags().IntVar(&limit, "limit", 1000, "how many at most; 0: all")
	return cmd
}

func listDead(ctx context.Context, d *directory, q console.DeadLetterQuery, format string, io stdio) error {
	if format == "json" {
		e := console.NewEncoder(io.out)
		return d.DeadLetters(ctx, q, func(l pipelines.DeadLetter) error { return e.Encode(l) })
	}
	count := 0
	t := newTable(io.out, "PIPELINE", "NUMBER", "TIME", "CODE", "STEP", "REASON", "SOURCE", "SINK", "ATTEMPTS", "SIZE")
	err := d.DeadLetters(ctx, q, func(l pipelines.DeadLetter) error {
		count++
		t.row(l.Pipeline, digits(l.Number), clock(l.Time), l.Code, l.Step, l.Reason, l.Source, l.Sink, digits(l.Attempts), digits(l.Size))
		return nil
	})
	if err != nil && count == 0 {
		return err
	}
	if err = errors.Join(err, t.end()); err == nil && q.Limit > 0 && count == q.Limit {
		fmt.Fprintf(io.err, "%d entries shown; show more with --limit\n", count)
	}
	return err
}

func newDLQShow(io stdio) *cobra.Command {
	var f dlqFlags
	var only bool
	cmd := &cobra.Command{
		Use:   "show NUMBER",
		Short: "print one dead letter with its headers and its original payload",
		Long: `show prints what is known about a dead letter, the headers, and the payload as it was
received. With --payload-only nothing but the payload's bytes is written, for a file
or another program.` + lookExitCodes,
		Example: "  linkspan dlq show 17 --pipeline orders\n  linkspan dlq show 17 --payload-only > message.json",
		Args:    numbers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseNumbers(args)
			if err != nil {
				return err
			}
			return withDirectory(cmd.Context(), &f.at, func(d *directory) error {
				name, err := d.pipelineOf(cmd.Context(), f.pipeline)
				if err != nil {
					return err
				}
				v, err := d.DeadLetter(cmd.Context(), name, number[0])
				if err != nil {
					return err
				}
				return showDead(io.out, &v, only, f.format)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&only, "payload-only", false, "write the payload's bytes and nothing else")
	return cmd
}

func showDead(w io.Writer, v *console.DeadLetterView, only bool, format string) error {
	payload, err := v.Message.Bytes()
	if err != nil {
		return err
	}
	switch {
	case only:
		_, err := w.Write(payload)
		return err
	case format == "json":
		return console.NewEncoder(w).Encode(v)
	}
	if err := showFields(w, v); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := writePayload(w, payload); err != nil {
		return err
	}
	if len(payload) > 0 && payload[len(payload)-1] != '\n' {
		fmt.Fprintln(w)
	}
	return nil
}

// showFields prints what is known about a dead letter, one field a line.
func showFields(w io.Writer, v *console.DeadLetterView) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s:\t%s\n", name, oneLine(value))
		}
	}
	line("pipeline", v.Pipeline)
	line("number", digits(v.Number))
	line("time", clock(v.Time))
	line("code", v.Code)
	line("step", v.Step)
	line("reason", v.Reason)
	if v.File != "" {
		line("at", fmt.Sprintf("%s:%d", v.File, v.Line))
	}
	line("source", v.Source)
	line("sink", v.Sink)
	line("attempts", digits(v.Attempts))
	line("offset", digits(v.Offset))
	line("plan", v.Plan)
	line("id", v.Message.ID)
	line("key", v.Message.Key+v.Message.KeyBase64)
	line("topic", v.Message.Topic)
	line("content type", v.Message.ContentType)
	line("size", digits(v.Size))
	for _, name := range slices.Sorted(maps.Keys(v.Message.Headers)) {
		line("header "+oneLine(name), fmt.Sprint(v.Message.Headers[name]))
	}
	return t.Flush()
}

// headerText prints headers in one line.
func headerText(headers map[string]any, separator string) string {
	parts := make([]string, 0, len(headers))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		parts = append(parts, fmt.Sprintf("%s=%v", name, headers[name]))
	}
	return strings.Join(parts, separator)
}

func newDLQRetry(io stdio) *cobra.Command {
	return newDLQDecision(io, &cobra.Command{
		Use:   "retry NUMBER... | --all",
		Short: "send dead letters through their pipeline again, as it is now",
		Long: `retry sends dead letters through the pipeline that runs now, in their order, and
removes them from the dead letters in the same step: a crash neither loses nor doubles
one. An entry that one sink refused goes to that sink only. What fails again becomes a
new dead letter.

--all takes every entry that is there at the moment, with --code those of one code.

Exit codes: 0 all were sent, 1 some were not there, 2 usage or no running linkspan.`,
		Example: "  linkspan dlq retry 17 18 --pipeline orders\n  linkspan dlq retry --all --code LS2401 --pipeline orders",
	}, "retried", (*console.Client).Retry)
}

func newDLQDrop(io stdio) *cobra.Command {
	return newDLQDecision(io, &cobra.Command{
		Use:   "drop NUMBER... | --all",
		Short: "remove dead letters for good",
		Long: `drop removes dead letters for good. Save what you may need with
` + "`dlq show NUMBER --payload-only`" + ` first.

--all takes every entry that is there at the moment, with --code those of one code.

Exit codes: 0 all were removed, 1 some were not there, 2 usage or no running linkspan.`,
		Example: "  linkspan dlq drop 17 --pipeline orders\n  linkspan dlq drop --all --pipeline orders",
	}, "dropped", (*console.Client).Drop)
}

func newDLQDecision(io stdio, cmd *cobra.Command, done string, apply func(*console.Client, context.Context, string, console.Decision) (int, error)) *cobra.Command {
	var f dlqFlags
	var all bool
	cmd.Args = numbers(0)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list, err := parseNumbers(args)
		switch {
		case err != nil:
			return err
		case all == (len(list) > 0):
			return usageError("name entries by number, or all with --all; `linkspan dlq ls` lists them")
		case f.code != "" && !all:
			return usageError("--code goes with --all")
		}
		return withDirectory(cmd.Context(), &f.at, func(d *directory) error {
			if d.live == nil {
				return usageError("%s is not in use; start linkspan on it, then %s (only ls and show work on a stopped directory)", f.at.data, cmd.Name())
			}
			name, err := d.pipelineOf(cmd.Context(), f.pipeline)
			if err != nil {
				return err
			}
			count, err := apply(d.live, cmd.Context(), name, console.Decision{Numbers: list, All: all, Code: f.code})
			if err != nil {
				return err
			}
			return reportDecision(io, done, name, count, len(list), f.format)
		})
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "every entry that is there at the moment")
	cmd.Flags().StringVar(&f.code, "code", "", "with --all, only entries with this code")
	return cmd
}

func reportDecision(io stdio, done, pipeline string, count, asked int, format string) error {
	if format == "json" {
		if err := console.NewEncoder(io.out).Encode(map[string]any{"pipeline": pipeline, done: count}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(io.out, "%d %s\n", count, done)
	}
	if count < asked {
		return &exitError{exitFailed, fmt.Sprintf("%d of %d entries were not there", asked-count, asked)}
	}
	return nil
}

// numbers checks that there are arguments: exactly n, or any number when n is 0.
func numbers(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if n > 0 && len(args) != n {
			return usageError("the number of one dead letter is needed; `linkspan dlq ls` lists them")
		}
		return nil
	}
}

func parseNumbers(args []string) ([]uint64, error) {
	var out []uint64
	for _, a := range args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil {
			return nil, usageError("%q is not the number of a dead letter; `linkspan dlq ls` lists them", a)
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}
