package journal_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// ledger is what the clients of a queue know: what they offered, what they were
// promised, and what they settled. It is the measure for what a recovery finds.
type ledger struct {
	mu       sync.Mutex
	offered  map[string]int    // id → its unit, before the call
	units    [][]string        // ids that were offered in one call
	promised map[string]spot   // after the call returned
	settled  map[string]bool   // before the call
	final    map[string]bool   // settled, and a publish that began later has returned
	moves    map[string]string // id that was settled → id that was published with it
	waiting  []string          // settled, and no publish that began later has returned
}

// spot is where a message is.
type spot struct {
	topic  string
	offset uint64
}

func newLedger() *ledger {
	return &ledger{
		offered: map[string]int{}, promised: map[string]spot{}, settled: map[string]bool{},
		final: map[string]bool{}, moves: map[string]string{},
	}
}

func (l *ledger) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// clone copies the ledger; offered and settled may be ahead of promised.
func (l *ledger) clone() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &ledger{
		offered: maps.Clone(l.offered), units: slices.Clip(l.units), promised: maps.Clone(l.promised), settled: maps.Clone(l.settled),
		final: maps.Clone(l.final), moves: maps.Clone(l.moves), waiting: slices.Clone(l.waiting),
	}
}

// payloadOf derives a payload from an id, so that wrong bytes show.
func payloadOf(id string) []byte {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	n := rng.IntN(600)
	switch rng.IntN(20) {
	case 0:
		n = 6000 + rng.IntN(12000)
	case 1:
		n = 0
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	return out
}

func msg(id string) message.Message {
	return message.Message{ID: id, Payload: payloadOf(id), Headers: message.Headers{{Name: "h", Value: message.String(id)}}}
}

// offer notes that the ids are about to be published as one unit.
func (l *ledger) offer(ids ...string) []message.Message {
	msgs := make([]message.Message, len(ids))
	for i, id := range ids {
		msgs[i] = msg(id)
	}
	l.do(func() {
		for _, id := range ids {
			l.offered[id] = len(l.units)
		}
		l.units = append(l.units, ids)
	})
	return msgs
}

func (l *ledger) publish(ctx context.Context, t queue.Topic, ids ...string) error {
	msgs := l.offer(ids...)
	var waiting int
	l.do(func() { waiting = len(l.waiting) })
	first, err := t.Publish(ctx, msgs)
	if err != nil {
		return err
	}
	l.do(func() {
		for i, id := range ids {
			l.promised[id] = spot{t.Name(), first + uint64(i)}
		}
		// What was acknowledged before this call is in its commit, or an earlier one.
		for _, id := range l.waiting[:min(waiting, len(l.waiting))] {
			l.final[id] = true
		}
	})
	return nil
}

// consume receives once and settles, moves or releases what came.
func (l *ledger) consume(ctx context.Context, e queue.Engine, sub queue.Subscription, out queue.Topic, rng *rand.Rand) error {
	records, err := sub.Receive(ctx, 1+rng.IntN(4))
	if err != nil {
		return err
	}
	for _, r := range records {
		id := r.Message.ID
		switch rng.IntN(8) {
		case 0:
			err = sub.Release(0, r.Offset)
		case 1, 2:
			err = l.move(ctx, e, sub, out, id, r.Offset)
		default:
			// A move of it that was cut short did not happen, or it would not be here again.
			l.do(func() { l.settled[id] = true; delete(l.moves, id) })
			if err = sub.Ack(r.Offset); err == nil {
				l.do(func() { l.waiting = append(l.waiting, id) })
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// move settles a message and publishes a copy of it as one unit.
func (l *ledger) move(ctx context.Context, e queue.Engine, sub queue.Subscription, out queue.Topic, id string, offset uint64) error {
	moved := "moved-" + id
	msgs := l.offer(moved)
	l.do(func() { l.settled[id], l.moves[id] = true, moved })
	err := e.Atomic(ctx, queue.Tx{
		Publish: []queue.TxPublish{{Topic: out, Messages: msgs}},
		Ack:     []queue.TxAck{{Subscription: sub, Offsets: []uint64{offset}}},
	})
	if err == nil {
		l.do(func() { l.promised[moved], l.final[id] = spot{out.Name(), anywhere}, true })
	}
	return err
}

// anywhere is the offset of what Atomic published, which it does not return.
const anywhere = ^uint64(0)

// check compares an opened engine with the ledger. before is from before the crash: what
// it says was done must be found. l is from after it: what it says was begun may be.
func (l *ledger) check(ctx context.Context, e *journal.Engine, before *ledger) error {
	held, err := l.browse(ctx, e, before)
	if err != nil {
		return err
	}
	for id, at := range before.promised {
		if !held[id] && !l.settled[id] {
			return fmt.Errorf("promised message %q of %s is lost", id, at.topic)
		}
	}
	for id := range before.final {
		if held[id] {
			return fmt.Errorf("message %q is here again, although its acknowledgement was stable", id)
		}
	}
	for _, unit := range l.units {
		if err := l.whole(unit, held); err != nil {
			return err
		}
	}
	if err := l.checkMoves(held, before); err != nil {
		return err
	}
	if r := e.Report(); r.Status == journal.Damaged {
		return fmt.Errorf("damage reported where there is none: %+v", r)
	}
	return nil
}

// checkMoves checks that a move has happened or has not, and nothing in between. Who
// moves a message has received it, so it was stable when the move began; and what was
// promised before the cut was stable too, whenever its move began. Only a message that
// came, and whose move began, after the cut may be missing on both sides.
func (l *ledger) checkMoves(held map[string]bool, before *ledger) error {
	for id, moved := range l.moves {
		_, began := before.moves[id]
		_, promised := before.promised[id]
		if held[id] && held[moved] || (began || promised) && !held[id] && !held[moved] {
			return fmt.Errorf("atomic move of %q: held %v, its copy %v", id, held[id], held[moved])
		}
	}
	return nil
}

// whole checks that a unit is there as a whole or not at all.
func (l *ledger) whole(unit []string, held map[string]bool) error {
	some, missing := "", ""
	for _, id := range unit {
		if held[id] {
			some = id
		} else if !l.settled[id] {
			missing = id
		}
	}
	if some != "" && missing != "" {
		return fmt.Errorf("half a unit: %q is there, %q is not", some, missing)
	}
	return nil
}

// browse reads everything and returns what is there.
func (l *ledger) browse(ctx context.Context, e *journal.Engine, before *ledger) (map[string]bool, error) {
	held := map[string]bool{}
	for _, name := range e.Topics() {
		t, err := e.Topic(ctx, name)
		if err != nil {
			return nil, err
		}
		last := -1
		for r, err := range t.Browse(ctx, queue.Start{}) {
			if err != nil {
				return nil, fmt.Errorf("browse %s: %w", name, err)
			}
			id := r.Message.ID
			if _, offered := l.offered[id]; !offered || held[id] || int(r.Offset) <= last {
				return nil, fmt.Errorf("topic %s offset %d: unexpected message %q", name, r.Offset, id)
			}
			last, held[id] = int(r.Offset), true
			if string(r.Message.Payload) != string(payloadOf(id)) || r.Message.Headers.Text("h") != id {
				return nil, fmt.Errorf("topic %s offset %d: wrong bytes in %q", name, r.Offset, id)
			}
			if at, ok := before.promised[id]; ok && (at.topic != name || at.offset != anywhere && at.offset != r.Offset) {
				return nil, fmt.Errorf("topic %s offset %d: message %q was promised at %v", name, r.Offset, id, at)
			}
		}
	}
	return held, nil
}
