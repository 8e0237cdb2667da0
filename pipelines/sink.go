package pipelines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// sink is a running output: the connector's sink with a gate in front. While the
// peer is away the gate is shut, so that every lane does not run into the same
// time-out; it opens after a backoff that doubles.
type sink struct {
	plan    *SinkPlan
	handler message.Handler
	log     *slog.Logger
	backoff config.Backoff

	// opening is held while inner opens, which may take as long as a dial.
	opening sync.Mutex
	inner   connectors.Sink
	count   sinkCounters

	mu sync.Mutex
	// Guarded by mu.
	open  bool
	shut  time.Time
	wait  time.Duration
	cause string
	// refusing: the last failure came from Handle, so that only Handle proves recovery.
	refusing bool
}

// send hands a batch to the connector. The errors are those of message.Handler; when
// the gate is shut the error is an *message.UnavailableError with the time to wait.
func (s *sink) send(ctx context.Context, b *message.Batch) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	err := s.handle(ctx, b)
	s.after(ctx, err)
	return err
}

// handle hands a batch to the connector. When the connector panics, the messages are
// handed over one by one, and the one that it panics on is refused.
func (s *sink) handle(ctx context.Context, b *message.Batch) error {
	err := run.Protect("out."+s.plan.Name, func() error { return s.handler.Handle(ctx, b) })
	if _, panicked := errors.AsType[*run.PanicError](err); !panicked {
		return err
	}
	if b.Len() == 1 {
		return &message.PartialError{Failed: []message.Failed{{Index: 0, Err: panicReason(ctx, s.log, err)}}}
	}
	var failed []message.Failed
	behind := map[string]bool{}
	for i := range b.Messages {
		key := string(b.Messages[i].Key)
		err := message.ErrBehind
		if !behind[key] {
			errs := failures(s.handle(ctx, &message.Batch{Messages: b.Messages[i : i+1]}), 1)
			if errs == nil || errs[0] == nil {
				continue
			}
			err = errs[0]
		}
		behind[key] = key != ""
		failed = append(failed, message.Failed{Index: i, Err: err})
	}
	if failed == nil {
		return nil
	}
	return &message.PartialError{Failed: failed}
}

// connect opens the sink ahead of its first message, so that an operator sees at once
// when a peer is away. It tries until that works or ctx ends.
func (s *sink) connect(ctx context.Context) error {
	for ctx.Err() == nil {
		var away *message.UnavailableError
		if !errors.As(s.ready(ctx), &away) {
			break
		}
		run.Pause(ctx, away.After+time.Millisecond)
	}
	return nil
}

// ready returns nil when the sink is open, and opens it when its gate is.
func (s *sink) ready(ctx context.Context) error {
	if open, err := s.gate(); open || err != nil {
		return err
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if open, err := s.gate(); open || err != nil { // another lane was faster
		return err
	}
	err := run.Protect("out."+s.plan.Name, func() error { return s.inner.Open(ctx) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return s.shutGate(ctx, fmt.Errorf("open: %w", err))
	}
	s.open = true
	if !s.refusing {
		s.recovered(ctx)
	}
	return nil
}

func (s *sink) gate() (open bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.shut); left > 0 {
		return false, &message.UnavailableError{Err: errors.New(s.cause), After: left}
	}
	return s.open, nil
}

// after keeps the gate by what the connector said. Called without the lock.
func (s *sink) after(ctx context.Context, err error) {
	var partial *message.PartialError
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.recovered(ctx)
	case errors.As(err, &partial):
		for _, f := range partial.Failed {
			if message.IsUnavailable(f.Err) && !errors.Is(f.Err, message.ErrBehind) {
				s.refusing = true
				_ = s.shutGate(ctx, f.Err)
				return
			}
		}
		s.recovered(ctx)
	default:
		s.open, s.refusing = false, true
		_ = s.shutGate(ctx, err)
	}
}

func (s *sink) recovered(ctx context.Context) {
	if s.wait > 0 {
		s.log.LogAttrs(ctx, slog.LevelInfo, "sink is back")
	}
	s.wait, s.cause, s.refusing = 0, "", false
}

// shutGate shuts the gate for the next backoff and returns the error that says so. A
// context that ended is nobody's fault and shuts nothing, and lanes that meet one
// outage together shut it once.
func (s *sink) shutGate(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return message.Unavailable(ctx.Err())
	}
	if s.wait == 0 {
		s.log.LogAttrs(ctx, slog.LevelWarn, "sink is not available; its messages wait in the queue", slog.String("error", err.Error()))
	}
	if left := time.Until(s.shut); left > 0 {
		return &message.UnavailableError{Err: err, After: left}
	}
	s.wait = min(max(2*s.wait, s.backoff.Min), s.backoff.Max)
	wait := jitter(s.wait)
	var u *message.UnavailableError
	if errors.As(err, &u) && u.After > wait {
		wait = u.After
	}
	s.shut, s.cause = time.Now().Add(wait), err.Error()
	return &message.UnavailableError{Err: err, After: wait}
}

// status describes the sink now.
func (s *sink) status() SinkStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SinkStatus{Name: s.plan.Name, Connector: s.plan.Connector, Available: s.wait == 0, Error: s.cause}
}

func (s *sink) stop(ctx context.Context) error {
	s.opening.Lock()
	defer s.opening.Unlock()
	return s.inner.Close(ctx)
}

// jitter spreads waits by a quarter, so that lanes and instances do not knock at once.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/4+1)) //nolint:gosec // not a secret
}
