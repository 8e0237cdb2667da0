// Package queuetest is the conformance suite of the queue engines: one set of
// behaviours that every implementation of [queue.Engine] must show.
package queuetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// Features describe the engine under test.
type Features struct {
	// Open returns an engine over the same storage each time; the suite closes it before
	// it opens it again.
	Open func(t *testing.T) queue.Engine
	// Durable: what was published is there after Close and Open.
	Durable bool
}

// patience bounds the wait for what must happen; nothing in the suite takes so long.
const patience = 20 * time.Second

// Run runs the suite. newFeatures is called for each test, with fresh storage.
func Run(t *testing.T, newFeatures func(t *testing.T) Features) {
	t.Helper()
	tests := []struct {
		name string
		f    func(t *testing.T, s *suite)
	}{
		{"messages come in the order of their offsets", testOrder},
		{"all properties come back", testProperties},
		{"unusual payloads come back", testPayloads},
		{"the caller may reuse its memory after publish", testCopies},
		{"a receiver may change what it received", testMutation},
		{"receivers of one subscription compete", testCompete},
		{"subscriptions are independent", testIndependent},
		{"a new subscription begins at the earliest held message", testEarliest},
		{"a second subscribe returns the same subscription", testOneObject},
		{"a released message comes again", testRelease},
		{"a released message comes again after its delay", testReleaseDelay},
		{"max in flight bounds what is handed out", testMaxInFlight},
		{"closing a subscription gives back what is in flight", testCloseSubscription},
		{"atomic publishes and settles", testAtomic},
		{"atomic refuses foreign topics", testForeign},
		{"browse changes nothing", testBrowse},
		{"stats count the backlog", testStats},
		{"receive ends with its context", testReceiveContext},
		{"close ends receivers", testCloseEndsReceivers},
		{"close is idempotent and concurrent", testConcurrentClose},
		{"calls after close say so", testAfterClose},
		{"a message that is too large is refused", testTooLarge},
		{"a delayed message comes at its time, and holds up nobody", testDelay},
		{"an expired message goes to the dead letters, or is dropped", testExpiry},
		{"the highest priority comes first", testPriority},
		{"a key waits for its earlier messages", testKeyOrder},
		{"failed attempts back off, are counted and end", testAttempts},
		{"what is not settled in time comes again", testAckTimeout},
		{"an ID is taken once within the window", testDedup},
		{"a twin in one call, and one in a transaction", testDedupTwins},
		{"seek goes back and forth", testSeek},
		{"kept messages are there for seek and browse", testKeep},
		{"purge settles for everybody", testPurge},
		{"delete ends a topic", testDelete},
		{"unsubscribe ends a subscription", testUnsubscribe},
		{"options that would lose messages are refused", testBadOptions},
		{"what was said of topics and messages holds after reopening", testReopenSchedule},
		{"unsettled messages come again after reopening", testReopen},
		{"settled messages stay settled after reopening", testReopenSettled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &suite{t: t, f: newFeatures(t)}
			s.open()
			defer s.close()
			tt.f(t, s)
		})
	}
}

// suite is one test's engine.
type suite struct {
	t *testing.T
	f Features
	e queue.Engine
}

func (s *suite) open() { s.e = s.f.Open(s.t) }

func (s *suite) close() {
	s.t.Helper()
	if err := s.e.Close(s.ctx()); err != nil {
		s.t.Errorf("close: %v", err)
	}
}

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), patience)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *suite) topic(name string) queue.Topic {
	s.t.Helper()
	t, err := s.e.Topic(s.ctx(), name)
	if err != nil {
		s.t.Fatalf("open topic: %v", err)
	}
	return t
}

func (s *suite) subscribe(t queue.Topic, name string, inFlight int) queue.Subscription {
	s.t.Helper()
	sub, err := t.Subscribe(s.ctx(), name, queue.SubOptions{MaxInFlight: inFlight})
	if err != nil {
		s.t.Fatalf("subscribe: %v", err)
	}
	return sub
}

func (s *suite) publish(t queue.Topic, msgs ...message.Message) uint64 {
	s.t.Helper()
	first, err := t.Publish(s.ctx(), msgs)
	if err != nil {
		s.t.Fatalf("publish: %v", err)
	}
	return first
}

func (s *suite) publishN(t queue.Topic, n int) {
	s.t.Helper()
	for i := range n {
		s.publish(t, text(i))
	}
}

func text(i int) message.Message {
	return message.Message{ID: strconv.Itoa(i), Payload: fmt.Appendf(nil, "payload %d", i)}
}

// receive collects n records.
func (s *suite) receive(sub queue.Subscription, n int) []queue.Record {
	s.t.Helper()
	var out []queue.Record
	ctx := s.ctx()
	for len(out) < n {
		r, err := sub.Receive(ctx, n-len(out))
		if err != nil {
			s.t.Fatalf("receive after %d of %d: %v", len(out), n, err)
		}
		out = append(out, r...)
	}
	return out
}

// none checks that nothing is there to be received.
func (s *suite) none(sub queue.Subscription) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx(), 30*time.Millisecond)
	defer cancel()
	if r, err := sub.Receive(ctx, 1); err == nil {
		s.t.Fatalf("received offset %d, want nothing", r[0].Offset)
	}
}

func offsets(records []queue.Record) []uint64 {
	out := make([]uint64, len(records))
	for i := range records {
		out[i] = records[i].Offset
	}
	return out
}

func (s *suite) ack(sub queue.Subscription, offsets ...uint64) {
	s.t.Helper()
	if err := sub.Ack(offsets...); err != nil {
		s.t.Fatalf("ack: %v", err)
	}
}

func (s *suite) want(got []uint64, want ...uint64) {
	s.t.Helper()
	if !slices.Equal(got, want) {
		s.t.Fatalf("offsets %v, want %v", got, want)
	}
}

func testOrder(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publish(topic, text(0), text(1), text(2))
	if first := s.publish(topic, text(3)); first != 3 {
		t.Errorf("first offset %d, want 3", first)
	}
	got := s.receive(sub, 4)
	s.want(offsets(got), 0, 1, 2, 3)
	for i, r := range got {
		if r.Message.ID != strconv.Itoa(i) || r.Delivery != 1 || time.Since(r.Appended) > time.Minute {
			t.Errorf("record %d: id %q, delivery %d, appended %v", i, r.Message.ID, r.Delivery, r.Appended)
		}
	}
}

// full is a message with every property.
func full() message.Message {
	return message.Message{
		ID: "id-1", Key: []byte("key"), Topic: "orders/eu", Time: time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC),
		ContentType: "application/json", CorrelationID: "corr", ReplyTo: "replies", Priority: 9,
		Expires: time.Date(2900, 1, 1, 0, 0, 0, 0, time.FixedZone("x", 3600)), Source: "in", Attempt: 3,
		Headers: message.Headers{
			{Name: "s", Value: message.String("text \x00 \xff")},
			{Name: "s", Value: message.String("")},
			{Name: "", Value: message.Value{}},
			{Name: "b", Value: message.Bytes([]byte{0, 255})},
			{Name: "t", Value: message.Bool(true)},
			{Name: "f", Value: message.Bool(false)},
			{Name: "i", Value: message.Int(-1 << 63)},
			{Name: "d", Value: message.Float(-0.5)},
			{Name: "at", Value: message.Time(time.Unix(-5, 0))},
		},
		Payload: []byte(`{"a":1}`),
	}
}

func diff(want, got message.Message) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b message.Value) bool { return a == b }), cmpopts.EquateEmpty())
}

func testProperties(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	want := []message.Message{full(), {}, {Key: []byte{}}, {Time: time.Unix(-1<<40, 5)}}
	s.publish(topic, want...)
	for i, r := range s.receive(sub, len(want)) {
		if d := diff(want[i], r.Message); d != "" {
			t.Errorf("message %d (-want +got):\n%s", i, d)
		}
		if (r.Message.Key == nil) != (want[i].Key == nil) {
			t.Errorf("message %d: an empty key is not an absent one", i)
		}
	}
}

func testPayloads(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	large := make([]byte, 9<<20)
	for i := range large {
		large[i] = byte(i * 7 >> 3)
	}
	want := [][]byte{{}, {0}, []byte("\xff\xfe not UTF-8"), large, []byte("after")}
	for _, p := range want {
		s.publish(topic, message.Message{Payload: p})
	}
	for i, r := range s.receive(sub, len(want)) {
		if !slices.Equal(r.Message.Payload, want[i]) {
			t.Errorf("payload %d of %d bytes differs", i, len(want[i]))
		}
	}
}

func testCopies(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	m := full()
	s.publish(topic, m)
	m.Payload[0], m.Key[0], m.Headers[0].Name = '!', '!', "!"
	if d := diff(full(), s.receive(sub, 1)[0].Message); d != "" {
		t.Error(d)
	}
}

func testMutation(t *testing.T, s *suite) {
	topic := s.topic("a")
	x, y := s.subscribe(topic, "x", 0), s.subscribe(topic, "y", 0)
	s.publish(topic, full())
	r := s.receive(x, 1)[0]
	r.Message.Payload[0], r.Message.Key[0] = '!', '!'
	if d := diff(full(), s.receive(y, 1)[0].Message); d != "" {
		t.Error(d)
	}
	if err := x.Release(0, 0); err != nil {
		t.Fatal(err)
	}
	if d := diff(full(), s.receive(x, 1)[0].Message); d != "" {
		t.Error(d)
	}
}

func testCompete(t *testing.T, s *suite) {
	const n, receivers = 500, 4
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 64)
	var mu sync.Mutex
	seen := map[uint64]int{}
	ctx, cancel := context.WithCancel(s.ctx())
	defer cancel()
	g := run.NewGroup(ctx)
	for range receivers {
		g.Go("receiver", func(ctx context.Context) error {
			for {
				records, err := sub.Receive(ctx, 7)
				if err != nil {
					return nil //nolint:nilerr // the end of the test ends the receiver
				}
				if !slices.IsSorted(offsets(records)) {
					t.Errorf("offsets of one receive are out of order: %v", offsets(records))
				}
				mu.Lock()
				for _, r := range records {
					seen[r.Offset]++
				}
				if len(seen) == n {
					cancel()
				}
				mu.Unlock()
				if err := sub.Ack(offsets(records)...); err != nil {
					return err
				}
			}
		})
	}
	s.publishN(topic, n)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for o, times := range seen {
		if times != 1 {
			t.Errorf("offset %d received %d times", o, times)
		}
	}
	if len(seen) != n {
		t.Errorf("received %d, want %d", len(seen), n)
	}
	if st := sub.Stats(); st.Floor != n || st.Backlog != 0 || st.InFlight != 0 {
		t.Errorf("stats %+v", st)
	}
}

func testIndependent(t *testing.T, s *suite) {
	topic := s.topic("a")
	x, y := s.subscribe(topic, "x", 0), s.subscribe(topic, "y", 0)
	s.publishN(topic, 3)
	s.ack(x, offsets(s.receive(x, 3))...)
	s.want(offsets(s.receive(y, 3)), 0, 1, 2)
	if got := topic.Stats(); got.Messages != 3 {
		t.Errorf("%d messages held, want 3", got.Messages)
	}
}

func testEarliest(_ *testing.T, s *suite) {
	topic := s.topic("a")
	s.publishN(topic, 5)
	x := s.subscribe(topic, "x", 0)
	s.want(offsets(s.receive(x, 5)), 0, 1, 2, 3, 4)
	s.ack(x, 0, 1, 3)
	y := s.subscribe(topic, "y", 0)
	s.want(offsets(s.receive(y, 2)), 2, 4) // 3 is not held for anybody
}

func testOneObject(t *testing.T, s *suite) {
	topic := s.topic("a")
	x := s.subscribe(topic, "x", 0)
	if again := s.subscribe(topic, "x", 0); again != x {
		t.Error("two objects for one subscription")
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if again := s.subscribe(topic, "x", 0); again == x {
		t.Error("a closed subscription was returned")
	}
}

func testRelease(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 4)
	s.receive(sub, 3)
	if err := sub.Release(0, 2, 0); err != nil {
		t.Fatal(err)
	}
	got := s.receive(sub, 3) // what was released comes first, in order
	s.want(offsets(got), 0, 2, 3)
	if got[0].Delivery != 2 || got[2].Delivery != 1 {
		t.Errorf("deliveries %d and %d, want 2 and 1", got[0].Delivery, got[2].Delivery)
	}
	s.ack(sub, 0)
	if err := sub.Release(0, 0); err != nil { // settled: there is nothing to give back
		t.Fatal(err)
	}
	s.none(sub)
}

func testReleaseDelay(t *testing.T, s *suite) {
	topic := s.topic("a")
	sub := s.subscribe(topic, "x", 0)
	s.publishN(topic, 3)
	s.receive(sub, 3)
	start := time.Now()
	if err := sub.Release(80*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	if err := sub.Release(20*time.Millisecond, 1); err != nil {
		t.Fatal(err)
	}
	s.want(offsets(s.receive(sub, 2)), 1, 0)
	if took := time.Since(start); took < 80*time.Millisecond {
		t.Errorf("came back after %v, want 80ms", took)
	}
}
