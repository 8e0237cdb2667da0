package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1 // failed at run time
	exitUsage       = 2 // configuration or usage
	exitPolicy      = 3 // refused by policy
	exitEnvironment = 4 // environment or storage
)

// stdio is where a command reads and writes, when its process began, and the connectors
// that it is built with.
type stdio struct {
	in    io.Reader
	out   io.Writer
	err   io.Writer
	start time.Time
	specs []connectors.Spec
}

// exitError carries an exit code. An empty text has been printed already.
type exitError struct {
	code int
	text string
}

// Error implements error.
func (e *exitError) Error() string { return e.text }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, args []string, io stdio) int {
	root := newRoot(io) //nolint:contextcheck // cobra hands the context over
	root.SetArgs(args)
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(io.err, "linkspan: "+text)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var exit *exitError
	var environment *pipelines.EnvironmentError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &environment), errors.Is(err, queue.ErrLocked), errors.Is(err, queue.ErrStorageFailed):
		return exitEnvironment
	default:
		return exitFailed
	}
}

func newRoot(io stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "linkspan",
		Short: "a multi-protocol integration bridge",
		Long: `linkspan receives messages over HTTP, MQTT and from files, keeps them on disk,
filters, changes, masks and routes them by YAML pipelines, and hands them on.

It never loses a message that it acknowledged: a sender's answer comes after the
message is on stable storage.

Exit codes: 0 ok, 1 failed at run time, 2 configuration or usage, 3 refused by
policy, 4 environment or storage, 130/143 when a second signal cuts a stop short.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          subcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%s; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(newRun(io), newCheck(io), newQueue(io), newDLQ(io), newSend(io), newReceive(io), newVersion(io))
	return root
}

// needs is an argument check whose error says what is missing.
func needs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError("%s is missing; see `%s --help`", what, cmd.CommandPath())
		}
		return nil
	}
}

// subcommand refuses what is not the name of a command.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return usageError("unknown command %q; %s", args[0], config.Suggest(args[0], names))
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError("%q is too much here; see `%s --help`", args[0], cmd.CommandPath())
	}
	return nil
}

// printProblems writes problems as a person reads them.
func printProblems(w io.Writer, problems []config.Problem) {
	for _, p := range problems {
		fmt.Fprintln(w, p.Text())
		fmt.Fprintln(w)
	}
}

// newLogger logs text to a terminal and JSON otherwise.
func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// watch runs f beside the command until the process ends.
func watch(ctx context.Context, f func()) {
	run.NewGroup(ctx).Go("signals", func(context.Context) error {
		f()
		return nil
	})
}
