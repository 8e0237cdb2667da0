package kafka

import (
	"context"
	"net"
	"testing"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/message"
)

// recordOf is what another client would send.
func recordOf(topic string, m *message.Message) *kgo.Record {
	r := &kgo.Record{Topic: topic, Key: m.Key, Value: append([]byte{}, m.Payload...)}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value.Text())})
	}
	return r
}

func messageOf(r *kgo.Record) message.Message {
	m := message.Message{Payload: r.Value, Key: r.Key}
	for _, h := range r.Headers {
		if utf8.Valid(h.Value) {
			m.Headers.Add(h.Key, message.String(string(h.Value)))
		} else {
			m.Headers.Add(h.Key, message.Bytes(h.Value))
		}
	}
	return m
}

// peer is a cluster that the suite runs against, with a topic of one partition for each
// direction.
type peer struct {
	brokers []string
	in, out string
	// intruder changes a source to one that is not let in.
	intruder func(*SourceConfig)
}

func (p *peer) suite(t *testing.T) {
	env := testEnv(t)
	sender := newClient(t, p.brokers)
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New: func(t *testing.T) connectors.Source {
				return newTestSource(t, env, p.brokers, func(c *SourceConfig) { c.Topics, c.Group = []string{p.in}, p.in })
			},
			Send: func(ctx context.Context, m message.Message) error {
				return sender.ProduceSync(ctx, recordOf(p.in, &m)).FirstErr()
			},
			Intruder: func(t *testing.T) error {
				return newTestSource(t, env, p.brokers, p.intruder).Run(t.Context(), nil)
			},
		},
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink {
				return newTestSink(t, p.brokers, func(c *SinkConfig) { c.Topic.Literal = p.out })
			},
			Received: func(t *testing.T, n int) []message.Message {
				var got []message.Message
				for _, r := range read(t, p.brokers, p.out, max(n, sent(t, p.brokers, p.out))) {
					got = append(got, messageOf(r))
				}
				return got
			},
			Away: func(t *testing.T) connectors.Sink {
				ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				return newTestSink(t, []string{ln.Addr().String()}, nil)
			},
		},
	}, connectortest.Features{Redelivers: true, Headers: true, LineBreaks: true, NUL: true})
}

func TestSuite(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "in", "out"))
	locked := startCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "p"))
	(&peer{c.ListenAddrs(), "in", "out", func(c *SourceConfig) {
		c.Brokers, c.Auth = locked.ListenAddrs(), &Auth{Mechanism: mechanismPlain, User: "u", Password: secret("wrong")}
	}}).suite(t)
}

// sent is the number of records in a topic.
func sent(t testing.TB, brokers []string, topic string) int {
	t.Helper()
	cl := newClient(t, brokers)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ends.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
	return n
}
