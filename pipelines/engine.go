// Package pipelines turns YAML into a File, the File into a Plan, and Plans into a
// running deployment.
//
// A Plan is compiled: immutable, complete and without side effects. Running it keeps
// two hand-overs. A source may acknowledge upstream when its messages are on stable
// storage. A message's offset is settled when every sink, or the dead letter
// channel, has taken every part of it, and not before. A failed step never lets a
// message go on. Messages with one key keep their order, across retries too.
package pipelines

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/queue"
)

// EnvironmentError says that this machine, not the configuration, stands in the way:
// a port in use, a locked or failing disk. The process exits with code 4.
type EnvironmentError struct{ Err error }

// Error implements error.
func (e *EnvironmentError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *EnvironmentError) Unwrap() error { return e.Err }

// Options are what a deployment runs with.
type Options struct {
	// Queue stores the messages. The caller closes it after Run has returned.
	Queue queue.Engine
	// DataDir holds the connectors' own state.
	DataDir string
	// MaxMessage is the largest message in bytes. Default 16 MiB.
	MaxMessage int64
	Logger     *slog.Logger
	// Tracer makes spans. Nil: none.
	Tracer trace.Tracer
}

// Engine runs the plans of one deployment.
type Engine struct {
	options   Options
	listeners *connectors.Listeners
	replies   *connectors.Replies
	pipelines []*running
	ready     atomic.Bool
	failed    chan error
}

// New builds the sources and sinks of all plans. It has no side effects beyond
// making the connectors' state directories.
func New(o Options, plans []*Plan) (*Engine, error) {
	if o.MaxMessage == 0 {
		o.MaxMessage = 16 << 20
	}
	e := &Engine{options: o, listeners: connectors.NewListeners(), replies: connectors.NewReplies(), failed: make(chan error, 1)}
	for _, p := range plans {
		r, err := newRunning(p, &e.options, e.listeners, e.replies, e.fail)
		if err != nil {
			return nil, err
		}
		e.pipelines = append(e.pipelines, r)
	}
	return e, nil
}

// fail ends the run. The first error counts.
func (e *Engine) fail(err error) {
	select {
	case e.failed <- err:
	default:
	}
}

// Run binds all addresses, starts sinks, lanes and sources in this order, and blocks
// until ctx ends or every input has ended and everything is delivered. Then it stops
// them the other way round; what is not delivered stays in the queue. Nothing starts
// when an address cannot be bound.
func (e *Engine) Run(ctx context.Context) error {
	defer func() { _ = e.listeners.Close() }()
	if err := e.open(ctx); err != nil {
		return err
	}
	// The three contexts end one after the other: sources, dispatchers, lanes.
	base := context.WithoutCancel(ctx)
	lanesCtx, endLanes := context.WithCancel(base)
	defer endLanes()
	dispatchCtx, endDispatch := context.WithCancel(base)
	defer endDispatch()
	sourcesCtx, endSources := context.WithCancel(base)
	defer endSources()

	lanes, sources := run.NewGroup(base), run.NewGroup(base)
	for _, r := range e.pipelines {
		r.startLanes(lanesCtx, dispatchCtx, lanes)
		lanes.Go("dead letter retention", func(context.Context) error { return r.expireDead(dispatchCtx) })
	}
	for _, r := range e.pipelines {
		for _, s := range r.sources {
			sources.Go("in."+s.plan.Name, func(context.Context) error { return r.supervise(sourcesCtx, s) })
		}
	}
	ended := make(chan error, 1)
	watcher := run.NewGroup(base)
	watcher.Go("end of inputs", func(context.Context) error {
		ended <- sources.Wait()
		return nil
	})
	e.ready.Store(true)
	e.options.Logger.LogAttrs(ctx, slog.LevelInfo, "ready", slog.Int("pipelines", len(e.pipelines)))

	err := e.wait(ctx, ended, lanes.Context().Done())
	e.ready.Store(false)
	endSources()
	_ = watcher.Wait()
	e.stopLanes(base, endDispatch, endLanes, lanes)
	err = errors.Join(err, e.close(base))
	if failed := e.options.Queue.Health(); failed != nil && err == nil {
		err = &EnvironmentError{failed}
	}
	return err
}

// open opens all topics and addresses.
func (e *Engine) open(ctx context.Context) error {
	topics := run.NewGroup(ctx)
	for _, r := range e.pipelines {
		r.open(topics)
	}
	if err := topics.Wait(); err != nil {
		return err
	}
	for _, r := range e.pipelines {
		r.opened.Store(true)
		if err := r.bind(ctx, &e.options); err != nil {
			return err
		}
	}
	return nil
}

// wait blocks until the run is over for one of its reasons.
func (e *Engine) wait(ctx context.Context, ended <-chan error, broken <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-broken:
		return errors.New("a lane ended by an internal error; what it held stays in the queue")
	case err := <-e.failed:
		return &EnvironmentError{err}
	case err := <-ended:
		if err != nil {
			return err
		}
		return e.drain(ctx, broken)
	}
}

// drain waits until everything in the queue is settled.
func (e *Engine) drain(ctx context.Context, broken <-chan struct{}) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		backlog := uint64(0)
		for _, r := range e.pipelines {
			backlog += r.subscription.Stats().Backlog
		}
		if backlog == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-broken:
			return errors.New("a lane ended by an internal error; what it held stays in the queue")
		case err := <-e.failed:
			return &EnvironmentError{err}
		case <-ticker.C:
		}
	}
}

// stopLanes lets the lanes finish what they hold, for a bounded time. No budget is
// too short to be safe: what is not settled stays in the queue.
func (e *Engine) stopLanes(ctx context.Context, endDispatch, endLanes context.CancelFunc, lanes *run.Group) {
	timeout := time.Duration(0)
	for _, r := range e.pipelines {
		r.stopped.Store(true)
		timeout = max(timeout, r.plan.Delivery.StopTimeout)
	}
	endDispatch()
	timer := time.AfterFunc(timeout, endLanes)
	defer timer.Stop()
	ended := make(chan error, 1)
	run.NewGroup(ctx).Go("end of lanes", func(context.Context) error {
		ended <- lanes.Wait()
		return nil
	})
	last := time.NewTimer(timeout + lastWait)
	defer last.Stop()
	select {
	case err := <-ended:
		if err != nil {
			e.options.Logger.LogAttrs(ctx, slog.LevelError, "a lane failed", slog.String("error", err.Error()))
		}
	case <-last.C:
		e.options.Logger.LogAttrs(ctx, slog.LevelError, "a lane does not end; what it holds stays in the queue")
	}
}

// lastWait is how long a lane may go on after its context has ended, before it is
// left behind.
const lastWait = 2 * time.Second

func (e *Engine) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var errs []error
	for _, r := range e.pipelines {
		for _, s := range r.sinks {
			if err := s.stop(ctx); err != nil {
				s.log.LogAttrs(ctx, slog.LevelWarn, "close sink", slog.String("error", err.Error()))
			}
		}
		errs = append(errs, r.subscription.Close(), r.operator.Close())
	}
	err := errors.Join(errs...)
	if errors.Is(err, queue.ErrClosed) || errors.Is(err, queue.ErrStorageFailed) {
		return nil // said already
	}
	return err
}

// Ready reports whether the queue is open, the addresses are bound and the plans
// run. An unreachable peer does not change it.
func (e *Engine) Ready() bool { return e.ready.Load() && e.options.Queue.Health() == nil }
