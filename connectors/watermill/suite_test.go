package watermill

import (
	"context"
	"sync"
	"testing"

	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// The suite runs over Watermill's Go channels, in the way that Of takes them. They block
// a publisher until its message is acknowledged; otherwise they keep no order.
func TestSuite(t *testing.T) {
	in := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, nil)
	out := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, nil)
	got := collect(t, out, "out")
	hangs := make(chan struct{})
	t.Cleanup(func() { close(hangs); _ = in.Close(); _ = out.Close() })
	ready := &announced{Subscriber: in, subscribed: make(chan struct{}, 1)}
	spec := Of("go", ready, out)
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New:   func(t *testing.T) connectors.Source { return buildSource(t, spec.Source, `{topic: in}`) },
			Ready: func(*testing.T) { <-ready.subscribed },
			Send: func(ctx context.Context, m message.Message) error {
				w := newSlab(&message.Batch{Messages: []message.Message{m}}).add(ctx, &m)
				return in.Publish("in", w)
			},
		},
		Sink: &connectortest.Sink{
			New:      func(t *testing.T) connectors.Sink { return buildSink(t, spec.Sink, `{topic: out}`) },
			Received: got.wait,
			Away: func(t *testing.T) connectors.Sink {
				away := &pubsub{decide: func(string, []*wm.Message) error { <-hangs; return nil }}
				return buildSink(t, Of("away", nil, away).Sink, `{topic: out}`)
			},
		},
	}, connectortest.Features{Acknowledges: true, Redelivers: true, Headers: true, Single: true, LineBreaks: true, NUL: true})
}

// announced tells when somebody has subscribed: what is published before is gone.
type announced struct {
	wm.Subscriber

	subscribed chan struct{}
}

// Subscribe implements wm.Subscriber.
func (a *announced) Subscribe(ctx context.Context, topic string) (<-chan *wm.Message, error) {
	out, err := a.Subscriber.Subscribe(ctx, topic)
	a.subscribed <- struct{}{}
	return out, err
}

// collected is what a subscription of the test has received.
type collected struct {
	mu  sync.Mutex
	all []message.Message
}

func collect(t *testing.T, sub wm.Subscriber, topic string) *collected {
	t.Helper()
	c := &collected{}
	group := run.NewGroup(t.Context())
	messages, err := sub.Subscribe(group.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	group.Go("collect", func(context.Context) error {
		for m := range messages {
			got := message.Message{ID: m.UUID, Payload: m.Payload}
			for name, value := range m.Metadata {
				got.Headers.Add(name, message.String(value))
			}
			c.mu.Lock()
			c.all = append(c.all, got)
			c.mu.Unlock()
			m.Ack()
		}
		return nil
	})
	t.Cleanup(func() { group.Stop(); _ = group.Wait() })
	return c
}

func (c *collected) wait(t *testing.T, n int) []message.Message {
	t.Helper()
	var got []message.Message
	eventually(t, "messages at the peer", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		got = append(got[:0], c.all...)
		return len(got) >= n
	})
	return got
}
