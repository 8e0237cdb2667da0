package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestSuiteListener(t *testing.T) {
	env := testEnv(t)
	var addr string
	listen := func(t *testing.T, change func(*SourceConfig)) connectors.Source {
		cfg := sourceDefaults()
		cfg.Listen, cfg.Topics = "127.0.0.1:0", []string{"orders/#"}
		if change != nil {
			change(&cfg)
		}
		src, err := newSource(cfg, env, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := src.(connectors.Binder).Bind(t.Context()); err != nil {
			t.Fatal(err)
		}
		addr = src.(*listenSource).station.ln.Addr().String()
		return src
	}
	for _, version := range []byte{version311, version5} {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("version %d qos %d", version, qos), func(t *testing.T) {
				connectortest.Run(t, connectortest.Harness{Source: &connectortest.Source{
					New: func(t *testing.T) connectors.Source { return listen(t, nil) },
					Send: func(ctx context.Context, m message.Message) error {
						return publishOnce(ctx, addr, version, qos, "", m)
					},
					Intruder: func(t *testing.T) error {
						src := listen(t, func(c *SourceConfig) { c.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret("p")}} })
						startSource(t, src, newRecorder())
						return publishOnce(t.Context(), addr, version, qos, "wrong", message.Message{})
					},
				}}, connectortest.Features{Acknowledges: true, Headers: version == version5, LineBreaks: true})
			})
		}
	}
}

func TestSuiteDial(t *testing.T) {
	for _, version := range []string{"3.1.1", "5"} {
		t.Run("version "+version, func(t *testing.T) {
			server, addr := startBroker(t, "")
			env := testEnv(t)
			var mu sync.Mutex
			var got []message.Message
			if err := server.Subscribe("out/#", 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) {
				mu.Lock()
				defer mu.Unlock()
				m := message.Message{Payload: p.Payload}
				for _, u := range p.Properties.User {
					m.Headers.Add(u.Key, message.String(u.Val))
				}
				got = append(got, m)
			}); err != nil {
				t.Fatal(err)
			}
			source := func(t *testing.T, change func(*SourceConfig)) connectors.Source {
				return testDialSource(t, env, addr, func(c *SourceConfig) {
					c.Version = version
					if change != nil {
						change(c)
					}
				})
			}
			connectortest.Run(t, connectortest.Harness{
				Source: &connectortest.Source{
					New:   func(t *testing.T) connectors.Source { return source(t, nil) },
					Ready: func(t *testing.T) { server.waitOnline(t) },
					Send: func(ctx context.Context, m message.Message) error {
						if m.Headers == nil {
							return server.publish("orders/a", m.Payload)
						}
						// This broker acknowledges before it passes a message on, so messages of
						// several connections lose their order.
						return publishOnce(ctx, addr, version5, 1, "", m)
					},
					Intruder: func(t *testing.T) error {
						return source(t, func(c *SourceConfig) {
							c.ClientID = "intruder"
							c.Auth = &Auth{User: "u", Password: config.NewSecret("wrong")}
						}).Run(t.Context(), nil)
					},
				},
				Sink: &connectortest.Sink{
					New: func(t *testing.T) connectors.Sink {
						return newTestSink(t, addr, func(c *SinkConfig) { c.Version = version })
					},
					Received: func(t *testing.T, n int) []message.Message {
						limit := time.Now().Add(5 * time.Second)
						for {
							mu.Lock()
							out := append([]message.Message(nil), got...)
							mu.Unlock()
							if len(out) >= n {
								return out
							}
							if time.Now().After(limit) {
								t.Fatalf("%d messages, want %d", len(out), n)
							}
							<-time.After(time.Millisecond)
						}
					},
					Away: func(t *testing.T) connectors.Sink {
						ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = ln.Close() })
						return newTestSink(t, ln.Addr().String(), nil)
					},
				},
			}, connectortest.Features{Redelivers: true, Headers: version == "5"})
		})
	}
}

// publishOnce connects, publishes, waits for the acknowledgement and leaves.
func publishOnce(ctx context.Context, addr string, version, qos byte, password string, m message.Message) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	l := newLink(conn, 1<<20)
	defer context.AfterFunc(ctx, l.stop)()
	c := connectPacket{version: version, clientID: "sender", cleanStart: true, keepAlive: 30}
	if password != "" {
		c.hasUser, c.user, c.hasPassword, c.password = true, "u", true, password
	}
	var props []byte
	if version == version5 {
		for _, h := range m.Headers { // also those that our own clients do not send
			props = appendText(appendText(append(props, propUser), h.Name), h.Value.Text())
		}
	}
	pub := publication{qos: qos, id: 1, topic: []byte("orders/a"), payload: m.Payload}
	if err := l.send(c.encode(nil)); err != nil {
		return err
	}
	done := errors.New("acknowledged")
	err = l.pump(0, func(p packet) error {
		switch p.kind() {
		case kindConnack:
			if p.body[1] != 0 {
				return fmt.Errorf("connack %x", p.body[1])
			}
			return l.send(pub.append(nil, version, props))
		case kindPubrec:
			if len(p.body) > 2 && p.body[2] >= 0x80 {
				return fmt.Errorf("pubrec %x", p.body[2])
			}
			return l.send(appendAck(nil, version, kindPubrel, 1, 0))
		case kindPuback:
			if len(p.body) > 2 && p.body[2] >= 0x80 {
				return fmt.Errorf("puback %x", p.body[2])
			}
			return done
		case kindPubcomp:
			return done
		default:
			return fmt.Errorf("packet %x", p.first)
		}
	}, func() {})
	if errors.Is(err, done) {
		return l.send(encodeDisconnect(version, 0))
	}
	return err
}
