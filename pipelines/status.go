package pipelines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// ErrUnknownPipeline means that no pipeline of this name runs.
var ErrUnknownPipeline = errors.New("no such pipeline")

// ErrNotReady means that the pipeline's topics are not open yet.
var ErrNotReady = errors.New("the pipeline is starting; try again in a moment")

// Status describes a pipeline now. Counters start at zero with the process.
type Status struct {
	Name        string            `json:"pipeline"`
	File        string            `json:"file"`
	Hash        string            `json:"hash"`
	Guarantee   Guarantee         `json:"guarantee"`
	Backlog     uint64            `json:"backlog"`
	InFlight    int               `json:"in_flight"`
	DeadLetters uint64            `json:"dead_letters"`
	Sources     []SourceStatus    `json:"sources"`
	Sinks       []SinkStatus      `json:"sinks"`
	Dropped     map[string]uint64 `json:"dropped"`
	Dead        map[string]uint64 `json:"dead_lettered"`
}

// SourceStatus describes an input.
type SourceStatus struct {
	Name      string `json:"name"`
	Connector string `json:"connector"`
	// State is running, ended, stopped, or waiting with the reason.
	State    string `json:"state"`
	Received uint64 `json:"received"`
	Refused  uint64 `json:"refused"`
	Restarts uint64 `json:"restarts"`
}

// SinkStatus describes an output.
type SinkStatus struct {
	Name      string `json:"name"`
	Connector string `json:"connector"`
	Available bool   `json:"available"`
	// Error is why the sink is not available.
	Error       string `json:"error,omitempty"`
	Delivered   uint64 `json:"delivered"`
	Refused     uint64 `json:"refused"`
	Unavailable uint64 `json:"unavailable"`
}

// Status describes every pipeline.
func (e *Engine) Status() []Status {
	out := make([]Status, 0, len(e.pipelines))
	for _, r := range e.pipelines {
		out = append(out, r.status())
	}
	return out
}

func (r *running) status() Status {
	s := Status{
		Name: r.plan.Name, File: r.plan.File, Hash: r.plan.Hash, Guarantee: r.plan.Guarantee,
		Dropped: r.count.drops.read(), Dead: r.count.codes.read(),
	}
	if r.opened.Load() {
		sub := r.subscription.Stats()
		s.Backlog, s.InFlight = sub.Backlog, sub.InFlight
		s.DeadLetters = r.operator.Stats().Backlog
	}
	for _, src := range r.sources {
		state := "starting"
		if p := src.state.Load(); p != nil {
			state = *p
		}
		s.Sources = append(s.Sources, SourceStatus{
			Name: src.plan.Name, Connector: src.plan.Connector, State: state,
			Received: src.count.received.Load(), Refused: src.count.refused.Load(), Restarts: src.count.restarts.Load(),
		})
	}
	for _, snk := range r.sinks {
		st := snk.status()
		st.Delivered, st.Refused, st.Unavailable = snk.count.delivered.Load(), snk.count.refused.Load(), snk.count.unavailable.Load()
		s.Sinks = append(s.Sinks, st)
	}
	return s
}

// pipeline returns the pipeline of this name, once its topics are open.
func (e *Engine) pipeline(name string) (*running, error) {
	for _, r := range e.pipelines {
		if r.plan.Name != name {
			continue
		}
		if !r.opened.Load() {
			return nil, ErrNotReady
		}
		return r, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownPipeline, name)
}

// DeadLetters calls f with the dead letters of a pipeline, oldest first, until f
// returns false. The entry is valid during the call.
func (e *Engine) DeadLetters(ctx context.Context, name string, f func(DeadLetter) bool) error {
	r, err := e.pipeline(name)
	if err != nil {
		return err
	}
	for rec, err := range r.dead.Browse(ctx, queue.Start{}) {
		if err != nil {
			return err
		}
		if !f(ReadDeadLetter(name, &rec)) {
			return nil
		}
	}
	return nil
}

// RetryDeadLetters sends dead letters through the current pipeline again, in their
// order, and removes them from the dead letters in the same unit. An entry that one
// sink refused goes to that sink only. One that has expired is delivered all the same:
// somebody has decided so. It returns how many were sent.
func (e *Engine) RetryDeadLetters(ctx context.Context, name string, numbers []uint64) (int, error) {
	now := time.Now()
	return e.moveDead(ctx, name, numbers, func(rec *queue.Record) *message.Message {
		m := rec.Message.Clone()
		only := m.Headers.Text(headerSink)
		m.Headers = original(m.Headers)
		if m.Expired(now) {
			m.Expires = time.Time{}
		}
		if only != "" {
			m.Headers.Add(headerSink, message.String(only))
		}
		return &m
	})
}

// DropDeadLetters removes dead letters for good. It returns how many there were.
func (e *Engine) DropDeadLetters(ctx context.Context, name string, numbers []uint64) (int, error) {
	return e.moveDead(ctx, name, numbers, func(*queue.Record) *message.Message { return nil })
}

func (e *Engine) moveDead(ctx context.Context, name string, numbers []uint64, f func(*queue.Record) *message.Message) (int, error) {
	r, err := e.pipeline(name)
	if err != nil {
		return 0, err
	}
	if len(numbers) == 0 {
		return 0, nil
	}
	r.moving.Lock()
	defer r.moving.Unlock()
	wanted := map[uint64]bool{}
	for _, n := range numbers {
		wanted[n] = true
	}
	m := mover{run: r, pub: queue.TxPublish{Topic: r.topic, Repeat: true}, ack: queue.TxAck{Subscription: r.operator}}
	for rec, err := range r.dead.Browse(ctx, queue.At(slices.Min(numbers))) {
		if err == nil && wanted[rec.Offset] {
			err = m.move(ctx, rec.Offset, f(&rec))
		}
		if err != nil {
			return m.moved, err
		}
		if m.moved+len(m.ack.Offsets) == len(wanted) {
			break
		}
	}
	return m.moved, m.flush(ctx)
}

// mover moves dead letters in units of bounded size.
type mover struct {
	run   *running
	pub   queue.TxPublish
	ack   queue.TxAck
	size  int
	moved int
}

func (m *mover) move(ctx context.Context, number uint64, msg *message.Message) error {
	m.ack.Offsets = append(m.ack.Offsets, number)
	if msg != nil {
		m.pub.Messages = append(m.pub.Messages, *msg)
		m.size += msg.Size()
	}
	if m.size < maxTx && len(m.ack.Offsets) < 10_000 {
		return nil
	}
	return m.flush(ctx)
}

func (m *mover) flush(ctx context.Context) error {
	if len(m.ack.Offsets) == 0 {
		return nil
	}
	tx := queue.Tx{Ack: []queue.TxAck{m.ack}}
	if len(m.pub.Messages) > 0 {
		tx.Publish = []queue.TxPublish{m.pub}
	}
	if err := m.run.queue.Atomic(ctx, tx); err != nil {
		return err
	}
	m.moved += len(m.ack.Offsets)
	m.ack.Offsets, m.pub.Messages, m.size = nil, nil, 0
	return nil
}

// expireDead removes dead letters that are older than the pipeline keeps them.
func (r *running) expireDead(ctx context.Context) error {
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	for {
		if err := r.expireOnce(ctx); err != nil && ctx.Err() == nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "dead letters cannot be expired", slog.String("error", err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (r *running) expireOnce(ctx context.Context) error {
	r.moving.Lock()
	defer r.moving.Unlock()
	oldest := time.Now().Add(-r.plan.Delivery.DeadLetter.Keep)
	var expired []uint64
	for rec, err := range r.dead.Browse(ctx, queue.Start{}) {
		if err != nil {
			return err
		}
		if rec.Appended.After(oldest) {
			break
		}
		expired = append(expired, rec.Offset)
	}
	if len(expired) == 0 {
		return nil
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "dead letters expired", slog.Int("count", len(expired)))
	return r.operator.Ack(expired...)
}
