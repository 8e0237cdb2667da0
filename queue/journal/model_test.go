package journal_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// model is a queue made of slices, with a clock of its own.
type model struct {
	e      *journal.Engine
	mem    *vfs.Mem
	seed   uint64
	clock  atomic.Int64 // nanoseconds since 1970
	topics []*modelTopic
	next   int
}

type modelTopic struct {
	name  string
	dedup bool
	msgs  []message.Message // by offset
	known map[string]bool   // IDs
	subs  []*modelSub
	made  int // subscriptions so far
}

type modelSub struct {
	name     string
	order    queue.Order
	settled  map[uint64]bool
	stable   map[uint64]bool // settled, and a commit followed
	unsure   map[uint64]bool // it may have been gone when a seek wanted it back
	inFlight map[uint64]bool
	attempts map[uint64]int
	counted  map[uint64]int         // attempts that are stable
	dues     map[uint64][]time.Time // by attempt
	holds    map[string]uint64      // by key
}

func newModel(seed uint64) *model {
	m := &model{mem: vfs.NewMem(), seed: seed, topics: []*modelTopic{newModelTopic("a", false), newModelTopic("b", true)}}
	m.clock.Store(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return m
}

func newModelTopic(name string, dedup bool) *modelTopic {
	return &modelTopic{name: name, dedup: dedup, known: map[string]bool{}}
}

func newModelSub(name string, order queue.Order) *modelSub {
	return &modelSub{
		name: name, order: order, settled: map[uint64]bool{}, stable: map[uint64]bool{}, unsure: map[uint64]bool{}, inFlight: map[uint64]bool{},
		attempts: map[uint64]int{}, counted: map[uint64]int{}, dues: map[uint64][]time.Time{}, holds: map[string]uint64{},
	}
}

func (m *model) now() time.Time { return time.Unix(0, m.clock.Load()) }

func (m *model) open(rt *rapid.T) {
	o := varied(m.mem, m.seed)
	o.Now = m.now
	e, err := journal.Open(context.Background(), "/data", o)
	if err != nil {
		rt.Fatalf("open: %v", err)
	}
	m.e = e
}

func (m *model) close(rt *rapid.T) {
	if err := m.e.Close(context.Background()); err != nil {
		rt.Fatalf("close: %v", err)
	}
}

func (m *model) topic(rt *rapid.T, t *modelTopic) queue.Topic {
	q, err := m.e.Topic(context.Background(), t.name)
	if err != nil {
		rt.Fatalf("topic: %v", err)
	}
	if t.dedup {
		if err := q.Configure(context.Background(), queue.TopicOptions{Dedup: 10_000 * time.Hour}); err != nil {
			rt.Fatalf("configure: %v", err)
		}
	}
	return q
}

func (m *model) sub(rt *rapid.T, t *modelTopic, s *modelSub) queue.Subscription {
	q, err := m.topic(rt, t).Subscribe(context.Background(), s.name, queue.SubOptions{MaxInFlight: 10, Order: s.order})
	if err != nil {
		rt.Fatalf("subscribe: %v", err)
	}
	return q
}

func (m *model) drawTopic(rt *rapid.T) *modelTopic {
	return m.topics[rapid.IntRange(0, len(m.topics)-1).Draw(rt, "topic")]
}

func (m *model) drawSub(rt *rapid.T) (*modelTopic, *modelSub) {
	t := m.drawTopic(rt)
	if len(t.subs) == 0 {
		m.subscribeTo(rt, t)
	}
	return t, t.subs[rapid.IntRange(0, len(t.subs)-1).Draw(rt, "subscription")]
}

// held reports whether somebody needs the message.
func (t *modelTopic) held(offset uint64) bool {
	return len(t.subs) == 0 || slices.ContainsFunc(t.subs, func(s *modelSub) bool { return !s.settled[offset] })
}

// committed notes that everything so far is stable.
func (m *model) committed() {
	for _, t := range m.topics {
		for _, s := range t.subs {
			for o := range s.settled {
				s.stable[o] = s.stable[o] || s.settled[o] && !s.unsure[o]
			}
			maps.Copy(s.counted, s.attempts)
		}
	}
}

// available returns what a receiver may get next, in order. By key, what comes again
// later holds up what is behind it.
func (m *model) available(t *modelTopic, s *modelSub) (want []uint64) {
	now := m.now()
	claimed := map[string]uint64{}
	for o := range uint64(len(t.msgs)) {
		x, later := &t.msgs[o], s.due(o).After(now)
		if s.settled[o] || s.inFlight[o] || x.NotBefore.After(now) || x.Expired(now) || later && s.order != queue.ByKey {
			continue
		}
		if key := string(x.Key); s.order == queue.ByKey && x.Key != nil {
			holder, busy := s.holds[key]
			first, taken := claimed[key]
			if busy && holder != o || taken && first != o {
				continue
			}
			claimed[key] = o
		}
		if !later {
			want = append(want, o)
		}
	}
	if s.order == queue.ByPriority {
		slices.SortStableFunc(want, func(a, b uint64) int { return int(t.msgs[b].Priority) - int(t.msgs[a].Priority) })
	}
	return want
}

// due returns when a message that failed comes again.
func (s *modelSub) due(o uint64) (t time.Time) {
	if n := len(s.dues[o]); n > 0 {
		t = s.dues[o][n-1]
	}
	return t
}

// restart forgets what an opening knows.
func (s *modelSub) restart() {
	clear(s.inFlight)
	clear(s.holds)
}

func (m *model) forget() {
	for _, t := range m.topics {
		for _, s := range t.subs {
			s.restart()
		}
	}
}

func (s *modelSub) settle(offsets []uint64, t *modelTopic) {
	for _, o := range offsets {
		s.settled[o] = true
		delete(s.unsure, o)
		delete(s.inFlight, o)
		if key := string(t.msgs[o].Key); s.holds[key] == o {
			delete(s.holds, key)
		}
	}
}

// expire moves what expired out of what has to be there: whoever receives settles it.
func (m *model) maybe(t *modelTopic, o uint64) bool { return t.msgs[o].Expired(m.now()) }

// adopt learns what a subscription has left by receiving everything once. optional says
// what may be missing although it was not settled, or was settled by everybody.
func (m *model) adopt(rt *rapid.T, t *modelTopic, s *modelSub, optional func(o uint64) bool) {
	sub := m.sub(rt, t, s)
	if err := sub.Close(); err != nil {
		rt.Fatal(err)
	}
	all, err := m.topic(rt, t).Subscribe(context.Background(), s.name, queue.SubOptions{MaxInFlight: 1 << 20, DeliverExpired: true})
	if err != nil {
		rt.Fatal(err)
	}
	back := m.clock.Load()
	m.clock.Add(int64(100_000 * time.Hour)) // everything is due
	left := map[uint64]bool{}
	for uint64(len(left)) < all.Stats().Backlog {
		records, err := all.Receive(context.Background(), 1<<20)
		if err != nil {
			rt.Fatal(err)
		}
		for _, r := range records {
			left[r.Offset] = true
			if got := r.Attempt - 1; r.Message.Expires.IsZero() && (got < s.counted[r.Offset] || got > s.attempts[r.Offset]) {
				rt.Fatalf("topic %s: message %d of %s has %d failed attempts, want %d to %d", t.name, r.Offset, s.name, got, s.counted[r.Offset], s.attempts[r.Offset])
			}
			s.attempts[r.Offset] = r.Attempt - 1
			s.dues[r.Offset] = s.dues[r.Offset][:min(r.Attempt-1, len(s.dues[r.Offset]))]
		}
	}
	m.clock.Store(back)
	for o := range uint64(len(t.msgs)) {
		switch {
		case !s.settled[o] && !left[o] && !optional(o):
			rt.Fatalf("topic %s: message %d was not settled by %s and is gone", t.name, o, s.name)
		case s.stable[o] && left[o]:
			rt.Fatalf("topic %s: message %d was settled by %s for good and is here again", t.name, o, s.name)
		}
		s.settled[o] = !left[o]
	}
	if err := all.Close(); err != nil {
		rt.Fatal(err)
	}
}

// check compares everything that can be seen without changing it.
func (m *model) check(rt *rapid.T) {
	for _, t := range m.topics {
		var want, got []uint64
		for o := range uint64(len(t.msgs)) {
			if t.held(o) && !m.maybe(t, o) {
				want = append(want, o)
			}
		}
		topic := m.topic(rt, t)
		for r, err := range topic.Browse(context.Background(), queue.Start{}) {
			if err != nil || r.Offset >= uint64(len(t.msgs)) || r.Message.ID != t.msgs[r.Offset].ID {
				rt.Fatalf("browse %s: offset %d id %q: %v", t.name, r.Offset, r.Message.ID, err)
			}
			if !m.maybe(t, r.Offset) {
				got = append(got, r.Offset)
			}
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("browse %s: %v, want %v", t.name, got, want)
		}
		if st := topic.Stats(); st.Messages < uint64(len(want)) || st.Next != uint64(len(t.msgs)) {
			rt.Fatalf("stats of %s: %+v, want %d messages of %d", t.name, st, len(want), len(t.msgs))
		}
	}
	if r := m.e.Report(); r.Status == journal.Damaged {
		rt.Fatalf("damage: %+v", r)
	}
}

func TestModel(t *testing.T) {
	var steps atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(rapid.Uint64Range(0, 1000).Draw(rt, "options"))
		m.open(rt)
		defer func() { m.close(rt) }()
		for _, topic := range m.topics {
			m.topic(rt, topic)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"publish": m.publish, "publish again": m.publish, "twins": m.twins, "subscribe": m.subscribe, "receive": m.receive, "receive again": m.receive,
			"ack": m.ack, "ack again": m.ack, "release": m.release, "nack": m.nack, "atomic": m.atomic, "wait": m.wait, "seek": m.seek, "purge": m.purge,
			"unsubscribe": m.unsubscribe, "delete": m.remove, "reopen": m.reopen, "crash": m.crash,
			"": func(rt *rapid.T) {
				if steps.Add(1)%3 == 0 {
					m.check(rt)
				}
			},
		})
	})
	t.Logf("%d steps", steps.Load())
}

// ids draws messages.
func (m *model) messages(rt *rapid.T, t *modelTopic) (msgs []message.Message) {
	for range rapid.IntRange(1, 6).Draw(rt, "messages") {
		x := msg(strconv.Itoa(m.next))
		m.next++
		x.Priority = uint8(rapid.IntRange(0, 4).Draw(rt, "priority"))
		switch rapid.IntRange(0, 11).Draw(rt, "kind") {
		case 0:
			x.NotBefore = m.now().Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "delay")) * time.Minute)
		case 1:
			x.Expires = m.now().Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "life")) * time.Minute)
		case 2, 3, 4, 5:
			x.Key = []byte{byte('a' + rapid.IntRange(0, 2).Draw(rt, "key"))}
		}
		msgs = append(msgs, x)
	}
	return msgs
}

func (m *model) took(t *modelTopic, msgs []message.Message) {
	for _, x := range msgs {
		t.msgs = append(t.msgs, x)
		if t.dedup {
			t.known[x.ID] = true
		}
	}
	if len(msgs) > 0 {
		m.committed()
	}
}

// survivor is a random way to lose power.
func survivor(rt *rapid.T) (*rand.Rand, vfs.Survival, bool) {
	return rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1)), rapid.SampledFrom(vfs.Survivals()).Draw(rt, "survival"), rapid.Bool().Draw(rt, "names")
}
