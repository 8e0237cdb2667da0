package mqtt

import (
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// refuser is a hook of the broker that refuses some publishes.
type refuser struct {
	mochi.HookBase

	topic string
	code  packets.Code
}

func (h *refuser) ID() string           { return "refuser" }
func (h *refuser) Provides(b byte) bool { return b == mochi.OnPublish }
func (h *refuser) OnPublish(_ *mochi.Client, p packets.Packet) (packets.Packet, error) {
	if p.TopicName == h.topic {
		return p, h.code
	}
	return p, nil
}

// door lets in nobody with a wrong password.
type door struct{ mochi.HookBase }

func (*door) ID() string           { return "door" }
func (*door) Provides(b byte) bool { return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck }
func (*door) OnConnectAuthenticate(_ *mochi.Client, p packets.Packet) bool {
	return string(p.Connect.Username) == "" || string(p.Connect.Password) == "p"
}
func (*door) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// testBroker can be stopped more than once.
type testBroker struct {
	*mochi.Server

	stop func()
}

// publish passes a message to the subscribers and waits until they have acknowledged
// it: this broker can lock up when a publish meets an acknowledgement. It also loses
// what meets a client that comes back, so such a message is published again.
func (b *testBroker) publish(topic string, payload []byte) error {
	for {
		before := b.Clients.GetAll()
		if err := b.publishOnce(topic, payload); err != nil {
			return err
		}
		came := false
		for id, c := range b.Clients.GetAll() {
			came = came || before[id] != c || c.Closed()
		}
		if !came {
			return nil
		}
	}
}

func (b *testBroker) publishOnce(topic string, payload []byte) error {
	if err := b.Publish(topic, payload, false, 1); err != nil {
		return err
	}
	for limit := time.Now().Add(5 * time.Second); b.Info.Clone().Inflight > 0 && time.Now().Before(limit); {
		<-time.After(100 * time.Microsecond)
	}
	return nil
}

// waitOnline returns when the source is connected: what this broker stores for a
// client that is away comes in any order.
func (b *testBroker) waitOnline(t testing.TB) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; {
		waitSubscribed(t, b, 1)
		if c, ok := b.Clients.Get("linkspan-p-orders"); ok && !c.Closed() && c.State.Inflight.Len() == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("the source did not connect")
		}
		<-time.After(time.Millisecond)
	}
}

// startBroker runs a broker on addr, or on a free port.
func startBroker(t testing.TB, addr string, hooks ...mochi.Hook) (*testBroker, string) {
	t.Helper()
	server := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	hooks = append([]mochi.Hook{&door{}}, hooks...)
	for _, h := range hooks {
		if err := server.AddHook(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(listeners.NewNet("l", ln)); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { _ = server.Close() })
	t.Cleanup(stop)
	return &testBroker{server, stop}, ln.Addr().String()
}

// waitSubscribed returns when the broker knows n subscriptions.
func waitSubscribed(t testing.TB, server *testBroker, n int64) {
	t.Helper()
	limit := time.Now().Add(10 * time.Second)
	for server.Info.Clone().Subscriptions < n {
		if time.Now().After(limit) {
			t.Fatal("nobody subscribed")
		}
		<-time.After(time.Millisecond)
	}
	<-time.After(20 * time.Millisecond) // SUBSCRIBE must be over: see publish
}
