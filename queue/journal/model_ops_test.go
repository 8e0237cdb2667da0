package journal_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

func (m *model) publish(rt *rapid.T) {
	t := m.drawTopic(rt)
	msgs := m.messages(rt, t)
	first, err := m.topic(rt, t).Publish(context.Background(), msgs)
	if err != nil || first != uint64(len(t.msgs)) {
		rt.Fatalf("publish: offset %d, %v; want %d", first, err, len(t.msgs))
	}
	m.took(t, msgs)
}

// twins publishes messages again, among new ones. The topic that remembers takes the new
// ones only.
func (m *model) twins(rt *rapid.T) {
	t := m.topics[1]
	if len(t.msgs) == 0 {
		m.publish(rt)
		return
	}
	fresh := m.messages(rt, t)
	twin := t.msgs[rapid.IntRange(0, len(t.msgs)-1).Draw(rt, "twin")]
	if rapid.Bool().Draw(rt, "alone") {
		fresh = nil
	}
	if _, err := m.topic(rt, t).Publish(context.Background(), append([]message.Message{msg(twin.ID)}, fresh...)); err != nil {
		rt.Fatalf("publish a twin: %v", err)
	}
	m.took(t, fresh)
}

func (m *model) subscribe(rt *rapid.T) {
	if t := m.drawTopic(rt); len(t.subs) < 3 {
		m.subscribeTo(rt, t)
	} else {
		m.publish(rt)
	}
}

func (m *model) subscribeTo(rt *rapid.T, t *modelTopic) {
	s := newModelSub(strconv.Itoa(t.made), queue.Order(rapid.IntRange(0, 2).Draw(rt, "order")))
	t.made++
	for o := range uint64(len(t.msgs)) {
		s.settled[o] = !t.held(o)
	}
	t.subs = append(t.subs, s)
	m.sub(rt, t, s)
	m.committed()
}

func (m *model) receive(rt *rapid.T) {
	t, s := m.drawSub(rt)
	limit := rapid.IntRange(1, 8).Draw(rt, "limit")
	want := m.available(t, s)
	want = want[:min(len(want), limit, 10-len(s.inFlight))]
	if len(want) == 0 {
		m.publish(rt)
		return
	}
	records, err := m.sub(rt, t, s).Receive(context.Background(), limit)
	if err != nil || len(records) == 0 || len(records) > len(want) {
		rt.Fatalf("receive: %d records, %v; want %v", len(records), err, want)
	}
	for _, r := range records {
		for len(want) > 1 && want[0] != r.Offset && m.behindExpired(t, s, want[0]) {
			want = want[1:]
		}
		x := &t.msgs[want[0]]
		if r.Offset != want[0] || r.Message.ID != x.ID || string(r.Message.Payload) != string(x.Payload) {
			rt.Fatalf("received offset %d id %q, want %v\n%s", r.Offset, r.Message.ID, want, m.describe(t, s))
		}
		if r.Attempt != s.attempts[r.Offset]+1 {
			rt.Fatalf("received offset %d as attempt %d, want %d", r.Offset, r.Attempt, s.attempts[r.Offset]+1)
		}
		want = want[1:]
		s.inFlight[r.Offset] = true
		if s.order == queue.ByKey && x.Key != nil {
			s.holds[string(x.Key)] = r.Offset
		}
	}
}

// behindExpired reports whether a message may wait for one of its key that expired and
// is retired by the very call that could have brought it.
func (m *model) behindExpired(t *modelTopic, s *modelSub, o uint64) bool {
	key := t.msgs[o].Key
	return s.order == queue.ByKey && key != nil && slices.ContainsFunc(t.msgs, func(x message.Message) bool {
		return string(x.Key) == string(key) && x.Expired(m.now())
	})
}

// some draws offsets that are in flight.
func some(rt *rapid.T, s *modelSub) []uint64 {
	var out []uint64
	for o := range s.inFlight {
		out = append(out, o)
	}
	if len(out) == 0 {
		return nil
	}
	slices.Sort(out)
	return rapid.Permutation(out).Draw(rt, "offsets")[:rapid.IntRange(1, len(out)).Draw(rt, "count")]
}

func (m *model) ack(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	if offsets == nil {
		m.receive(rt)
		return
	}
	if err := m.sub(rt, t, s).Ack(offsets...); err != nil {
		rt.Fatalf("ack: %v", err)
	}
	s.settle(offsets, t)
}

func (m *model) release(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	if offsets == nil {
		m.receive(rt)
		return
	}
	if err := m.sub(rt, t, s).Release(0, offsets...); err != nil {
		rt.Fatalf("release: %v", err)
	}
	for _, o := range offsets {
		delete(s.inFlight, o)
	}
}

func (m *model) nack(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	if offsets == nil {
		m.receive(rt)
		return
	}
	delay := time.Duration(rapid.IntRange(0, 3).Draw(rt, "delay")) * time.Minute
	if err := m.sub(rt, t, s).Nack(delay, offsets...); err != nil {
		rt.Fatalf("nack: %v", err)
	}
	for _, o := range offsets {
		s.attempts[o]++
		s.dues[o] = append(s.dues[o], m.now().Add(delay))
		delete(s.inFlight, o)
	}
}

func (m *model) atomic(rt *rapid.T) {
	t, s := m.drawSub(rt)
	offsets := some(rt, s)
	if offsets == nil {
		m.receive(rt)
		return
	}
	to := m.drawTopic(rt)
	msgs := m.messages(rt, to)
	err := m.e.Atomic(context.Background(), queue.Tx{
		Publish: []queue.TxPublish{{Topic: m.topic(rt, to), Messages: msgs}},
		Ack:     []queue.TxAck{{Subscription: m.sub(rt, t, s), Offsets: offsets}},
	})
	if err != nil {
		rt.Fatalf("atomic: %v", err)
	}
	s.settle(offsets, t)
	m.took(to, msgs)
}

// wait moves the clock, so that nothing is due at this very second.
func (m *model) wait(rt *rapid.T) {
	m.clock.Add(int64(time.Duration(rapid.IntRange(1, 10).Draw(rt, "minutes"))*time.Minute + 10*time.Second))
}

// seek goes back or forth. What everybody had settled may be gone already.
func (m *model) seek(rt *rapid.T) {
	t, s := m.drawSub(rt)
	to := uint64(rapid.IntRange(0, len(t.msgs)).Draw(rt, "to"))
	gone := map[uint64]bool{}
	for o := range uint64(len(t.msgs)) {
		gone[o] = !t.held(o)
	}
	if err := m.sub(rt, t, s).Seek(context.Background(), queue.At(to)); err != nil {
		rt.Fatalf("seek: %v", err)
	}
	for o := range uint64(len(t.msgs)) {
		if s.settled[o] || o < to { // its attempts are not counted any more
			delete(s.attempts, o)
			delete(s.counted, o)
			delete(s.dues, o)
		}
		s.settled[o] = o < to
		s.unsure[o] = o >= to && (gone[o] || m.maybe(t, o))
	}
	clear(s.stable)
	s.restart()
	m.adopt(rt, t, s, func(o uint64) bool { return gone[o] || m.maybe(t, o) })
	m.committed()
}

func (m *model) purge(rt *rapid.T) {
	t := m.drawTopic(rt)
	if len(t.subs) == 0 {
		m.publish(rt)
		return
	}
	before := uint64(rapid.IntRange(0, len(t.msgs)).Draw(rt, "before"))
	if err := m.topic(rt, t).Purge(context.Background(), queue.At(before)); err != nil {
		rt.Fatalf("purge: %v", err)
	}
	for _, s := range t.subs {
		for o := range before {
			s.settle([]uint64{o}, t)
		}
	}
	m.committed()
}

// unsubscribe leaves one subscription at least: what a topic without any shows depends
// on what was freed already.
func (m *model) unsubscribe(rt *rapid.T) {
	t := m.drawTopic(rt)
	if len(t.subs) < 2 {
		m.publish(rt)
		return
	}
	i := rapid.IntRange(0, len(t.subs)-1).Draw(rt, "subscription")
	if err := m.topic(rt, t).Unsubscribe(context.Background(), t.subs[i].name); err != nil {
		rt.Fatalf("unsubscribe: %v", err)
	}
	t.subs = slices.Delete(t.subs, i, i+1)
	m.committed()
}

func (m *model) remove(rt *rapid.T) {
	if rapid.IntRange(0, 9).Draw(rt, "really") > 0 {
		m.publish(rt)
		return
	}
	i := rapid.IntRange(0, 1).Draw(rt, "topic")
	t := m.topics[i]
	if err := m.e.Delete(context.Background(), t.name); err != nil {
		rt.Fatalf("delete: %v", err)
	}
	m.topics[i] = newModelTopic(t.name, t.dedup)
	m.topic(rt, m.topics[i])
	m.committed()
}

func (m *model) reopen(rt *rapid.T) {
	m.close(rt)
	m.open(rt)
	m.forget()
	m.committed()
}

// crash cuts the power. Acknowledgements and failed attempts that were not stable come
// back, so the model takes over what the subscriptions say, which must be on the safe
// side.
func (m *model) crash(rt *rapid.T) {
	rng, mode, names := survivor(rt)
	disk := m.mem.Crash(rng, mode, names)
	m.close(rt)
	m.mem = disk
	m.open(rt)
	m.forget()
	for _, t := range m.topics {
		for _, s := range t.subs {
			m.adopt(rt, t, s, func(o uint64) bool { return m.maybe(t, o) })
		}
	}
}

// describe says what the model knows of the messages that a subscription has left.
func (m *model) describe(t *modelTopic, s *modelSub) string {
	var out strings.Builder
	fmt.Fprintf(&out, "order %d, now %v, in flight %v, keys %v\n", s.order, m.now(), s.inFlight, s.holds)
	for o := range uint64(len(t.msgs)) {
		if x := &t.msgs[o]; !s.settled[o] {
			fmt.Fprintf(&out, "  %d: key %q priority %d not before %v expires %v attempts %d due %v\n", o, x.Key, x.Priority, x.NotBefore, x.Expires, s.attempts[o], s.due(o))
		}
	}
	return out.String()
}
