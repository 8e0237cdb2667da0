package googlepubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/ThreeDotsLabs/watermill-googlecloud/v2/pkg/googlecloud"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) {
	// The client's goroutine that pings ends at its next ping, in up to half a minute; the
	// worker of metrics lives as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreAnyFunction("cloud.google.com/go/pubsub/v2.(*messageIterator).streamKeepAliveHandler"))
}

func testEnv(t testing.TB) connectors.Env {
	return connectors.Env{Pipeline: "p", Name: "n", Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), MaxMessage: 16 << 20}
}

func node(t testing.TB, yaml string) config.Node {
	t.Helper()
	var r config.Report
	f := config.Parse("x.yaml", []byte(yaml), config.Lookup{}, &r)
	if f == nil || r.Failed() {
		t.Fatal(r.Problems())
	}
	return f.Root()
}

func buildSource(t testing.TB, yaml string) connectors.Source {
	t.Helper()
	var r config.Report
	build, _ := Spec().Source.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	s, err := build(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func buildSink(t testing.TB, yaml string) connectors.Sink {
	t.Helper()
	var r config.Report
	build, _, options := Spec().Sink.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	for i, o := range options {
		o.Index = i
	}
	s, err := build(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// double is Google's in-process fake with a client for the test.
type double struct {
	*pstest.Server

	client *pubsub.Client
	pubs   map[string]*pubsub.Publisher
}

func startDouble(t *testing.T, topics ...string) *double {
	t.Helper()
	s := pstest.NewServer()
	service := Service{Endpoint: s.Addr}
	client, err := pubsub.NewClient(t.Context(), "p", service.options()...)
	if err != nil {
		t.Fatal(err)
	}
	d := &double{s, client, map[string]*pubsub.Publisher{}}
	for _, topic := range topics {
		if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/" + topic}); err != nil {
			t.Fatal(err)
		}
		d.pubs[topic] = client.Publisher(topic)
		d.pubs[topic].EnableMessageOrdering = true
		d.pubs[topic].PublishSettings.CountThreshold = 1
		_, err := client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
			Name: "projects/p/subscriptions/" + topic, Topic: "projects/p/topics/" + topic, EnableMessageOrdering: true, AckDeadlineSeconds: 10,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, p := range d.pubs {
			p.Stop()
		}
		_ = client.Close()
		_ = s.Close()
	})
	return d
}

func (d *double) send(ctx context.Context, topic string, m message.Message) error {
	attributes := map[string]string{googlecloud.UUIDHeaderKey: m.ID}
	for _, h := range m.Headers {
		attributes[h.Name] = h.Value.Text()
	}
	_, err := d.pubs[topic].Publish(ctx, &pubsub.Message{Data: m.Payload, Attributes: attributes, OrderingKey: "one"}).Get(ctx)
	return err
}

// received returns what was published to the topic with these ordering keys.
func (d *double) received(t *testing.T, topic string, n int) (out []message.Message) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		out = out[:0]
		for _, m := range d.Messages() {
			if m.Topic != "projects/p/topics/"+topic {
				continue
			}
			got := message.Message{ID: m.Attributes[googlecloud.UUIDHeaderKey], Key: []byte(m.OrderingKey), Payload: m.Data}
			for name, value := range m.Attributes {
				got.Headers.Add(name, message.String(value))
			}
			out = append(out, got)
		}
		if len(out) >= n || time.Now().After(limit) {
			return out
		}
	}
}

// The suite of the output against the fake. That of the input asks for one order of all
// messages, which Pub/Sub has only within an ordering key, and the client needs a tenth of
// a second for each message of one; TestSourceLosesNothing stands for it.
func TestSuite(t *testing.T) {
	d := startDouble(t, "out")
	connectortest.Run(t, connectortest.Harness{
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink {
				return buildSink(t, "{project: p, endpoint: '"+d.Addr+"', topic: out}")
			},
			Received: func(t *testing.T, n int) []message.Message { return d.received(t, "out", n) },
			Away: func(t *testing.T) connectors.Sink {
				return buildSink(t, "{project: p, endpoint: '127.0.0.1:1', topic: out}")
			},
		},
	}, connectortest.Features{Headers: true, Single: true, LineBreaks: true, NUL: true})
}

// Every message arrives although hand-overs fail and the input stops in between, and each
// stop is prompt and without an error.
func TestSourceLosesNothing(t *testing.T) {
	d := startDouble(t, "in")
	const n = 300
	for i := range n {
		d.Publish("projects/p/topics/in", fmt.Append(nil, i), nil)
	}
	seen := map[string]bool{}
	for round := 0; len(seen) < n; round++ {
		if round == 20 {
			t.Fatalf("%d of %d messages arrived", len(seen), n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		calls, before := 0, len(seen)
		err := buildSource(t, "{project: p, endpoint: '"+d.Addr+"', topic: in, subscription: in, batch: 20, max_in_flight: 50}").Run(ctx,
			message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
				if calls++; calls%2 == 1 && calls < 8 {
					return errors.New("not now")
				}
				for i := range b.Messages {
					seen[string(b.Messages[i].Payload)] = true
				}
				if len(seen) >= min(before+100, n) {
					cancel()
				}
				return nil
			}))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	// What the service has as acknowledged was handed on; the rest comes again.
	for _, m := range d.Messages() {
		if m.Acks > 0 && !seen[string(m.Data)] {
			t.Errorf("%s was acknowledged and not handed on", m.Data)
		}
	}
}

// The ordering key, the id and the time are properties and no headers.
func TestProperties(t *testing.T) {
	d := startDouble(t, "in", "out")
	k := buildSink(t, "{project: p, endpoint: '"+d.Addr+"', topic: out, ordering_key: payload.id}")
	if err := k.Handle(t.Context(), &message.Batch{Messages: []message.Message{{ID: "i", Payload: []byte("x"), Options: []string{"eu"}}}}); err != nil {
		t.Fatal(err)
	}
	if got := d.received(t, "out", 1); string(got[0].Key) != "eu" || got[0].ID != "i" || len(got[0].Headers) != 1 {
		t.Errorf("%+v", got[0])
	}
	if err := k.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.send(t.Context(), "in", message.Message{Headers: message.Headers{{Name: "a", Value: message.String("1")}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got message.Message
	err := buildSource(t, "{project: p, endpoint: '"+d.Addr+"', topic: in, subscription: in}").Run(ctx, message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
		got = b.Messages[0].Clone()
		cancel()
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Key) != "one" || got.ID == "" || len(got.Headers) != 1 || got.Headers.Text("a") != "1" || time.Since(got.Time) > time.Hour {
		t.Errorf("%+v", got)
	}
}

// What Pub/Sub does not take is a refusal of the message, and others go on.
func TestRefusals(t *testing.T) {
	d := startDouble(t, "out")
	k := buildSink(t, "{project: p, endpoint: '"+d.Addr+"', topic: out}")
	headers := func(name, value string) message.Message {
		return message.Message{Headers: message.Headers{{Name: name, Value: message.String(value)}}}
	}
	b := &message.Batch{Messages: []message.Message{
		{Payload: []byte("good")},
		headers("goog-x", "1"), headers("a", strings.Repeat("x", 1025)), headers(strings.Repeat("x", 257), ""),
		headers("a", "\xff"),
		{Payload: make([]byte, 10_000_000)},
		{ID: "\xff"},
		{Payload: []byte("good too")},
	}}
	err := k.Handle(t.Context(), b)
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok || len(partial.Failed) != 6 {
		t.Fatalf("%v", err)
	}
	for n, f := range partial.Failed {
		if reason, ok := errors.AsType[*message.Reason](f.Err); !ok || !reason.Permanent || f.Index != n+1 {
			t.Errorf("message %d: %v", f.Index, f.Err)
		}
	}
	if got := d.received(t, "out", 2); len(got) != 2 {
		t.Errorf("%d messages arrived", len(got))
	}
	if err := k.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestConfigurations(t *testing.T) {
	for _, c := range []struct{ end, yaml, want string }{
		{"in", `{project: p, topic: t, subscription: s, create: true, max_in_flight: 10, endpoint: "h:1"}`, ""},
		{"in", `{project: p, topic: t}`, `"subscription" is missing`},
		{"in", `{project: p, topic: t, subscription: s, max_in_flight: 0}`, "must be positive"},
		{"in", `{project: p, topic: t, subscription: s, subscriptions: 2}`, "many messages at once"},
		{"out", `{project: p, topic: t, ordering_key: payload.id}`, ""},
		{"out", `{topic: t}`, `"project" is missing`},
	} {
		var r config.Report
		if c.end == "in" {
			Spec().Source.Decode(node(t, c.yaml), &r)
		} else {
			Spec().Sink.Decode(node(t, c.yaml), &r)
		}
		text := texts(&r)
		if c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q", c.yaml, text)
		}
	}
}

func texts(r *config.Report) string {
	var b strings.Builder
	for _, p := range r.Problems() {
		b.WriteString(p.Text())
	}
	return b.String()
}
