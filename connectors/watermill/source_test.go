package watermill

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// outcome says what became of a message.
func outcome(m *wm.Message) string {
	select {
	case <-m.Acked():
		return "ack"
	case <-m.Nacked():
		return "nack"
	default:
		return ""
	}
}

func settled(ms []*wm.Message) func() bool {
	return func() bool {
		for _, m := range ms {
			if outcome(m) == "" {
				return false
			}
		}
		return true
	}
}

func feed(n int) (*pubsub, []*wm.Message) {
	p := &pubsub{feed: make(chan *wm.Message, n)}
	var ms []*wm.Message
	for i := range n {
		m := wm.NewMessage(fmt.Sprint("id-", i), fmt.Append(nil, "m-", i))
		ms = append(ms, m)
		p.feed <- m
	}
	return p, ms
}

// What the pipeline took is acknowledged, the rest handed back, and the subscription stays.
func TestSourceAnswersForEachMessage(t *testing.T) {
	for _, c := range []struct {
		name string
		err  func(b *message.Batch) error
		want func(i int) string
	}{
		{"taken", func(*message.Batch) error { return nil }, func(int) string { return "ack" }},
		{"nothing taken", func(*message.Batch) error { return errNotNow }, func(int) string { return "nack" }},
		{"one for good not taken", func(b *message.Batch) error {
			var failed []message.Failed
			for i := range b.Messages {
				if b.Messages[i].ID == "id-3" {
					failed = append(failed, message.Failed{Index: i, Err: message.ErrTooLarge})
				}
			}
			if failed == nil {
				return nil
			}
			return &message.PartialError{Failed: failed}
		}, func(i int) string { return map[bool]string{true: "nack", false: "ack"}[i == 3] }},
		{"a panic", func(*message.Batch) error { panic("x") }, func(int) string { return "nack" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ms := feed(6)
			spec, _ := owned(p)
			stop := start(t, buildSource(t, spec, `{topic: t}`), func(_ context.Context, b *message.Batch) error { return c.err(b) })
			eventually(t, "answers", settled(ms))
			for i, m := range ms {
				if outcome(m) != c.want(i) {
					t.Errorf("message %d: %s", i, outcome(m))
				}
			}
			if p.closedTimes() != 0 {
				t.Error("the subscription did not stay")
			}
			if err := stop(); err != nil || p.closedTimes() != 1 {
				t.Errorf("stopped with %v, closed %d times", err, p.closedTimes())
			}
		})
	}
}

// Nothing is acknowledged while the pipeline works, and a stop lets it finish.
func TestSourceAcknowledgesAfterTheHandOver(t *testing.T) {
	p, ms := feed(1)
	entered, release := make(chan struct{}), make(chan struct{})
	spec, _ := owned(p)
	stop := start(t, buildSource(t, spec, `{topic: t}`), func(context.Context, *message.Batch) error {
		close(entered)
		<-release
		return nil
	})
	<-entered
	if outcome(ms[0]) != "" {
		t.Fatal("answered before the hand-over returned")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	select {
	case <-stopped:
		t.Fatal("it did not wait for the hand-over")
	default:
	}
	close(release)
	if err := <-stopped; err != nil || outcome(ms[0]) != "ack" {
		t.Errorf("%v %q", err, outcome(ms[0]))
	}
}

// Subscriptions compete, and their messages have no key then.
func TestSourceSubscriptionsCompete(t *testing.T) {
	p, ms := feed(3)
	p.single = true
	spec, _ := owned(p)
	var mu sync.Mutex
	inside, most := 0, 0
	all := make(chan struct{})
	start(t, buildSource(t, spec, `{topic: t, subscriptions: 3, batch: 1}`), func(_ context.Context, b *message.Batch) error {
		mu.Lock()
		inside++
		if most = max(most, inside); most == 3 {
			close(all)
		}
		mu.Unlock()
		if b.Messages[0].Key != nil {
			t.Error("it has a key")
		}
		<-all
		return nil
	})
	eventually(t, "three at once", settled(ms))
}

// A subscription that ends by itself is a failure, which the supervisor answers.
func TestSourceWhoseSubscriptionEnds(t *testing.T) {
	p, _ := feed(0)
	close(p.feed)
	spec, _ := owned(p)
	err := buildSource(t, spec, `{topic: t}`).Run(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "LS4391") || p.closedTimes() != 1 {
		t.Errorf("%v, closed %d times", err, p.closedTimes())
	}
}

// Of borrows: a stop closes nothing.
func TestOfBorrows(t *testing.T) {
	p, ms := feed(1)
	spec := Of("x", p, p)
	stop := start(t, buildSource(t, spec.Source, `{topic: t}`), func(context.Context, *message.Batch) error { return nil })
	eventually(t, "an ack", settled(ms))
	_ = stop()
	k := buildSink(t, spec.Sink, `{topic: t}`)
	if err := k.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(t.Context()); err != nil || p.closedTimes() != 0 {
		t.Errorf("%v, closed %d times", err, p.closedTimes())
	}
	if only := Of("y", p, nil); only.Sink != nil || only.Source == nil {
		t.Error("a connector without a publisher has an output")
	}
}

// What Watermill carries arrives, in one order.
func TestSourceReads(t *testing.T) {
	p, _ := feed(0)
	m := wm.NewMessage("u-1", []byte("x"))
	m.Metadata = wm.Metadata{"b": "2", "a": "1\r\n", "c": "", "correlation_id": "c-1"}
	p.feed = make(chan *wm.Message, 1)
	p.feed <- m
	spec, _ := owned(p)
	got := make(chan message.Message, 1)
	start(t, buildSource(t, spec, `{topic: orders}`), func(_ context.Context, b *message.Batch) error {
		got <- b.Messages[0].Clone()
		return nil
	})
	have := <-got
	want := message.Message{
		ID: "u-1", Key: []byte("orders"), Topic: "orders", Time: have.Time, CorrelationID: "c-1", Priority: message.NormalPriority,
		Source: "n", Attempt: 1, Payload: []byte("x"),
		Headers: message.Headers{{Name: "a", Value: message.String("1\r\n")}, {Name: "b", Value: message.String("2")}, {Name: "c", Value: message.String("")}},
	}
	if d := cmp.Diff(want, have, cmp.Comparer(func(a, b message.Value) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestConfiguration(t *testing.T) {
	type own struct {
		In

		Group string `yaml:"group"`
	}
	source := Source(Subscribing[own]{})
	_, sink := owned(&pubsub{})
	for _, c := range []struct{ end, yaml, want string }{
		{"in", `{topic: t, group: g, subscriptions: 4, batch: 10}`, ""},
		{"in", `{group: g}`, `"topic" is missing`},
		{"in", `{topic: ""}`, "the topic is empty"},
		{"in", `{topic: t, subscriptions: 1000}`, "1000 subscriptions are not possible"},
		{"in", `{topic: t, batch: -1}`, "a batch of -1 messages is not possible"},
		{"in", `{topic: t, bach: 1}`, "bach"},
		{"out", `{topic: t, one_by_one: true, timeout: 5s}`, ""},
		{"out", `{topic: {expr: payload.x, allow: [a]}}`, ""},
		{"out", `{}`, `"topic" is missing`},
		{"out", `{topic: t, timeout: -1s}`, "duration"},
	} {
		var r config.Report
		if c.end == "in" {
			source.Decode(node(t, c.yaml), &r)
		} else {
			sink.Decode(node(t, c.yaml), &r)
		}
		text := texts(&r)
		if c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q", c.yaml, text)
		}
	}
	_, traits := source.Decode(node(t, `{topic: t, subscriptions: 2}`), new(config.Report))
	if traits.OrderKey != "" || !traits.Brokered || !traits.Redelivers {
		t.Errorf("%+v", traits)
	}
}

func texts(r *config.Report) string {
	var b strings.Builder
	for _, p := range r.Problems() {
		b.WriteString(p.Text())
	}
	return b.String()
}
