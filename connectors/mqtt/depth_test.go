package mqtt

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestListenerLimitsUsers(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, func(c *SourceConfig) {
		c.Auth = &Auth{
			Users:   map[string]config.Secret{"a": config.NewSecret("p"), "b": config.NewSecret("p")},
			Publish: map[string][]string{"a": {"orders/a/#", "elsewhere/#"}},
		}
	})
	as := func(user string) func(*paho.Connect) {
		return func(c *paho.Connect) {
			c.ClientID, c.Username, c.UsernameFlag, c.Password, c.PasswordFlag = "c-"+user, user, true, []byte("p"), true
		}
	}
	a, _ := connect5(t, addr, as("a"))
	b, _ := connect5(t, addr, as("b"))
	for _, c := range []struct {
		client *paho.Client
		topic  string
		ok     bool
	}{
		{a, "orders/a/1", true}, {a, "orders/b/1", false}, {a, "orders/a", true}, {a, "elsewhere/1", false}, {b, "orders/b/1", true},
	} {
		resp, err := c.client.Publish(t.Context(), &paho.Publish{QoS: 1, Topic: c.topic})
		if (resp != nil && resp.ReasonCode == reasonNotAuthorized) == c.ok || c.ok && err != nil {
			t.Errorf("%s: %+v %v", c.topic, resp, err)
		}
	}
	will := as("a")
	_, ack := connect5(t, addr, func(c *paho.Connect) {
		will(c)
		c.WillMessage = &paho.WillMessage{Topic: "orders/b/1", QoS: 1}
	})
	if ack.ReasonCode != reasonNotAuthorized {
		t.Errorf("a will for another topic: %+v", ack)
	}
}

// The broker publishes the will of a sink and of a source when they are cut off.
func TestWillOfOurOwnClients(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		server, addr := startBroker(t, "")
		got := make(chan packets.Packet, 2)
		if err := server.Subscribe("status/#", 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) { got <- p }); err != nil {
			t.Fatal(err)
		}
		will := &Will{Topic: "status/bridge", Payload: "lost", QoS: 1}
		s := newTestSink(t, addr, func(c *SinkConfig) { c.Version, c.Will = version, will })
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = s.(*sink).out.link.conn.Close() // without a goodbye
		src := testDialSource(t, testEnv(t), addr, func(c *SourceConfig) { c.Version, c.Will = version, will })
		group := run.NewGroup(t.Context())
		group.Go("source", func(ctx context.Context) error {
			_ = src.Run(ctx, newRecorder()) // it is cut off
			return nil
		})
		waitSubscribed(t, server, 1)
		for _, c := range server.Clients.GetAll() {
			if c.ID == "linkspan-p-orders" {
				_ = c.Net.Conn.Close()
			}
		}
		for range 2 {
			select {
			case p := <-got:
				if string(p.Payload) != "lost" || p.TopicName != "status/bridge" {
					t.Errorf("got %+v", p)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no will")
			}
		}
		_ = group.Wait()
	}
}

// Topics are sent as numbers to a broker that takes them, also when more topics than
// numbers are used and several lanes publish at once.
func TestSinkUsesTopicAliases(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil) // takes 16 aliases
	s := newTestSink(t, addr, func(c *SinkConfig) { c.Topic = config.Option{Expr: someExpr(t)} })
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var lanes sync.WaitGroup
	errs := make(chan error, 4)
	for lane := range 4 {
		lanes.Go(func() {
			for n := range 20 {
				b := &message.Batch{}
				for i := range 25 {
					topic := "orders/" + strconv.Itoa((lane+n+i)%20)
					b.Messages = append(b.Messages, message.Message{Payload: []byte(topic), Options: []string{topic}})
				}
				if err := s.Handle(t.Context(), b); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	lanes.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	for _, m := range h.wait(t, 2000) {
		if m.Topic != string(m.Payload) {
			t.Fatalf("what was sent to %s arrived at %s", m.Payload, m.Topic)
		}
	}
	known := 0
	for _, a := range s.(*sink).out.aliases.topics {
		if a.known.Load() {
			known++
		}
	}
	if known != 16 {
		t.Errorf("%d aliases are in use", known)
	}
}

func someExpr(t *testing.T) config.Expr {
	t.Helper()
	var report config.Report
	return config.Expr{Source: "x", Node: config.Parse("p.yaml", []byte("x: y\n"), config.Lookup{}, &report).Root().Get("x")}
}
