package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/queue/watermill"
)

var (
	_ wm.Publisher            = (*watermill.Publisher)(nil)
	_ wm.Subscriber           = (*watermill.Subscriber)(nil)
	_ wm.SubscribeInitializer = (*watermill.Subscriber)(nil)
)

func subscriber(t *testing.T, e queue.Engine, c watermill.SubscriberConfig) *watermill.Subscriber {
	t.Helper()
	if c.Group == "" {
		c.Group = "g"
	}
	s, err := watermill.NewSubscriber(e, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func subscribe(t *testing.T, s *watermill.Subscriber) <-chan *wm.Message {
	t.Helper()
	in, err := s.Subscribe(context.Background(), "t")
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func publish(t *testing.T, e queue.Engine, ids ...string) {
	t.Helper()
	var msgs []*wm.Message
	for _, id := range ids {
		msgs = append(msgs, wm.NewMessage(id, []byte(id)))
	}
	if err := watermill.NewPublisher(e, watermill.PublisherConfig{}).Publish("t", msgs...); err != nil {
		t.Fatal(err)
	}
}

// next receives the message with this id, which nobody has to wait for in vain.
func next(t *testing.T, in <-chan *wm.Message, id string) *wm.Message {
	t.Helper()
	select {
	case m := <-in:
		if m == nil || m.UUID != id {
			t.Fatalf("got %v, want message %s", m, id)
		}
		return m
	case <-time.After(30 * time.Second):
		t.Fatalf("message %s does not come", id)
		return nil
	}
}

func backlog(t *testing.T, e queue.Engine) uint64 {
	t.Helper()
	topic, err := e.Topic(context.Background(), "t")
	if err != nil {
		t.Fatal(err)
	}
	return topic.Stats().Subscriptions[0].Backlog
}

// What goes in comes out, in the queue's own terms too, and shares no memory.
func TestMapping(t *testing.T) {
	e := memoryEngine(t)
	p := watermill.NewPublisher(e, watermill.PublisherConfig{Key: func(topic string, m *wm.Message) []byte {
		return []byte(topic + m.Metadata.Get("customer"))
	}})
	m := wm.NewMessage("id-1", []byte("payload"))
	m.Metadata.Set("customer", "7")
	m.Metadata.Set("a", "")
	if err := p.Publish("t", m); err != nil {
		t.Fatal(err)
	}
	m.Payload[0] = 'X'

	topic, err := e.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range topic.Browse(t.Context(), queue.Start{}) {
		if err != nil {
			t.Fatal(err)
		}
		want := message.Headers{{Name: "a", Value: message.String("")}, {Name: "customer", Value: message.String("7")}}
		if r.Message.ID != "id-1" || string(r.Message.Key) != "t7" || string(r.Message.Payload) != "payload" || !slices.Equal(r.Message.Headers, want) {
			t.Errorf("stored %+v", r.Message)
		}
	}
	got := next(t, subscribe(t, subscriber(t, e, watermill.SubscriberConfig{})), "id-1")
	if string(got.Payload) != "payload" || len(got.Metadata) != 2 || got.Metadata["customer"] != "7" {
		t.Errorf("received %q with %v", got.Payload, got.Metadata)
	}
	got.Payload[0] = 'X'
	for r := range topic.Browse(t.Context(), queue.Start{}) {
		if string(r.Message.Payload) != "payload" {
			t.Error("the receiver has written into the queue")
		}
	}
	got.Ack()
}

// Headers of other origin are handed out as text, the first of a name.
func TestForeignHeaders(t *testing.T) {
	e := memoryEngine(t)
	topic, err := e.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	m := message.Message{ID: "1"}
	m.Headers.Add("n", message.Int(42))
	m.Headers.Add("twice", message.String(""))
	m.Headers.Add("twice", message.String("second"))
	if _, err := topic.Publish(t.Context(), []message.Message{m}); err != nil {
		t.Fatal(err)
	}
	got := next(t, subscribe(t, subscriber(t, e, watermill.SubscriberConfig{})), "1")
	if got.Metadata["n"] != "42" || got.Metadata["twice"] != "" || len(got.Metadata) != 2 {
		t.Errorf("metadata %v", got.Metadata)
	}
	got.Ack()
}

// A message that is too large leaves nothing of its unit behind.
func TestPublishIsOneUnit(t *testing.T) {
	e := memoryEngine(t)
	p := watermill.NewPublisher(e, watermill.PublisherConfig{})
	err := p.Publish("t", wm.NewMessage("1", nil), wm.NewMessage("2", make([]byte, 65<<20)))
	if !errors.Is(err, message.ErrTooLarge) {
		t.Errorf("publish: %v", err)
	}
	if err := p.Publish("t"); err != nil {
		t.Errorf("publish nothing: %v", err)
	}
	topic, err := e.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if s := topic.Stats(); s.Next != 0 {
		t.Errorf("%d messages were stored", s.Next)
	}
}

// The context of the first message bounds the publish.
func TestPublishContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := watermill.NewPublisher(memoryEngine(t), watermill.PublisherConfig{}).Publish("t", wm.NewMessageWithContext(ctx, "1", nil))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("publish: %v", err)
	}
}

func TestClosed(t *testing.T) {
	e := memoryEngine(t)
	if _, err := watermill.NewSubscriber(e, watermill.SubscriberConfig{}); err == nil {
		t.Error("a subscriber without a group was made")
	}
	p, s := watermill.NewPublisher(e, watermill.PublisherConfig{}), subscriber(t, e, watermill.SubscriberConfig{})
	for range 2 {
		if err := errors.Join(p.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
	_, err := s.Subscribe(t.Context(), "t")
	for _, err := range []error{p.Publish("t", wm.NewMessage("1", nil)), s.SubscribeInitialize("t"), err} {
		if !errors.Is(err, watermill.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
	if names := e.Topics(); len(names) != 0 {
		t.Errorf("topics %v were made after close", names)
	}
}

// A refused message comes after the delay and before the next one.
func TestNackKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.New()
		publish(t, e, "1", "2")
		s := subscriber(t, e, watermill.SubscriberConfig{NackResendDelay: time.Minute})
		in := subscribe(t, s)
		(<-in).Nack()
		start := time.Now()
		for _, id := range []string{"1", "2"} {
			m := <-in
			if m.UUID != id || time.Since(start) != time.Minute {
				t.Errorf("message %s came after %v, want %s after a minute", m.UUID, time.Since(start), id)
			}
			m.Ack()
		}
	})
}

// With several in flight, a refused message does not hold up the others.
func TestNackConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.New()
		publish(t, e, "1", "2", "3", "4")
		s := subscriber(t, e, watermill.SubscriberConfig{MaxInFlight: 2, NackResendDelay: time.Minute})
		in := subscribe(t, s)
		a, b := <-in, <-in
		select {
		case m := <-in:
			t.Fatalf("message %s came as the third", m.UUID)
		case <-time.After(time.Hour):
		}
		start := time.Now()
		a.Nack()
		b.Ack()
		for _, id := range []string{"3", "4"} {
			if m := <-in; m.UUID != id || !m.Ack() || time.Since(start) != 0 {
				t.Errorf("message %s came after %v, want %s at once", m.UUID, time.Since(start), id)
			}
		}
		if m := <-in; m.UUID != "1" || !m.Ack() || time.Since(start) != time.Minute {
			t.Errorf("message %s came after %v, want 1 after a minute", m.UUID, time.Since(start))
		}
	})
}

// An acknowledgement counts within CloseTimeout after Close, and the message is free
// for others afterwards.
func TestCloseTimeout(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late=", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := memory.New()
				publish(t, e, "1", "2")
				s := subscriber(t, e, watermill.SubscriberConfig{CloseTimeout: time.Minute})
				in := subscribe(t, s)
				m := <-in
				start := time.Now()
				var closing sync.WaitGroup
				closing.Go(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				<-m.Context().Done()
				if _, open := <-in; open {
					t.Error("a message came after close")
				}
				want, left := time.Minute, uint64(2)
				if !late {
					want, left = time.Second, 1
					time.Sleep(want)
					m.Ack()
				}
				closing.Wait()
				if took := time.Since(start); took != want || backlog(t, e) != left {
					t.Errorf("close took %v with a backlog of %d, want %v and %d", took, backlog(t, e), want, left)
				}
				other := subscriber(t, e, watermill.SubscriberConfig{})
				if m := <-subscribe(t, other); m.UUID != strconv.FormatUint(3-left, 10) || !m.Ack() {
					t.Errorf("message %s came next", m.UUID)
				}
			})
		})
	}
}

// The end of its context ends one Subscribe call and nothing else.
func TestContextEndsOneSubscription(t *testing.T) {
	e := memoryEngine(t)
	s := subscriber(t, e, watermill.SubscriberConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	first, err := s.Subscribe(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	second := subscribe(t, s)
	cancel()
	if m, open := <-first; open {
		t.Fatalf("message %s came", m.UUID)
	}
	publish(t, e, "1")
	next(t, second, "1").Ack()
}

// Without an engine there is nothing to wait for.
func TestEngineClosed(t *testing.T) {
	e := memoryEngine(t)
	in := subscribe(t, subscriber(t, e, watermill.SubscriberConfig{}))
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, open := <-in; open {
		t.Error("a message came from a closed engine")
	}
}

// A group that is new gets what the topic still holds: what another has not settled.
func TestNewGroup(t *testing.T) {
	e := memoryEngine(t)
	publish(t, e, "1", "2")
	s := subscriber(t, e, watermill.SubscriberConfig{Group: "old", CloseTimeout: -1})
	in := subscribe(t, s)
	next(t, in, "1").Ack()
	next(t, in, "2")
	next(t, subscribe(t, subscriber(t, e, watermill.SubscriberConfig{Group: "new"})), "2").Ack()
}

// What was published and not acknowledged comes again from the disk, in order.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	open := func() queue.Engine {
		e, err := journal.Open(t.Context(), dir, journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := open()
	publish(t, e, "1", "2", "3")
	s := subscriber(t, e, watermill.SubscriberConfig{CloseTimeout: -1})
	in := subscribe(t, s)
	next(t, in, "1").Ack()
	next(t, in, "2")
	if err := errors.Join(s.Close(), e.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
	e = closed(t, open())
	in = subscribe(t, subscriber(t, e, watermill.SubscriberConfig{}))
	next(t, in, "2").Ack()
	next(t, in, "3").Ack()
}
