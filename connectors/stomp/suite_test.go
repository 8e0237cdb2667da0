package stomp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestSuiteDial(t *testing.T) {
	for _, version := range []string{"1.0", "1.1", "1.2"} {
		for _, ack := range []string{ackIndividual, ackCumulative} {
			t.Run("version "+version+" "+ack, func(t *testing.T) {
				d := startDouble(t, "", doubleOptions{password: "p"})
				auth := &Auth{User: "app", Password: config.NewSecret("p")}
				sink := func(t *testing.T, addr string) connectors.Sink {
					return testSink(t, addr, func(c *SinkConfig) { c.Version, c.Auth, c.Transactions = version, auth, ack == ackCumulative })
				}
				connectortest.Run(t, connectortest.Harness{
					Source: &connectortest.Source{
						New: func(t *testing.T) connectors.Source {
							return testDialSource(t, d.addr(), func(c *SourceConfig) { c.Version, c.Ack, c.Auth = version, ack, auth })
						},
						Send: func(_ context.Context, m message.Message) error {
							x := &doubleMessage{destination: "/queue/in", body: m.Payload, headers: [][2]string{{"content-length", strconv.Itoa(len(m.Payload))}}}
							for _, h := range m.Headers {
								x.headers = append(x.headers, [2]string{h.Name, h.Value.Text()})
							}
							d.put(x)
							return nil
						},
						Intruder: func(t *testing.T) error {
							return testDialSource(t, d.addr(), func(c *SourceConfig) {
								c.Auth = &Auth{User: "app", Password: config.NewSecret("wrong")}
							}).Run(t.Context(), nil)
						},
					},
					Sink: &connectortest.Sink{
						New:      func(t *testing.T) connectors.Sink { return sink(t, d.addr()) },
						Received: func(t *testing.T, n int) []message.Message { return received(t, d, n) },
						Away: func(t *testing.T) connectors.Sink {
							ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
							if err != nil {
								t.Fatal(err)
							}
							t.Cleanup(func() { _ = ln.Close() })
							return sink(t, ln.Addr().String())
						},
					},
				}, connectortest.Features{Redelivers: true, Headers: true, LineBreaks: version == "1.2"})
			})
		}
	}
}

func received(t *testing.T, d *double, n int) (out []message.Message) {
	d.wait(t, fmt.Sprintf("%d messages", n), func() bool { return len(d.sent) >= n })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.sent {
		x := message.Message{Payload: m.body, Topic: m.destination}
		for _, h := range m.headers {
			x.Headers.Add(h[0], message.String(h[1]))
		}
		out = append(out, x)
	}
	return out
}

func TestSuiteListener(t *testing.T) {
	env := testEnv(t)
	for _, version := range []string{"1.0", "1.1", "1.2"} {
		t.Run("version "+version, func(t *testing.T) {
			var addr string
			listen := func(t *testing.T, change func(*SourceConfig)) (src connectors.Source) {
				src, addr = listener(t, env, change)
				return src
			}
			connectortest.Run(t, connectortest.Harness{Source: &connectortest.Source{
				New:  func(t *testing.T) connectors.Source { return listen(t, nil) },
				Send: func(ctx context.Context, m message.Message) error { return sendOnce(ctx, addr, version, "", m) },
				Intruder: func(t *testing.T) error {
					startSource(t, listen(t, func(c *SourceConfig) {
						c.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret("p")}}
					}), newRecorder())
					return sendOnce(t.Context(), addr, version, "wrong", message.Message{})
				},
			}}, connectortest.Features{Acknowledges: true, Headers: true, LineBreaks: version != "1.0"})
		})
	}
}

// sendOnce connects, sends, waits for the receipt and leaves. It uses the double's
// reader and writer.
func sendOnce(ctx context.Context, addr, version, password string, m message.Message) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c, r := &doubleConn{conn: conn}, bufio.NewReader(conn)
	c.send("CONNECT", nil, "accept-version", version, "host", "/", "client-id", "sender", "login", "u", "passcode", password)
	if f, err := c.read(r); err != nil || f.command != "CONNECTED" {
		return fmt.Errorf("got %s %q %w", f.command, f.body, err)
	}
	c.version = version
	headers := []string{"destination", "/queue/a", "receipt", "r:1", "content-length", strconv.Itoa(len(m.Payload))}
	for _, h := range m.Headers {
		headers = append(headers, h.Name, h.Value.Text())
	}
	c.send("SEND", m.Payload, headers...)
	if f, err := c.read(r); err != nil || f.command != "RECEIPT" || f.get("receipt-id") != "r:1" {
		return fmt.Errorf("got %s %w", f.command, err)
	}
	c.send("DISCONNECT", nil)
	return nil
}
