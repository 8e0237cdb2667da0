package pipelines

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// lane is an ordered worker. It runs the steps over batches of units, sends what
// comes out, settles what was taken, and parks what was not. Everything in it
// belongs to one goroutine.
type lane struct {
	run     *running
	tally   message.Tally
	bench   bench
	parking parking
	resends [][]outgoing
	acks    []uint64
	dead    []deadLetter
	retries []retry
	ready   []*unit
	// logged is when a dead letter was last logged, unlogged how many were not since.
	logged   time.Time
	unlogged int
}

// outgoing is a part that is tried again.
type outgoing struct {
	unit *unit
	part part
}

// retry is a part that was not taken, until the end of the round decides.
type retry struct {
	outgoing
	err   error
	after time.Duration
}

// work processes units until in is closed and nothing waits, or ctx ends. What is
// not settled by then stays in the queue. While a dead letter cannot be stored the
// lane takes nothing new.
func (l *lane) work(ctx context.Context, in <-chan []*unit) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		source := in
		if len(l.dead) > 0 {
			source = nil
			timer.Reset(l.run.plan.Delivery.Retry.Backoff.Min)
			due = timer.C
		} else if at, ok := l.parking.next(); ok {
			timer.Reset(time.Until(at))
			due = timer.C
		} else if in == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case units, open := <-source:
			if !open {
				if l.run.stopping() {
					return nil
				}
				in = nil
				continue
			}
			l.accept(ctx, units)
		case <-due:
			l.retryDue(ctx)
		}
	}
}

func (l *lane) accept(ctx context.Context, units []*unit) {
	l.ready = l.ready[:0]
	for _, u := range units {
		u.origin = l.tally.Begin()
		if !l.parking.behind(u) {
			l.ready = append(l.ready, u)
		}
	}
	l.process(ctx, l.ready)
}

// retryDue tries the parts that are due again. The units that waited behind them
// follow when their key got through, and wait on when it did not.
func (l *lane) retryDue(ctx context.Context) {
	if len(l.resends) == 0 {
		l.resends = make([][]outgoing, len(l.run.sinks))
	}
	var follow []*unit
	now := time.Now()
	for _, u := range l.parking.take(now) {
		u.parked = false
		if len(u.parts) == 0 {
			follow = append(follow, u)
			continue
		}
		for _, p := range u.parts {
			if u.record.Message.Expired(now) {
				l.deadLetter(u, expired(), p.sink, p.attempts)
				continue
			}
			l.resends[p.sink] = append(l.resends[p.sink], outgoing{u, p})
		}
		u.parts = nil
	}
	for i := range l.resends {
		l.resend(ctx, i)
	}
	l.settleRetries()
	follow = slices.DeleteFunc(follow, l.parking.behind)
	l.process(ctx, follow)
	l.commit(ctx)
}

// process runs units that are in order and not parked.
func (l *lane) process(ctx context.Context, units []*unit) {
	if len(units) == 0 {
		return
	}
	ctx, end := l.run.telemetry.lane(ctx, units)
	defer end()
	if err := l.transform(ctx, units); err != nil {
		if isPanic(err) {
			l.singleOut(ctx, units, err)
			return
		}
		l.run.log.LogAttrs(ctx, slog.LevelWarn, "a step could not run; its messages wait", slog.String("error", err.Error()))
		for _, u := range units {
			l.wait(u, 0)
		}
		return
	}
	l.distribute()
	for i := range l.bench.sinks {
		l.deliver(ctx, i)
	}
	l.settleRetries()
	l.commit(ctx)
}

func (l *lane) transform(ctx context.Context, units []*unit) error {
	return run.Protect("steps", func() error {
		l.bench.reset(units, l.run.plan, time.Now())
		return l.bench.transform(ctx, l.run.plan, l.run.telemetry)
	})
}

func isPanic(err error) bool {
	var p *run.PanicError
	return errors.As(err, &p)
}

// singleOut finds the message that a step panics on, by running the batch one by one,
// and dead-letters it: a bug of ours must not stop the others.
func (l *lane) singleOut(ctx context.Context, units []*unit, err error) {
	if len(units) > 1 {
		for _, u := range slices.Clone(units) {
			l.process(ctx, []*unit{u})
		}
		return
	}
	if p, ok := errors.AsType[*run.PanicError](err); ok {
		l.run.log.LogAttrs(ctx, slog.LevelError, "a step panicked", slog.String("stack", string(p.Stack)))
	}
	l.deadLetter(units[0], &message.Reason{Code: "LS2299", Step: "steps", Text: "internal error in a step; please report it", Permanent: true}, -1, 1)
	l.commit(ctx)
}

// distribute turns the decisions of the steps and the route into parts.
func (l *lane) distribute() {
	for i := range l.bench.sinks {
		l.bench.sinks[i].clear()
	}
	for i, it := range l.bench.batch.Items {
		w := l.bench.works[i]
		switch {
		case it.Failed() != nil:
			l.deadLetter(w.unit, it.Failed(), -1, 1)
		case it.Dropped() != "":
			l.drop(w.unit, it.Dropped())
		case w.dest.Drop != "":
			l.drop(w.unit, w.dest.Rule)
		default:
			l.fanOut(w, i)
		}
	}
}

func (l *lane) fanOut(w *work, index int) {
	sinks := l.run.only(&w.item.Message, w.dest.Sinks)
	parts := len(sinks)
	if w.dest.DeadLetter {
		parts++
	}
	l.tally.Fork(w.unit.origin, parts)
	if w.dest.DeadLetter {
		l.deadLetter(w.unit, w.dest.Reason(), -1, 1)
	}
	payload := w.item.Payload()
	if w.unit.key != "" {
		w.item.Message.Key = []byte(w.unit.key)
	}
	for _, s := range sinks {
		l.bench.sinks[s].address(index, &w.item.Message, payload, &l.run.plan.Sinks[s])
	}
}

// deliver runs one sink's steps over its part of the batch and sends it.
func (l *lane) deliver(ctx context.Context, index int) {
	b, s := &l.bench.sinks[index], l.run.sinks[index]
	if len(b.owners) == 0 {
		return
	}
	if err := b.prepare(ctx, s.plan, l.run.telemetry); err != nil {
		l.run.log.LogAttrs(ctx, slog.LevelWarn, "a step of a sink could not run; its messages wait", slog.String("error", err.Error()))
		for i, it := range b.batch.Items {
			m := it.Message.Clone()
			l.judge(outgoing{l.bench.works[b.owners[i]].unit, part{sink: index, msg: m}}, message.ErrBehind)
		}
		return
	}
	for i, it := range b.batch.Items {
		u := l.bench.works[b.owners[i]].unit
		switch {
		case it.Failed() != nil:
			l.deadLetter(u, it.Failed(), index, 1)
		case it.Dropped() != "":
			l.drop(u, it.Dropped())
		}
	}
	if b.out.Len() == 0 {
		return
	}
	failed := failures(s.send(ctx, &b.out), b.out.Len())
	for i := range b.out.Messages {
		m := &b.out.Messages[i]
		u := l.bench.works[m.Origin].unit
		if failed == nil || failed[i] == nil {
			l.delivered(u, s)
			continue
		}
		l.judge(outgoing{u, part{sink: index, msg: m.Clone()}}, failed[i])
	}
}

// resend tries the waiting parts of one sink again, as one batch.
func (l *lane) resend(ctx context.Context, index int) {
	again := l.resends[index]
	if len(again) == 0 {
		return
	}
	s := l.run.sinks[index]
	b := message.Batch{Messages: make([]message.Message, len(again))}
	for i := range again {
		b.Messages[i] = again[i].part.msg
	}
	failed := failures(s.send(ctx, &b), b.Len())
	for i := range again {
		if failed == nil || failed[i] == nil {
			l.delivered(again[i].unit, s)
			continue
		}
		l.judge(again[i], failed[i])
	}
	clear(again)
	l.resends[index] = again[:0]
}

// failures spreads the answer of a handler over the messages of its batch. Nil
// means that all were taken.
func failures(err error, n int) []error {
	if err == nil {
		return nil
	}
	failed := make([]error, n)
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, f := range partial.Failed {
			failed[f.Index] = f.Err
		}
		return failed
	}
	if !message.IsUnavailable(err) {
		err = message.Unavailable(err)
	}
	for i := range failed {
		failed[i] = err
	}
	return failed
}

// judge counts the attempt when the message was refused, and notes how long the peer
// asked to wait.
func (l *lane) judge(o outgoing, err error) {
	r := retry{outgoing: o, err: err}
	counters := &l.run.sinks[o.part.sink].count
	if message.IsUnavailable(err) {
		if away, ok := errors.AsType[*message.UnavailableError](err); ok {
			r.after = away.After
		}
		counters.unavailable.Add(1)
	} else {
		r.part.attempts++
		counters.refused.Add(1)
	}
	l.retries = append(l.retries, r)
}

func (r *retry) final(attempts int) bool {
	if message.IsUnavailable(r.err) {
		return false
	}
	var reason *message.Reason
	return r.part.attempts >= attempts || errors.As(r.err, &reason) && reason.Permanent
}

// settleRetries dead-letters the parts that have had their tries and parks the
// others. Units are parked in the order of their offsets, so that a key keeps its
// order whatever sink refused first.
func (l *lane) settleRetries() {
	slices.SortStableFunc(l.retries, func(a, b retry) int {
		return cmp.Compare(a.unit.record.Offset, b.unit.record.Offset)
	})
	for i := range l.retries {
		r := &l.retries[i]
		if !r.final(l.run.plan.Delivery.Retry.Attempts) {
			r.unit.parts = append(r.unit.parts, r.part)
			l.wait(r.unit, r.after)
			continue
		}
		reason := *asReason(r.err)
		if reason.Step == "" {
			reason.Step = "out." + l.run.plan.Sinks[r.part.sink].Name
		}
		l.deadLetter(r.unit, &reason, r.part.sink, r.part.attempts)
	}
	clear(l.retries)
	l.retries = l.retries[:0]
}

// wait parks a unit: as long as the peer asked, else by the backoff of its tries.
func (l *lane) wait(u *unit, after time.Duration) {
	if u.parked {
		return
	}
	policy := l.run.plan.Delivery.Retry.Backoff
	backoff := min(policy.Min<<min(u.waits, 20), policy.Max)
	if after > 0 {
		backoff = after + time.Millisecond
	} else {
		backoff = jitter(backoff)
		u.waits++
	}
	u.parked = true
	l.parking.park(u, time.Now().Add(backoff))
}

func (l *lane) delivered(u *unit, s *sink) {
	s.count.delivered.Add(1)
	l.settle(u, message.Delivered)
}

func (l *lane) drop(u *unit, by string) {
	l.run.count.drop(by)
	l.settle(u, message.Dropped)
}

// settle closes one part. The last part of a unit makes its offset ready to be
// acknowledged.
func (l *lane) settle(u *unit, o message.Outcome) {
	if _, done := l.tally.Settle(u.origin, o); done {
		l.acks = append(l.acks, u.record.Offset)
	}
}

// commit stores the dead letters and acknowledges what is done.
func (l *lane) commit(ctx context.Context) {
	l.storeDead(ctx)
	if len(l.acks) == 0 {
		return
	}
	if err := l.run.subscription.Ack(l.acks...); err != nil {
		l.run.fail(err)
	}
	l.acks = l.acks[:0]
}
