package pipelines

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// running is a Plan with its connections, topics and lanes.
type running struct {
	plan         *Plan
	log          *slog.Logger
	queue        queue.Engine
	replies      *connectors.Replies
	topic, dead  queue.Topic
	subscription queue.Subscription
	operator     queue.Subscription
	sources      []*source
	sinks        []*sink
	telemetry    *telemetry
	count        counters
	seed         maphash.Seed

	// opened is set when the topics are open.
	opened  atomic.Bool
	stopped atomic.Bool
	// inFlight counts the bytes of the units in the lanes; room says that it went down.
	inFlight atomic.Int64
	room     chan struct{}
	// moving is held while dead letters are moved, because what is moved twice at once
	// would come twice.
	moving sync.Mutex
	// fail reports an error of storage, which ends the process.
	fail func(error)
}

// source is a running input.
type source struct {
	plan    *SourcePlan
	env     connectors.Env
	current connectors.Source
	handler message.Handler
	log     *slog.Logger
	count   sourceCounters
	state   atomic.Pointer[string]
}

func (r *running) stopping() bool { return r.stopped.Load() }

func newRunning(p *Plan, o *Options, listeners *connectors.Listeners, replies *connectors.Replies, fail func(error)) (*running, error) {
	r := &running{
		plan: p, queue: o.Queue, fail: fail, replies: replies, seed: maphash.MakeSeed(), room: make(chan struct{}, 1),
		log:       o.Logger.With(slog.String("pipeline", p.Name)),
		telemetry: &telemetry{tracer: o.Tracer, pipeline: p.Name},
	}
	if p.Delivery.Queue == queueNone {
		r.queue = newDirect(o.Queue, p.Topic())
	}
	env := func(kind, name string) (connectors.Env, error) {
		dir := filepath.Join(o.DataDir, "connectors", p.Name, kind+"."+name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return connectors.Env{}, &EnvironmentError{fmt.Errorf("make state directory: %w", err)}
		}
		return connectors.Env{
			Pipeline: p.Name, Name: name, Dir: dir, Listeners: listeners, Replies: replies, MaxMessage: o.MaxMessage,
			Logger: r.log.With(slog.String(kind, name)),
		}, nil
	}
	for i := range p.Sinks {
		e, err := env("out", p.Sinks[i].Name)
		if err != nil {
			return nil, err
		}
		inner, err := p.Sinks[i].build(e)
		if err != nil {
			return nil, fmt.Errorf("%s: out.%s: %w", p.Name, p.Sinks[i].Name, err)
		}
		s := &sink{plan: &p.Sinks[i], inner: inner, log: e.Logger, backoff: p.Delivery.Retry.Backoff}
		s.handler = r.telemetry.sink(s.plan.Name, inner)
		r.sinks = append(r.sinks, s)
	}
	for i := range p.Sources {
		e, err := env("in", p.Sources[i].Name)
		if err != nil {
			return nil, err
		}
		s := &source{plan: &p.Sources[i], env: e, log: e.Logger}
		if s.current, err = s.plan.build(e); err != nil {
			return nil, fmt.Errorf("%s: in.%s: %w", p.Name, s.plan.Name, err)
		}
		r.sources = append(r.sources, s)
	}
	return r, nil
}

// open opens the pipeline's topics. The two run side by side, because each waits
// for the disk when it is new.
func (r *running) open(g *run.Group) {
	g.Go("topic", func(ctx context.Context) (err error) {
		d := &r.plan.Delivery
		// What has expired is handed out too: its lane makes a dead letter of it.
		o := queue.SubOptions{MaxInFlight: d.MaxInFlight, DeliverExpired: true}
		if d.Priority {
			o.Order = queue.ByPriority
		}
		r.topic, r.subscription, err = r.openTopic(ctx, r.plan.Topic(), laneSubscription, r.topicOptions(d.Dedup, d.Keep), o)
		return err
	})
	g.Go("dead letter topic", func(ctx context.Context) (err error) {
		o := queue.SubOptions{DeliverExpired: true}
		r.dead, r.operator, err = r.openTopic(ctx, r.plan.DeadLetterTopic(), deadSubscription, r.topicOptions(0, 0), o)
		return err
	})
}

func (r *running) topicOptions(dedup, keep time.Duration) queue.TopicOptions {
	o := queue.TopicOptions{Dedup: dedup, Keep: keep}
	if r.plan.Delivery.OnDamage == damageHold {
		o.OnDamage = queue.Hold
	}
	return o
}

func (r *running) openTopic(ctx context.Context, name, subscription string, to queue.TopicOptions, so queue.SubOptions) (queue.Topic, queue.Subscription, error) {
	t, err := r.queue.Topic(ctx, name)
	if err != nil {
		return nil, nil, &EnvironmentError{fmt.Errorf("open topic %s: %w", name, err)}
	}
	if err := t.Configure(ctx, to); err != nil {
		return nil, nil, &EnvironmentError{err}
	}
	s, err := t.Subscribe(ctx, subscription, so)
	if err != nil {
		return nil, nil, &EnvironmentError{fmt.Errorf("subscribe to %s: %w", name, err)}
	}
	return t, s, nil
}

// bind opens the addresses that the pipeline listens on.
func (r *running) bind(ctx context.Context, o *Options) error {
	for _, s := range r.sinks {
		if b, ok := s.inner.(connectors.Binder); ok {
			if err := b.Bind(ctx); err != nil {
				return &EnvironmentError{fmt.Errorf("%s: out.%s: %w", r.plan.Name, s.plan.Name, err)}
			}
		}
	}
	for _, s := range r.sources {
		s.handler = r.telemetry.source(s.plan.Name, &ingest{
			source: s.plan.Name, answers: s.plan.Traits.Answers, brokered: s.plan.Traits.Brokered, schema: s.plan.schema,
			topic: r.topic, dead: r.dead, plan: r.plan.Hash, limit: int(o.MaxMessage), count: &s.count, total: &r.count, fail: r.fail,
		})
		if b, ok := s.current.(connectors.Binder); ok {
			if err := b.Bind(ctx); err != nil {
				return &EnvironmentError{fmt.Errorf("%s: in.%s: %w", r.plan.Name, s.plan.Name, err)}
			}
		}
	}
	return nil
}

// supervise runs a source until ctx ends or its input does, and starts it again with
// backoff when it fails.
func (r *running) supervise(ctx context.Context, s *source) error {
	backoff := config.Backoff{Min: 100 * time.Millisecond, Max: 30 * time.Second}
	wait := time.Duration(0)
	for {
		started := time.Now()
		s.set("running")
		lost := s.outcome(ctx, run.Protect("in."+s.plan.Name, func() error { return s.current.Run(ctx, s.handler) }))
		if lost == nil {
			return nil
		}
		if time.Since(started) > backoff.Max {
			wait = 0
		}
		if !s.restart(ctx, &wait, backoff, lost) {
			return nil
		}
	}
}

// outcome notes how a run of the source ended. It returns why it must be started
// again, or nil when it must not.
func (s *source) outcome(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		s.set("stopped")
		return nil //nolint:nilerr // a stop is no failure
	case errors.Is(err, connectors.ErrEnd):
		s.log.LogAttrs(ctx, slog.LevelInfo, "the input has ended")
		s.set("ended")
		return nil
	case err == nil:
		return errors.New("the source returned")
	default:
		return err
	}
}

// restart waits and builds the source anew, until that works. It returns false when
// ctx ended first.
func (s *source) restart(ctx context.Context, wait *time.Duration, backoff config.Backoff, cause error) bool {
	for {
		if *wait == 0 {
			s.log.LogAttrs(ctx, slog.LevelWarn, "source lost its peer; it is started again", slog.String("error", cause.Error()))
		}
		s.set("waiting: " + cause.Error())
		s.count.restarts.Add(1)
		*wait = min(max(2**wait, backoff.Min), backoff.Max)
		if !run.Pause(ctx, jitter(*wait)) {
			return false
		}
		next, err := s.plan.build(s.env)
		if b, ok := next.(connectors.Binder); ok && err == nil {
			err = b.Bind(ctx)
		}
		if err == nil {
			s.current = next
			return true
		}
		cause = err
	}
}

func (s *source) set(state string) { s.state.Store(&state) }

// dispatch reads the queue and hands units to lanes by their key, until ctx ends.
// Units without a key go round.
func (r *running) dispatch(ctx context.Context, lanes []chan []*unit) error {
	defer func() {
		for _, l := range lanes {
			close(l)
		}
	}()
	o := newOrderer(r.plan)
	shares := make([][]*unit, len(lanes))
	turn := 0
	for r.waitForRoom(ctx) {
		records, err := r.receive(ctx)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, queue.ErrClosed) {
				r.fail(fmt.Errorf("receive: %w", err))
			}
			break
		}
		r.share(records, o, shares, turn)
		turn = (turn + 1) % len(lanes)
		for i, share := range shares {
			if len(share) == 0 {
				continue
			}
			select {
			case lanes[i] <- share:
			case <-ctx.Done():
				return nil
			}
			shares[i] = nil
		}
	}
	return nil
}

// heldPause is how long a held pipeline waits before it looks whether it may go on.
const heldPause = 500 * time.Millisecond

// receive takes what comes next. A topic that is held after damage stops its own
// pipeline and no other: it waits until an operator lets it go on.
func (r *running) receive(ctx context.Context) ([]queue.Record, error) {
	for held := false; ; held = true {
		records, err := r.subscription.Receive(ctx, r.plan.Delivery.MaxInFlight)
		if !errors.Is(err, queue.ErrHeld) {
			return records, err
		}
		if !held {
			r.log.LogAttrs(ctx, slog.LevelError, "the pipeline is held", slog.String("error", err.Error()))
		}
		if !run.Pause(ctx, heldPause) {
			return nil, ctx.Err()
		}
	}
}

// maxInFlightBytes is where a pipeline stops to read the queue until lanes are
// through with what they have.
const maxInFlightBytes = 64 << 20

// waitForRoom blocks while too many bytes are in flight. It returns false when ctx
// ended.
func (r *running) waitForRoom(ctx context.Context) bool {
	for r.inFlight.Load() > maxInFlightBytes {
		select {
		case <-ctx.Done():
			return false
		case <-r.room:
		}
	}
	return ctx.Err() == nil
}

// finished lets go of a unit that is settled.
func (r *running) finished(u *unit) {
	u.record.Message = message.Message{}
	r.inFlight.Add(-u.size)
	select {
	case r.room <- struct{}{}:
	default:
	}
}

// share makes units of records and puts each to its lane.
func (r *running) share(records []queue.Record, o *orderer, shares [][]*unit, turn int) {
	units := make([]unit, len(records))
	for i := range records {
		u := &units[i]
		u.record = records[i]
		u.size = int64(u.record.Message.Size())
		r.inFlight.Add(u.size)
		o.order(u)
		lane := turn
		if u.key != "" {
			lane = int(maphash.String(r.seed, u.key) % uint64(len(shares)))
		}
		shares[lane] = append(shares[lane], u)
	}
}

// orderer computes ordering keys.
type orderer struct {
	plan *Plan
	free bool
	env  expression.Env
	doc  jsonscan.Doc
}

func newOrderer(p *Plan) *orderer {
	o := &orderer{plan: p, free: p.Delivery.OrderBy.Source == "none"}
	o.env.Doc = &o.doc
	return o
}

// order sets the unit's key. A key that cannot be computed refuses the message later,
// in its lane, where it is dead-lettered.
func (o *orderer) order(u *unit) {
	switch {
	case o.free:
	case o.plan.orderBy == nil:
		u.key = string(u.record.Message.Key)
	default:
		o.env.Message = &u.record.Message
		o.doc.Reset(o.plan.orderPaths, u.record.Message.Payload)
		if o.plan.orderBy.ReadsPayload() && o.doc.Scan() != nil {
			return // the lane scans again and says why
		}
		text, _, err := o.plan.orderBy.Text(&o.env)
		if err != nil {
			u.refused = asReason(err)
			return
		}
		u.key = text
	}
}

// sinkKey is what a sink may know of a unit's key: that two are equal, also after a
// restart, so that a sink may place messages by it. The key itself may be a field that the
// sink may not see.
func (r *running) sinkKey(u *unit) []byte {
	if u.key == "" {
		return nil
	}
	return binary.LittleEndian.AppendUint64(nil, fnv1a(fnv1a(fnv1a(fnvOffset, r.plan.Name), "\x00"), u.key))
}

// fnvOffset and fnvPrime are those of FNV-1a with 64 bits.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// fnv1a goes on with a hash. Unlike hash/fnv it allocates nothing.
func fnv1a(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

// narrow returns the sinks of a message that is a retried dead letter of one sink.
func (r *running) narrow(m *message.Message, sinks []int) []int {
	name := m.Headers.Text(headerSink)
	if name == "" {
		return sinks
	}
	for _, i := range sinks {
		if r.plan.Sinks[i].Name == name {
			return []int{i}
		}
	}
	return sinks
}

func (r *running) newLane() *lane {
	l := &lane{run: r, bench: bench{plan: r.plan, log: r.log, telemetry: r.telemetry}}
	l.bench.sinks = make([]sinkBench, len(r.sinks))
	return l
}

func (r *running) startLanes(ctx, dispatchCtx context.Context, g *run.Group) {
	for _, s := range r.sinks {
		g.Go("open out."+s.plan.Name, func(context.Context) error { return s.connect(dispatchCtx) })
	}
	lanes := make([]chan []*unit, r.plan.Delivery.Lanes)
	for i := range lanes {
		// Every share holds a unit in flight, so that a send never blocks and a slow lane
		// holds up no other.
		lanes[i] = make(chan []*unit, r.plan.Delivery.MaxInFlight)
		l := r.newLane()
		g.Go("lane", func(context.Context) error { return l.work(ctx, lanes[i]) })
	}
	g.Go("dispatch", func(context.Context) error { return r.dispatch(dispatchCtx, lanes) })
}
