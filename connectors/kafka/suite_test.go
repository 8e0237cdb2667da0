package kafka

import (
	"context"
	"net"
	"testing"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/message"
)

// recordOf is what another client would send.
func recordOf(m *message.Message) *kgo.Record {
	r := &kgo.Record{Topic: "orders", Key: m.Key, Value: append([]byte{}, m.Payload...)}
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

func TestSuite(t *testing.T) {
	in := startCluster(t, kfake.SeedTopics(1, "orders"))
	out := startCluster(t, kfake.SeedTopics(1, "orders"))
	locked := startCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "p"))
	env := testEnv(t)
	sender := newClient(t, in.ListenAddrs())
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New: func(t *testing.T) connectors.Source { return newTestSource(t, env, in.ListenAddrs(), nil) },
			Send: func(ctx context.Context, m message.Message) error {
				return sender.ProduceSync(ctx, recordOf(&m)).FirstErr()
			},
			Intruder: func(t *testing.T) error {
				return newTestSource(t, env, locked.ListenAddrs(), func(c *SourceConfig) {
					c.Auth = &Auth{Mechanism: mechanismPlain, User: "u", Password: secret("wrong")}
				}).Run(t.Context(), nil)
			},
		},
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink { return newTestSink(t, out.ListenAddrs(), nil) },
			Received: func(t *testing.T, n int) []message.Message {
				var got []message.Message
				for _, r := range read(t, out.ListenAddrs(), "orders", max(n, sent(t, out.ListenAddrs()))) {
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
