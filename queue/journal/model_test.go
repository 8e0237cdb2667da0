package journal_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// model is a queue made of slices.
type model struct {
	e      *journal.Engine
	mem    *vfs.Mem
	topics []*modelTopic
	next   int
}

type modelTopic struct {
	name string
	ids  []string // by offset
	subs []*modelSub
}

type modelSub struct {
	name     string
	settled  map[uint64]bool
	inFlight map[uint64]bool
}

func (m *model) open(rt *rapid.T) {
	e, err := journal.Open(context.Background(), "/data", staging(m.mem))
	if err != nil {
		rt.Fatalf("open: %v", err)
	}
	m.e = e
}

func (m *model) topic(rt *rapid.T, t *modelTopic) queue.Topic {
	q, err := m.e.Topic(context.Background(), t.name)
	if err != nil {
		rt.Fatalf("topic: %v", err)
	}
	return q
}

func (m *model) sub(rt *rapid.T, t *modelTopic, s *modelSub) queue.Subscription {
	q, err := m.topic(rt, t).Subscribe(context.Background(), s.name, queue.SubOptions{MaxInFlight: 10})
	if err != nil {
		rt.Fatalf("subscribe: %v", err)
	}
	return q
}

func (m *model) messages(rt *rapid.T) (ids []string, msgs []message.Message) {
	for range rapid.IntRange(1, 6).Draw(rt, "messages") {
		id := strconv.Itoa(m.next)
		m.next++
		ids, msgs = append(ids, id), append(msgs, msg(id))
	}
	return ids, msgs
}

func (m *model) drawTopic(rt *rapid.T) *modelTopic {
	return m.topics[rapid.IntRange(0, len(m.topics)-1).Draw(rt, "topic")]
}

func (m *model) drawSub(rt *rapid.T) (*modelTopic, *modelSub) {
	t := m.drawTopic(rt)
	if len(t.subs) == 0 {
		rt.Skip("no subscription")
	}
	return t, t.subs[rapid.IntRange(0, len(t.subs)-1).Draw(rt, "subscription")]
}

// held reports whether somebody needs the message.
func (t *modelTopic) held(offset uint64) bool {
	return len(t.subs) == 0 || slices.ContainsFunc(t.subs, func(s *modelSub) bool { return !s.settled[offset] })
}

func (m *model) publish(rt *rapid.T) {
	t := m.drawTopic(rt)
	ids, msgs := m.messages(rt)
	first, err := m.topic(rt, t).Publish(context.Background(), msgs)
	if err != nil || first != uint64(len(t.ids)) {
		rt.Fatalf("publish: offset %d, %v; want %d", first, err, len(t.ids))
	}
	t.ids = append(t.ids, ids...)
}

func (m *model) subscribe(rt *rapid.T) {
	t := m.drawTopic(rt)
	if len(t.subs) == 3 {
		rt.Skip("enough subscriptions")
	}
	s := &modelSub{name: strconv.Itoa(len(t.subs)), settled: map[uint64]bool{}, inFlight: map[uint64]bool{}}
	for o := range uint64(len(t.ids)) {
		s.settled[o] = !t.held(o)
	}
	t.subs = append(t.subs, s)
	m.sub(rt, t, s)
}

func (m *model) receive(rt *rapid.T) {
	t, s := m.drawSub(rt)
	limit := rapid.IntRange(1, 8).Draw(rt, "limit")
	var want []uint64
	for o := range uint64(len(t.ids)) {
		if !s.settled[o] && !s.inFlight[o] && len(want) < min(limit, 10-len(s.inFlight)) {
			want = append(want, o)
		}
	}
	if len(want) == 0 {
		rt.Skip("nothing to receive")
	}
	records, err := m.sub(rt, t, s).Receive(context.Background(), limit)
	if err != nil || len(records) != len(want) {
		rt.Fatalf("receive: %d records, %v; want %v", len(records), err, want)
	}
	for i, r := range records {
		id := t.ids[want[i]]
		if r.Offset != want[i] || r.Message.ID != id || string(r.Message.Payload) != string(payloadOf(id)) {
			rt.Fatalf("received offset %d id %q, want %d %q", r.Offset, r.Message.ID, want[i], id)
		}
		s.inFlight[r.Offset] = true
	}
}

// some draws offsets that are in flight.
func some(rt *rapid.T, s *modelSub) []uint64 {
	var out []uint64
	for o := range s.inFlight {
		out = append(out, o)
	}
	if len(out) == 0 {
		rt.Skip("nothing in flight")
	}
	slices.Sort(out)
	return rapid.Permutation(out).Draw(rt, "offsets")[:rapid.IntRange(1, len(out)).Draw(rt, "count")]
}

func (s *modelSub) settle(offsets []uint64) {
	for _, o := range offsets {
		s.settled[o] = true
		delete(s.inFlight, o)
	}
}

func (m *model) ack(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	if err := m.sub(rt, t, s).Ack(offsets...); err != nil {
		rt.Fatalf("ack: %v", err)
	}
	s.settle(offsets)
}

func (m *model) release(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	if err := m.sub(rt, t, s).Release(0, offsets...); err != nil {
		rt.Fatalf("release: %v", err)
	}
	for _, o := range offsets {
		delete(s.inFlight, o)
	}
}

func (m *model) atomic(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	to := m.drawTopic(rt)
	ids, msgs := m.messages(rt)
	err := m.e.Atomic(context.Background(), queue.Tx{
		Publish: []queue.TxPublish{{Topic: m.topic(rt, to), Messages: msgs}},
		Ack:     []queue.TxAck{{Subscription: m.sub(rt, t, s), Offsets: offsets}},
	})
	if err != nil {
		rt.Fatalf("atomic: %v", err)
	}
	to.ids = append(to.ids, ids...)
	s.settle(offsets)
}

func (m *model) forget() {
	for _, t := range m.topics {
		for _, s := range t.subs {
			clear(s.inFlight)
		}
	}
}

func (m *model) reopen(rt *rapid.T) {
	m.close(rt)
	m.open(rt)
	m.forget()
}

// crash cuts the power. Acknowledgements that were not stable come back, so the model
// takes over what the subscriptions say, which must be on the safe side.
func (m *model) crash(rt *rapid.T) {
	mode := rapid.SampledFrom(vfs.Survivals()).Draw(rt, "survival")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
	disk := m.mem.Crash(rng, mode, rapid.Bool().Draw(rt, "names"))
	m.close(rt)
	m.mem = disk
	m.open(rt)
	m.forget()
	for _, t := range m.topics {
		for _, s := range t.subs {
			m.adopt(rt, t, s)
		}
	}
}

// adopt learns which acknowledgements survived by receiving everything once.
func (m *model) adopt(rt *rapid.T, t *modelTopic, s *modelSub) {
	sub := m.sub(rt, t, s)
	backlog := sub.Stats().Backlog
	if err := sub.Close(); err != nil {
		rt.Fatal(err)
	}
	all, err := m.topic(rt, t).Subscribe(context.Background(), s.name, queue.SubOptions{MaxInFlight: 1 << 20})
	if err != nil {
		rt.Fatal(err)
	}
	left := map[uint64]bool{}
	for uint64(len(left)) < backlog {
		records, err := all.Receive(context.Background(), 1<<20)
		if err != nil {
			rt.Fatal(err)
		}
		for _, r := range records {
			left[r.Offset] = true
		}
	}
	for o := range uint64(len(t.ids)) {
		if !s.settled[o] && !left[o] {
			rt.Fatalf("topic %s: message %d was not settled by %s and is gone", t.name, o, s.name)
		}
		s.settled[o] = !left[o]
	}
	if err := all.Close(); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) close(rt *rapid.T) {
	if err := m.e.Close(context.Background()); err != nil {
		rt.Fatalf("close: %v", err)
	}
}

// check compares everything that can be seen without changing it.
func (m *model) check(rt *rapid.T) {
	for _, t := range m.topics {
		var want, got []uint64
		for o := range uint64(len(t.ids)) {
			if t.held(o) {
				want = append(want, o)
			}
		}
		topic := m.topic(rt, t)
		for r, err := range topic.Browse(context.Background(), queue.Start{}) {
			if err != nil || r.Message.ID != t.ids[r.Offset] {
				rt.Fatalf("browse %s: offset %d id %q: %v", t.name, r.Offset, r.Message.ID, err)
			}
			got = append(got, r.Offset)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("browse %s: %v, want %v", t.name, got, want)
		}
		if st := topic.Stats(); st.Messages != uint64(len(want)) || st.Next != uint64(len(t.ids)) {
			rt.Fatalf("stats of %s: %+v, want %d messages", t.name, st, len(want))
		}
	}
	if r := m.e.Report(); r.Status == journal.Damaged {
		rt.Fatalf("damage: %+v", r)
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{mem: vfs.NewMem(), topics: []*modelTopic{{name: "a"}, {name: "b"}}}
		m.open(rt)
		defer func() { m.close(rt) }()
		for _, topic := range m.topics {
			m.topic(rt, topic)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"publish": m.publish, "publish again": m.publish, "subscribe": m.subscribe, "receive": m.receive, "ack": m.ack,
			"release": m.release, "atomic": m.atomic, "reopen": m.reopen, "crash": m.crash, "": m.check,
		})
	})
}
