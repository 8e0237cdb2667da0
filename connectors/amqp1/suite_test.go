package amqp1

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// runSuite runs the suite against a peer with two empty addresses. A peer that takes
// anybody has no intruders.
func runSuite(t *testing.T, p peer, in, out string, anybody bool) {
	sender, err := client(t, p).NewSender(t.Context(), in, nil)
	if err != nil {
		t.Fatal(err)
	}
	received := collect(t, p, out)
	source := &connectortest.Source{
		New: func(t *testing.T) connectors.Source { return testSource(t, p, in, nil) },
		Send: func(ctx context.Context, m message.Message) error {
			e := encoder{durable: true}
			if m.Priority == 0 {
				m.Priority = message.NormalPriority
			}
			wire, _ := e.write(&m, time.Now())
			return sender.Send(ctx, wire, nil)
		},
		Intruder: func(t *testing.T) error {
			return testSource(t, p, in, func(c *SourceConfig) {
				c.Auth = &Auth{User: p.user, Password: config.NewSecret("wrong")}
			}).Run(t.Context(), nil)
		},
	}
	if anybody {
		source.Intruder = nil
	}
	connectortest.Run(t, connectortest.Harness{
		Source: source,
		Sink: &connectortest.Sink{
			New:      func(t *testing.T) connectors.Sink { return testSink(t, p, out, nil) },
			Received: func(t *testing.T, n int) []message.Message { return received.wait(t, n) },
			Away: func(t *testing.T) connectors.Sink {
				ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				return testSink(t, peer{address: "amqp://" + ln.Addr().String()}, out, nil)
			},
		},
	}, connectortest.Features{Redelivers: true, Headers: true, LineBreaks: true, Single: true})
}
