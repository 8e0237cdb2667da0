package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/telemetry"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

const defaultData = "./data"

type runFlags struct {
	location
	encrypt             bool
	admin               string
	adminCert, adminKey string
	verbose             bool
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
and the rest stays in the queue for the next run. A second signal ends it at once.

The admin address answers /live, /ready and /metrics to anyone on this machine, and
/api/v1 to who has the token in DATA/admin, as the verbs queue and dlq do. An address
that other machines can reach needs a certificate.

Exit codes: 0 stopped or finished, 1 failed at run time, 2 configuration or usage,
4 environment or storage.`,
		Example: "  linkspan run pipeline.yaml\n  linkspan run pipelines/ --data /var/lib/linkspan\n" +
			"  linkspan run pipelines/ --admin 0.0.0.0:5480 --admin-cert tls.crt --admin-key tls.key",
		Args: needs("the path of a pipeline or a folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := runPipelines(cmd.Context(), args, f, io)
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				err = nil // a signal during the start
			}
			return err
		},
	}
	cmd.Flags().StringVar(&f.data, "data", defaultData, "directory of the queue and of the connectors' state")
	cmd.Flags().StringVar(&f.keys, "keys", "", "file with the master key of masks and of the queue, 64 hexadecimal digits (default: "+keysVariable+", or DATA/keys, made at the first run)")
	cmd.Flags().BoolVar(&f.encrypt, "encrypt", false, "encrypt the queue from now on; a queue that is encrypted stays so")
	cmd.Flags().StringVar(&f.admin, "admin", "127.0.0.1:5480", "address of health, metrics and the admin API; empty: none")
	cmd.Flags().StringVar(&f.adminCert, "admin-cert", "", "PEM file with the certificate of the admin address")
	cmd.Flags().StringVar(&f.adminKey, "admin-key", "", "PEM file with its key")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	return cmd
}

// check refuses flags that cannot work, before anything is touched.
func (f *runFlags) check() error {
	switch {
	case (f.adminCert == "") != (f.adminKey == ""):
		return usageError("--admin-cert and --admin-key go together")
	case f.admin == "" && f.adminCert != "":
		return usageError("--admin-cert has no effect without --admin")
	case f.admin == "":
		return nil
	}
	if err := console.CheckAddress(f.admin, f.adminCert != ""); err != nil {
		return usageError("%s", err)
	}
	return nil
}

// runPipelines checks everything, then opens the queue, then the admin address, then
// the pipelines, and closes them the other way round.
func runPipelines(ctx context.Context, paths []string, f runFlags, io stdio) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	logger := newLogger(io.err, level)
	var r config.Report
	first := pipelines.Load(paths, io.registry(keys.None()), config.SystemLookup(), &r)
	if r.Failed() {
		printProblems(io.err, r.Problems())
		return &exitError{code: exitUsage}
	}
	q, master, err := openQueue(ctx, f, &first.Settings, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeQueue(ctx, q)) }()
	admin, err := listenAdmin(ctx, f, &rotation{queue: q, master: master}, logger)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := admin.Close(ctx); closeErr != nil {
			logger.LogAttrs(ctx, slog.LevelWarn, "close the admin server", slog.String("error", closeErr.Error()))
		}
	}()
	key := keys.None()
	if first.Settings.Keys.IsZero() {
		if key, err = masterKey(f, logger); err != nil {
			return &exitError{exitEnvironment, err.Error()}
		}
	}
	d, err := loadAgain(ctx, paths, key, logger, io)
	if err != nil {
		return err
	}
	return runDeployment(ctx, d, q, admin, f.data, io.start, logger)
}

// runDeployment runs what was loaded.
func runDeployment(ctx context.Context, d *pipelines.Deployment, q queue.Engine, admin *adminServer, dir string, start time.Time, logger *slog.Logger) error {
	traces, err := telemetry.New(ctx, telemetry.Options{Settings: d.Settings.Telemetry, Env: os.LookupEnv, Version: version, Logger: logger})
	if err != nil {
		return usageError("%s", err)
	}
	defer func() {
		if lost := traces.Shutdown(ctx); lost != nil {
			logger.LogAttrs(ctx, slog.LevelWarn, "traces were lost at the stop", slog.String("error", lost.Error()))
		}
	}()
	e, err := pipelines.New(pipelines.Options{
		Queue: q, DataDir: dir, Tracer: traces.Tracer(),
		Logger: slog.New(readyHandler{logger.Handler(), start, admin.address()}),
	}, d.Plans)
	if errors.As(err, new(*pipelines.EnvironmentError)) {
		return err
	}
	if err != nil {
		return &exitError{exitUsage, err.Error()}
	}
	return admin.serve(ctx, e)
}

// serve runs the engine, and lets the admin server answer for it.
func (a *adminServer) serve(ctx context.Context, e *pipelines.Engine) error {
	if a.server != nil {
		a.server.Attach(e)
		defer context.AfterFunc(ctx, a.server.Stopping)()
	}
	return e.Run(ctx)
}

// readyHandler adds to the engine's word that it is ready how long the start took,
// and where the admin server answers.
type readyHandler struct {
	slog.Handler
	start time.Time
	admin string
}

// Handle implements slog.Handler.
func (h readyHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "ready" {
		r.AddAttrs(slog.Int64("start_ms", time.Since(h.start).Milliseconds()), slog.String("admin", h.admin))
	}
	return h.Handler.Handle(ctx, r)
}

// loadAgain compiles the deployment with the key of masks. The first time was to
// find problems before anything is touched.
func loadAgain(ctx context.Context, paths []string, key *keys.Source, logger *slog.Logger, io stdio) (*pipelines.Deployment, error) {
	var r config.Report
	d := pipelines.Load(paths, io.registry(key), config.SystemLookup(), &r)
	if r.Failed() { // a file changed in between
		printProblems(io.err, r.Problems())
		return nil, &exitError{code: exitUsage}
	}
	for _, p := range r.Problems() {
		logger.LogAttrs(ctx, slog.LevelWarn, "the configuration has a weak point", slog.String("code", p.Code), slog.String("warning", p.Message), slog.String("at", p.String()), slog.String("fix", p.Fix))
	}
	return d, nil
}

// openQueue returns the queue and its master key, which is nil when it is not encrypted.
func openQueue(ctx context.Context, f runFlags, settings *pipelines.Settings, logger *slog.Logger) (*journal.Engine, journal.Master, error) {
	dir := f.data
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, &exitError{exitEnvironment, fmt.Sprintf("make the data directory: %v", err)}
	}
	o := journal.Options{Logger: logger}
	if f.encrypt || settings.Queue.Encrypt || f.encrypted() {
		source, err := queueKey(f, settings, logger)
		if err == nil && source.Present() { // else opening says that it is missing
			o.Master, err = journal.NewMaster(source)
		}
		if err != nil {
			return nil, nil, &exitError{exitEnvironment, err.Error()}
		}
	}
	q, err := journal.Open(ctx, dir, o)
	if errors.Is(err, queue.ErrLocked) {
		return nil, nil, &exitError{exitEnvironment, fmt.Sprintf("the data directory %s is in use by another linkspan; stop it, or choose another directory with --data", dir)}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return nil, nil, err
	case err != nil:
		return nil, nil, &exitError{exitEnvironment, fmt.Sprintf("open the queue in %s: %v", dir, err)}
	}
	return q, o.Master, nil
}

// queueKey returns the master key: that of the settings, or that of the command line.
// A new one is of no use for a queue that is encrypted already, and would hide that
// the right one is missing.
func queueKey(f runFlags, settings *pipelines.Settings, logger *slog.Logger) (*keys.Source, error) {
	if !settings.Keys.IsZero() {
		return keys.Parse(settings.Keys.Reveal())
	}
	if f.encrypted() {
		return f.source()
	}
	return masterKey(f, logger)
}

func closeQueue(ctx context.Context, q queue.Engine) error {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := q.Close(closing); err != nil && !errors.Is(err, queue.ErrStorageFailed) {
		return &exitError{exitEnvironment, fmt.Sprintf("close the queue: %v", err)}
	}
	return nil
}

// adminServer is the admin server, or nothing when --admin is empty.
type adminServer struct{ server *console.Server }

func listenAdmin(ctx context.Context, f runFlags, k *rotation, logger *slog.Logger) (*adminServer, error) {
	if f.admin == "" {
		// The file of a run that was killed must not lead anybody astray.
		if err := os.Remove(filepath.Join(f.data, "admin")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &exitError{exitEnvironment, fmt.Sprintf("remove the old admin file: %v", err)}
		}
		return &adminServer{}, nil
	}
	o := console.Options{Address: f.admin, DataDir: f.data, Queue: k.queue, Rotate: k.rotate, Version: version, Revision: revision(), Logger: logger}
	if f.adminCert != "" {
		o.TLS = &tlsconf.Server{Cert: f.adminCert, Key: f.adminKey}
	}
	s, err := console.Listen(ctx, o)
	switch {
	case errors.Is(err, context.Canceled):
		return nil, err
	case err != nil:
		return nil, &exitError{exitEnvironment, fmt.Sprintf("admin server: %v", err)}
	}
	return &adminServer{s}, nil
}

func (a *adminServer) address() string {
	if a.server == nil {
		return ""
	}
	return a.server.Address()
}

// Close ends the server, if there is one.
func (a *adminServer) Close(ctx context.Context) error {
	if a.server == nil {
		return nil
	}
	return a.server.Close(ctx)
}

// masterKey reads the key of --keys or the environment, else that of the data
// directory, which it makes when there is none.
func masterKey(f runFlags, logger *slog.Logger) (*keys.Source, error) {
	if source, err := f.source(); err != nil || source.Present() {
		return source, err
	}
	key, made, err := keys.OpenOrCreate(f.data)
	if made {
		logger.Warn("a random master key was made; back it up: without it hashes cannot be joined with older ones, and an encrypted queue cannot be read", slog.String("file", f.data+"/keys"))
	}
	return key, err
}
