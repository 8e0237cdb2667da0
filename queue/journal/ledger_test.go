package journal_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"sync"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// ledger is what the clients of a queue know: what they offered, what they were
// promised, and what they settled. It is the measure for what a recovery finds.
type ledger struct {
	mu       sync.Mutex
	offered  map[string][]byte // payload by id, before the call
	promised map[string]string // id → topic, after the call returned
	settled  map[string]bool   // before the call
	moves    map[string]string // id that was settled → id that was published with it
}

func newLedger() *ledger {
	return &ledger{offered: map[string][]byte{}, promised: map[string]string{}, settled: map[string]bool{}, moves: map[string]string{}}
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
		offered: maps.Clone(l.offered), promised: maps.Clone(l.promised),
		settled: maps.Clone(l.settled), moves: maps.Clone(l.moves),
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

func (l *ledger) publish(ctx context.Context, t queue.Topic, ids ...string) error {
	msgs := make([]message.Message, len(ids))
	for i, id := range ids {
		msgs[i] = msg(id)
	}
	l.do(func() {
		for i, id := range ids {
			l.offered[id] = msgs[i].Payload
		}
	})
	if _, err := t.Publish(ctx, msgs); err != nil {
		return err
	}
	l.do(func() {
		for _, id := range ids {
			l.promised[id] = t.Name()
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
		case 1:
			moved := "moved-" + id
			copied := msg(moved)
			l.do(func() { l.offered[moved], l.settled[id], l.moves[id] = copied.Payload, true, moved })
			err = e.Atomic(ctx, queue.Tx{
				Publish: []queue.TxPublish{{Topic: out, Messages: []message.Message{copied}}},
				Ack:     []queue.TxAck{{Subscription: sub, Offsets: []uint64{r.Offset}}},
			})
			if err == nil {
				l.do(func() { l.promised[moved] = out.Name() })
			}
		default:
			// A move of it that was cut short did not happen, or it would not be here again.
			l.do(func() { l.settled[id] = true; delete(l.moves, id) })
			err = sub.Ack(r.Offset)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check compares an opened engine with the ledger. before is from before the crash: what
// it says was done must be found. l is from after it: what it says was begun may be.
func (l *ledger) check(ctx context.Context, e *journal.Engine, before *ledger) error {
	held := map[string]bool{}
	for _, name := range e.Topics() {
		t, err := e.Topic(ctx, name)
		if err != nil {
			return err
		}
		last := -1
		for r, err := range t.Browse(ctx, queue.Start{}) {
			if err != nil {
				return fmt.Errorf("browse %s: %w", name, err)
			}
			id := r.Message.ID
			payload, offered := l.offered[id]
			if !offered || held[id] || int(r.Offset) <= last {
				return fmt.Errorf("topic %s offset %d: unexpected message %q", name, r.Offset, id)
			}
			last, held[id] = int(r.Offset), true
			if string(r.Message.Payload) != string(payload) || r.Message.Headers.Text("h") != id {
				return fmt.Errorf("topic %s offset %d: wrong bytes in %q", name, r.Offset, id)
			}
		}
	}
	for id, topic := range before.promised {
		if !held[id] && !l.settled[id] {
			return fmt.Errorf("promised message %q of %s is lost", id, topic)
		}
	}
	for id, moved := range l.moves {
		// Whoever moves a message has received it, so it was stable when the move began.
		_, began := before.moves[id]
		if held[id] && held[moved] || began && !held[id] && !held[moved] {
			return fmt.Errorf("atomic move of %q: held %v, its copy %v", id, held[id], held[moved])
		}
	}
	if r := e.Report(); r.Status == journal.Damaged {
		return fmt.Errorf("damage reported where there is none: %+v", r)
	}
	return nil
}
