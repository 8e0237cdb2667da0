package journal_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// What a client does. Every event has a number in one order of time.
type event struct {
	kind   string // publish, read, receive, ack, release or crash
	topic  string
	id     string
	offset uint64
	known  bool   // that it has happened
	n      uint64 // read: how many messages, and their digest
	digest uint64
}

// prefix is the content of a log.
type prefix struct{ n, digest uint64 }

func (p prefix) add(id string) prefix {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s", p.digest, id)
	return prefix{p.n + 1, h.Sum64()}
}

// logModel is a topic: an append returns the next offset, a read returns everything.
func logModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{prefix{}} },
		Step: func(state, input, _ any) []any {
			p, e := state.(prefix), input.(event)
			switch {
			case e.kind == "read" && (e.n != p.n || e.digest != p.digest):
				return nil
			case e.kind == "publish" && !e.known:
				return []any{p, p.add(e.id)}
			case e.kind == "publish" && e.offset != p.n:
				return nil
			case e.kind == "publish":
				return []any{p.add(e.id)}
			}
			return []any{p}
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return m.ToModel()
}

// messageModel is one message of a subscription: it is absent, waits, is in flight or
// settled. A crash ends flights, and may take acknowledgements back.
func messageModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{"absent"} },
		Step: func(state, input, _ any) []any {
			e, waits := input.(event), state == "waits"
			switch e.kind {
			case "publish":
				if state == "absent" {
					return []any{"waits"}
				}
			case "receive":
				if waits {
					return []any{"in flight"}
				}
			case "ack":
				if state == "in flight" && e.known {
					return []any{"settled"}
				}
				return []any{state, "settled"}
			case "release":
				if state == "in flight" {
					return []any{"waits"}
				}
				return []any{state}
			case "crash":
				switch state {
				case "settled":
					return []any{"settled", "waits"}
				case "in flight":
					return []any{"waits"}
				}
				return []any{state}
			}
			return nil
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return m.ToModel()
}

// history records what clients do with an engine that loses power.
type history struct {
	time atomic.Int64
	mu   sync.Mutex
	ops  []porcupine.Operation
	held map[string]uint64 // key → message in flight
	acks map[int][]uint64  // client → what it has in flight
	err  error

	mem    *vfs.Mem
	o      uint64 // seed of the options
	seed   uint64
	cut    atomic.Int64 // when the power went, 0: it has not
	cutEnd atomic.Int64
	disk   *vfs.Mem
}

func (h *history) open(ctx context.Context) (*journal.Engine, error) {
	left := int64(30 + h.seed*31%260)
	rng := rand.New(rand.NewPCG(h.seed, 17))
	mem := h.mem
	var mu sync.Mutex
	return journal.Open(ctx, "/data", varied(vfs.WithHook(mem, func(op vfs.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if left--; op.Changes() && left < 0 && h.cut.Load() == 0 {
			at := h.time.Add(1)
			h.disk = mem.Crash(rng, vfs.Survivals()[rng.IntN(4)], rng.IntN(2) == 0)
			h.cutEnd.Store(h.time.Add(1))
			h.cut.Store(at)
		}
		return nil
	}), h.o))
}

// phase lets clients work until each has done its share, and takes what the cut left.
func (h *history) phase(ctx context.Context, number, share int) error {
	h.cut.Store(0)
	h.cutEnd.Store(0)
	h.disk, h.held, h.acks = nil, map[string]uint64{}, map[int][]uint64{}
	h.seed++
	e, err := h.open(ctx)
	if err != nil {
		return err
	}
	if err := h.resolve(ctx, e); err != nil {
		return errors.Join(err, e.Close(ctx))
	}
	begin := len(h.ops)
	g := run.NewGroup(ctx)
	for c := range 8 {
		g.Go("client", func(ctx context.Context) error {
			rng := rand.New(rand.NewPCG(h.seed, uint64(c)))
			for i := range share {
				if h.cut.Load() != 0 {
					return nil
				}
				if err := h.step(ctx, e, rng, c, fmt.Sprintf("%d-%d-%d", c, number, i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := e.Close(ctx); err != nil {
		return err
	}
	h.endPhase(begin)
	return nil
}

// resolve looks which of the publishes that were under way at the cut have happened, so
// that the search for an order need not try them all. What was settled since is not seen.
func (h *history) resolve(ctx context.Context, e queue.Engine) error {
	where := map[string]uint64{}
	for _, name := range []string{"log", "work"} {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			return err
		}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				return err
			}
			where[r.Message.ID] = r.Offset
		}
	}
	kept := h.ops[:0]
	for _, op := range h.ops {
		if ev := op.Input.(event); ev.kind == "publish" && !ev.known {
			offset, found := where[ev.id]
			if !found && ev.topic == "log" {
				continue
			}
			ev.offset, ev.known = offset, found
			op.Input = ev
		}
		kept = append(kept, op)
	}
	h.ops = kept
	return nil
}

// endPhase forgets what happened after the cut. What was under way has perhaps happened.
func (h *history) endPhase(begin int) {
	at, end := h.cut.Load(), h.cutEnd.Load()
	if at == 0 {
		at = h.time.Add(1)
		end = h.time.Add(1)
		h.disk = h.mem
	}
	h.mem = h.disk
	kept := h.ops[:begin]
	for _, op := range h.ops[begin:] {
		e := op.Input.(event)
		switch {
		case op.Call > end:
			continue
		case op.Return >= at && (e.kind == "publish" || e.kind == "ack"):
			e.known = false // what was left has it or has not, so it is over with the crash
			op.Input, op.Return = e, end
		case op.Return >= at:
			continue
		}
		kept = append(kept, op)
	}
	h.ops = append(kept, porcupine.Operation{Input: event{kind: "crash"}, Call: at, Return: end})
}

// do records a call.
func (h *history) do(client int, f func() (event, bool)) {
	call := h.time.Add(1)
	e, ok := f()
	ret := h.time.Add(1)
	if ok {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: e, Call: call, Return: ret})
	}
}

func (h *history) step(ctx context.Context, e queue.Engine, rng *rand.Rand, client int, id string) error {
	name := []string{"log", "work"}[rng.IntN(2)]
	topic, err := e.Topic(ctx, name)
	if err != nil {
		return err
	}
	k := rng.IntN(10)
	if name == "log" && k >= 7 {
		h.do(client, func() (event, bool) {
			var p prefix
			for r, berr := range topic.Browse(ctx, queue.Start{}) {
				if berr != nil {
					err = berr
					return event{}, false
				}
				p = p.add(r.Message.ID)
			}
			return event{kind: "read", topic: name, n: p.n, digest: p.digest}, true
		})
		return err
	}
	if name == "log" || k < 4 {
		h.do(client, func() (event, bool) {
			var first uint64
			first, err = topic.Publish(ctx, []message.Message{{ID: id, Key: fmt.Append(nil, client)}})
			return event{kind: "publish", topic: name, id: id, offset: first, known: true}, err == nil
		})
		return err
	}
	sub, err := topic.Subscribe(ctx, "s", queue.SubOptions{Order: queue.ByKey})
	if err != nil {
		return err
	}
	return h.consume(ctx, sub, rng, client, k)
}

func (h *history) consume(ctx context.Context, sub queue.Subscription, rng *rand.Rand, client, k int) (err error) {
	h.mu.Lock()
	mine := h.acks[client]
	h.mu.Unlock()
	if len(mine) == 0 || k < 6 {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		var records []queue.Record
		call := h.time.Add(1)
		if records, err = sub.Receive(short, 1+rng.IntN(3)); err != nil {
			return ctx.Err()
		}
		ret := h.time.Add(1)
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, r := range records {
			key := string(r.Message.Key)
			if o, busy := h.held[key]; busy && h.cut.Load() == 0 {
				h.err = fmt.Errorf("message %d of key %s came while %d was not settled", r.Offset, key, o)
			}
			h.held[key] = r.Offset
			h.acks[client] = append(h.acks[client], r.Offset)
			h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: event{kind: "receive", topic: "work", offset: r.Offset}, Call: call, Return: ret})
		}
		return nil
	}
	o := mine[len(mine)-1]
	kind := "ack"
	if k == 6 {
		kind = "release"
	}
	h.mu.Lock()
	h.acks[client] = mine[:len(mine)-1]
	for key, held := range h.held {
		if held == o { // a released message keeps its key, and may come at once to somebody else
			delete(h.held, key)
		}
	}
	h.mu.Unlock()
	h.do(client, func() (event, bool) {
		if kind == "ack" {
			err = sub.Ack(o)
		} else {
			err = sub.Release(0, o)
		}
		return event{kind: kind, topic: "work", offset: o, known: true}, err == nil
	})
	return err
}

// check looks for an order of the calls that explains what they returned.
func (h *history) check() error {
	if h.err != nil {
		return h.err
	}
	logs := map[string][]porcupine.Operation{}
	messages := map[uint64][]porcupine.Operation{}
	for _, op := range h.ops {
		e := op.Input.(event)
		switch {
		case e.kind == "publish" || e.kind == "read":
			logs[e.topic] = append(logs[e.topic], op)
		case e.topic == "work":
			messages[e.offset] = append(messages[e.offset], op)
		}
	}
	for name, ops := range logs {
		if r := porcupine.CheckOperationsTimeout(logModel(), ops, 20*time.Second); r != porcupine.Ok {
			return fmt.Errorf("the history of topic %s with %d calls: %v", name, len(ops), r)
		}
	}
	for offset, ops := range messages {
		if r := porcupine.CheckOperationsTimeout(messageModel(), h.with(offset, ops), 20*time.Second); r != porcupine.Ok {
			return fmt.Errorf("the history of message %d: %v\n%v", offset, r, ops)
		}
	}
	return nil
}

// with adds the crashes and the publish of a message to its own calls.
func (h *history) with(offset uint64, ops []porcupine.Operation) []porcupine.Operation {
	published := porcupine.Operation{Input: event{kind: "publish"}, Call: 0, Return: ops[0].Return}
	for _, op := range h.ops {
		e := op.Input.(event)
		switch {
		case e.kind == "crash":
			ops = append(ops, op)
		case e.kind == "publish" && e.topic == "work" && e.offset == offset && e.known:
			published = op
		}
	}
	return append(ops, published)
}

// TestHistories lets clients work beside each other through crashes and checks that what
// they saw is linearizable, for each topic and each message, and that messages of a key
// never overtake each other.
func TestHistories(t *testing.T) {
	n := amount(t, 30, 320)
	var calls, crashes atomic.Int64
	first := seedOf(t)
	p := newPool()
	for i := range uint64(n) {
		p.do(func() {
			h := &history{mem: vfs.NewMem(), o: first + i, seed: (first + i) * 1000}
			for phase := range 4 { // the last one only looks
				share := 20
				if phase == 3 {
					share = 0
				}
				if err := h.phase(t.Context(), phase, share); err != nil {
					t.Errorf("history %d: %v", i, err)
					return
				}
				if h.cut.Load() != 0 {
					crashes.Add(1)
				}
			}
			calls.Add(int64(len(h.ops)))
			if err := h.check(); err != nil {
				t.Errorf("history %d: %v", i, err)
			}
		})
	}
	p.wait()
	t.Logf("%d histories of 8 clients and up to 60 calls each, %d calls, %d crashes: linearizable: %v", n, calls.Load(), crashes.Load(), !t.Failed())
}
