package amqp091

import (
	"context"
	"net"
	"testing"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestSuite(t *testing.T) {
	b := startDouble(t)
	b.queue("in")
	b.queue("out")
	runSuite(t, b.peer(), "in", "out")
}

// runSuite runs the suite against a broker with two empty queues.
func runSuite(t *testing.T, p peer, in, out string) {
	ch := client(t, p)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	env := testEnv(t)
	received := collect(t, p, out)
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New:  func(t *testing.T) connectors.Source { return testSource(t, p, env, in, nil) },
			Send: func(ctx context.Context, m message.Message) error { return publish(ctx, ch, in, m) },
			Intruder: func(t *testing.T) error {
				return testSource(t, p, env, in, func(c *SourceConfig) {
					c.Auth = &Auth{User: p.user, Password: config.NewSecret("wrong")}
				}).Run(t.Context(), nil)
			},
		},
		Sink: &connectortest.Sink{
			New:      func(t *testing.T) connectors.Sink { return testSink(t, p, out, nil) },
			Received: func(t *testing.T, n int) []message.Message { return received.wait(t, n) },
			Away: func(t *testing.T) connectors.Sink {
				ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				return testSink(t, peer{"amqp://" + ln.Addr().String(), "u", "p"}, out, nil)
			},
		},
	}, connectortest.Features{Redelivers: true, Headers: true, LineBreaks: true})
}
