package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

type runFlags struct {
	data, keys string
	admin      string
	verbose    bool
}

func newRun(io stdio) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run PATH...",
		Short: "run pipelines until a signal, or until every input has ended",
		Long: `run compiles the files and folders, opens the queue and the addresses, and runs.
Nothing starts when there is a problem: bad YAML exits with 2, a port in use or a
locked data directory with 4. A peer that cannot be reached is no reason to exit:
messages wait in the queue until it is back.

SIGTERM and SIGINT stop it without loss: inputs stop, what is under way is finished,
and the rest stays in the queue for the next run. A second signal ends it at once.`,
		Example: "  linkspan run pipeline.yaml\n  linkspan run pipelines/ --data /var/lib/linkspan",
		Args:    atLeast(1, "the path of a pipeline or a folder"),
		RunE:    func(cmd *cobra.Command, args []string) error { return runPipelines(cmd.Context(), args, f, io) },
	}
	cmd.Flags().StringVar(&f.data, "data", "./data", "directory of the queue and of the connectors' state")
	cmd.Flags().StringVar(&f.keys, "keys", "", "file with the master key of masks, 64 hexadecimal digits (default: DATA/keys, made at the first run)")
	cmd.Flags().StringVar(&f.admin, "admin", "127.0.0.1:5480", "address of health, metrics and the admin API; empty: none")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	return cmd
}

func runPipelines(ctx context.Context, paths []string, f runFlags, io stdio) (err error) {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	logger := newLogger(io.err, level)
	// The whole deployment is compiled before anything is touched.
	var r config.Report
	pipelines.Load(paths, registry(keys.None()), config.SystemLookup(), &r)
	if r.Failed() {
		printProblems(io.err, r.Problems())
		return &exitError{code: exitUsage}
	}
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return &exitError{exitEnvironment, fmt.Sprintf("make the data directory: %v", err)}
	}
	q, err := journal.Open(ctx, f.data, journal.Options{Logger: logger})
	if err != nil {
		return &exitError{exitEnvironment, fmt.Sprintf("open the queue in %s: %v", f.data, err)}
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if closeErr := q.Close(closing); closeErr != nil && !errors.Is(closeErr, queue.ErrStorageFailed) {
			err = errors.Join(err, &exitError{exitEnvironment, fmt.Sprintf("close the queue: %v", closeErr)})
		}
	}()
	key, err := masterKey(f, logger)
	if err != nil {
		return &exitError{exitEnvironment, err.Error()}
	}
	r = config.Report{}
	d := pipelines.Load(paths, registry(key), config.SystemLookup(), &r)
	for _, p := range r.Problems() {
		logger.LogAttrs(ctx, slog.LevelWarn, p.Message, slog.String("code", p.Code), slog.String("at", p.Position.String()), slog.String("fix", p.Fix))
	}
	if r.Failed() { // a file changed in between
		printProblems(io.err, r.Problems())
		return &exitError{code: exitUsage}
	}
	e, err := pipelines.New(pipelines.Options{Queue: q, DataDir: f.data, Logger: logger}, d.Plans)
	if err != nil {
		return &exitError{exitUsage, err.Error()}
	}
	return e.Run(ctx)
}

// masterKey reads the key of --keys, else that of the data directory, which it makes
// when there is none.
func masterKey(f runFlags, logger *slog.Logger) (*keys.Source, error) {
	if f.keys != "" {
		return keys.ReadFile(f.keys)
	}
	key, made, err := keys.OpenOrCreate(f.data)
	if made {
		logger.Warn("a random key for masks was made; back it up, because hashes made with another key cannot be joined with these", slog.String("file", f.data+"/keys"))
	}
	return key, err
}
