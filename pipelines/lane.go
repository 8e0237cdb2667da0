package pipelines

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

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
			l.accept(ctx, gather(units, in))
		case <-due:
			l.retryDue(ctx)
		}
	}
}

// gather adds what has come in meanwhile, because sinks work best on large batches.
func gather(units []*unit, in <-chan []*unit) []*unit {
	for {
		select {
		case more, open := <-in:
			if !open {
				return units
			}
			units = append(units, more...)
		default:
			return units
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
	l.distribute(l.bench.transform(ctx, units))
	for i := range l.bench.sinks {
		l.deliver(ctx, i)
	}
	l.settleRetries()
	l.commit(ctx)
}

// distribute turns the decisions of the steps and the route into parts.
func (l *lane) distribute(works []*work) {
	for i := range l.bench.sinks {
		l.bench.sinks[i].clear()
	}
	for _, w := range works {
		switch {
		case w.item.Failed() != nil:
			l.deadLetter(w.unit, w.item.Failed(), -1, 1)
		case w.item.Dropped() != "":
			l.drop(w.unit, w.item.Dropped())
		case w.dest.Drop != "":
			l.drop(w.unit, w.dest.Rule+": "+w.dest.Drop)
		default:
			l.fanOut(w)
		}
	}
}

func (l *lane) fanOut(w *work) {
	sinks := l.run.narrow(&w.unit.record.Message, w.dest.Sinks)
	parts := len(sinks)
	if w.dest.DeadLetter {
		parts++
	}
	l.tally.Fork(w.unit.origin, parts)
	if w.dest.DeadLetter {
		l.deadLetter(w.unit, w.dest.Reason(), -1, 1)
	}
	payload := w.payload()
	w.item.Message.Key = l.run.sinkKey(w.unit)
	for _, s := range sinks {
		l.bench.sinks[s].address(w, payload)
	}
}

// deliver runs one sink's steps over its part of the batch and sends it.
func (l *lane) deliver(ctx context.Context, index int) {
	b, s := &l.bench.sinks[index], l.run.sinks[index]
	if b.n == 0 {
		return
	}
	b.prepare(ctx, s.plan, l.run.telemetry, l.run.log)
	for _, p := range b.parts[:b.n] {
		switch {
		case p.item.Failed() != nil:
			l.deadLetter(p.unit, p.item.Failed(), index, 1)
		case p.item.Dropped() != "":
			l.drop(p.unit, p.item.Dropped())
		}
	}
	if b.out.Len() == 0 {
		return
	}
	failed := failures(s.send(ctx, &b.out), len(b.sent))
	for i, p := range b.sent {
		if failed == nil || failed[i] == nil {
			l.delivered(p.unit, s)
			continue
		}
		l.judge(outgoing{p.unit, part{sink: index, msg: b.out.Messages[i].Clone()}}, failed[i])
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
// means that all were taken. A handler that names messages that it was not given has
// a bug, and nothing it says counts.
func failures(err error, n int) []error {
	if err == nil {
		return nil
	}
	failed := make([]error, n)
	partial, ok := errors.AsType[*message.PartialError](err)
	for i := 0; ok && i < len(partial.Failed); i++ {
		f := partial.Failed[i]
		if f.Index < 0 || f.Index >= n {
			ok = false
			break
		}
		failed[f.Index] = cmp.Or(f.Err, errNoReason())
	}
	if ok {
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

func errNoReason() error {
	return &message.Reason{Code: "LS2601", Text: "the message was refused without a reason"}
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
	return r.part.attempts >= attempts || asReason(r.err).Permanent
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
	// The record shares a buffer with its batch, which must not stay for one message.
	u.record.Message = u.record.Message.Clone()
	l.parking.park(u, time.Now().Add(backoff))
}

func (l *lane) delivered(u *unit, s *sink) {
	s.count.delivered.Add(1)
	l.settle(u)
}

func (l *lane) drop(u *unit, by string) {
	l.run.count.drop(by)
	l.settle(u)
}

// settle closes one part. The last part of a unit makes its offset ready to be
// acknowledged.
func (l *lane) settle(u *unit) {
	if l.tally.Settle(u.origin) {
		l.acks = append(l.acks, u.record.Offset)
		l.run.finished(u)
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
