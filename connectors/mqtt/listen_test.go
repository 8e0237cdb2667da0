package mqtt

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestListenerTakesVersion5(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil)
	c, ack := connect5(t, addr, nil)
	if ack.Properties.TopicAliasMaximum == nil || *ack.Properties.TopicAliasMaximum != 16 || *ack.Properties.ReceiveMaximum != 1024 {
		t.Errorf("connack %+v", ack.Properties)
	}
	expiry := uint32(60)
	for qos := range byte(3) {
		resp, err := c.Publish(t.Context(), &paho.Publish{
			QoS: qos, Topic: "orders/a", Retain: qos == 1, Payload: []byte{0xff, qos},
			Properties: &paho.PublishProperties{
				ContentType: "text/plain", ResponseTopic: "replies/x", CorrelationData: []byte("c-1"), MessageExpiry: &expiry,
				User: paho.UserProperties{{Key: "k", Value: "v1"}, {Key: "k", Value: "a\r\nb: c"}, {Key: headerRetain, Value: "forged"}},
			},
		})
		if err != nil || resp != nil && resp.ReasonCode != 0 {
			t.Fatalf("qos %d: %v %+v", qos, err, resp)
		}
	}
	got := h.wait(t, 3)
	for i, m := range got {
		if m.Topic != "orders/a" || string(m.Key) != "dev-1\x00orders/a" || !bytes.Equal(m.Payload, []byte{0xff, byte(i)}) ||
			m.ContentType != "text/plain" || m.ReplyTo != "replies/x" || m.CorrelationID != "c-1" || m.ID != "" ||
			time.Until(m.Expires) < 50*time.Second {
			t.Errorf("%d: %+v", i, m)
		}
		if m.Headers.Text("k") != "v1" || m.Headers.Text(headerRetain) != map[bool]string{true: "true", false: "forged"}[i == 1] {
			t.Errorf("%d: headers %+v", i, m.Headers)
		}
	}
	if resp, err := c.Publish(t.Context(), &paho.Publish{QoS: 1, Topic: "secret/a"}); resp == nil || resp.ReasonCode != reasonNotAuthorized {
		t.Errorf("another topic: %+v %v", resp, err)
	}
	if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "orders/#"}}}); err == nil {
		t.Error("a subscription was granted")
	}
}

func TestListenerTakesVersion311(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil)
	c := connect3(t, addr, nil)
	var tokens []paho3.Token
	for i := range 300 {
		tokens = append(tokens, c.Publish("orders/x", byte(i%3), false, strconv.Itoa(i)))
	}
	for _, tok := range tokens {
		if !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
			t.Fatal("a publish was not acknowledged")
		}
	}
	for i, m := range h.wait(t, 300) {
		if string(m.Payload) != strconv.Itoa(i) {
			t.Fatalf("message %d is %s", i, m.Payload)
		}
	}
	tok := c.Subscribe("orders/#", 1, nil)
	tok.WaitTimeout(5 * time.Second)
	if r := tok.(*paho3.SubscribeToken).Result()["orders/#"]; r != 0x80 {
		t.Errorf("a subscription got %x", r)
	}
	if tok := c.Unsubscribe("orders/#"); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
		t.Error("unsubscribe was not answered")
	}
}

// An error of the hand-over is visible to a client of MQTT 5, and ends the
// connection of one of 3.1.1 without an acknowledgement.
func TestListenerRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want byte
	}{
		"full":           {message.ErrFull, reasonQuota},
		"disk full":      {message.ErrDiskFull, reasonQuota},
		"too large":      {message.ErrTooLarge, reasonImplementation},
		"content":        {&message.Reason{Code: "LS2101"}, reasonPayloadFormat},
		"storage failed": {errors.New("x"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newRecorder()
			h.answer = func(b *message.Batch) error {
				var p message.PartialError
				for i, m := range b.Messages {
					if string(m.Payload) == "bad" {
						p.Failed = append(p.Failed, message.Failed{Index: i, Err: c.err})
					}
				}
				if p.Failed == nil {
					return nil
				}
				return &p
			}
			addr, _ := startListener(t, testEnv(t), h, nil)
			for qos := byte(1); qos <= 2; qos++ {
				client, _ := connect5(t, addr, nil)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				resp, err := client.Publish(ctx, &paho.Publish{QoS: qos, Topic: "orders/a", Payload: []byte("bad")})
				cancel()
				if c.want != 0 && (resp == nil || resp.ReasonCode != c.want) || c.want == 0 && err == nil {
					t.Errorf("qos %d: got %+v %v", qos, resp, err)
				}
			}
			old := connect3(t, addr, nil)
			if tok := old.Publish("orders/a", 1, false, "bad"); tok.WaitTimeout(2*time.Second) && tok.Error() == nil {
				t.Error("3.1.1: it was acknowledged")
			}
			if len(h.all()) != 0 {
				t.Error("a refused message was kept")
			}
		})
	}
}

func TestListenerAuth(t *testing.T) {
	addr, _ := startListener(t, testEnv(t), newRecorder(), func(c *SourceConfig) {
		c.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret("p")}}
	})
	for name, c := range map[string]struct {
		user, password string
		ok             bool
	}{"right": {"u", "p", true}, "wrong password": {"u", "q", false}, "unknown": {"v", "p", false}, "nobody": {"", "", false}} {
		t.Run(name, func(t *testing.T) {
			_, ack := connect5(t, addr, func(cp *paho.Connect) {
				cp.Username, cp.UsernameFlag = c.user, c.user != ""
				cp.Password, cp.PasswordFlag = []byte(c.password), c.password != ""
			})
			if (ack.ReasonCode == 0) != c.ok || !c.ok && ack.ReasonCode != reasonCredentials {
				t.Errorf("got %x", ack.ReasonCode)
			}
		})
	}
}

// A publish of QoS 2 that is sent again on a new connection of the session is not
// handed on again until it was released.
func TestListenerQoS2AcrossConnections(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil)
	open := func(wantPresent byte) *rawClient {
		c := dialRaw(t, addr)
		c.send((&connectPacket{version: version311, clientID: "q2", keepAlive: 10}).encode(nil))
		c.expect(kindConnack<<4, 2, wantPresent, 0)
		return c
	}
	pub := publication{qos: 2, id: 7, topic: []byte("orders/a"), payload: []byte("x")}
	c := open(0)
	c.send(pub.append(nil, version311, nil))
	c.expect(kindPubrec<<4, 2, 0, 7)
	c.close()
	c = open(1)
	c.send(pub.append(nil, version311, nil))
	c.expect(kindPubrec<<4, 2, 0, 7)
	c.send(appendAck(nil, version311, kindPubrel, 7, 0))
	c.expect(kindPubcomp<<4, 2, 0, 7)
	if n := len(h.all()); n != 1 {
		t.Fatalf("%d messages", n)
	}
	c.send(pub.append(nil, version311, nil))
	c.expect(kindPubrec<<4, 2, 0, 7)
	if n := len(h.all()); n != 2 {
		t.Fatalf("after the release: %d messages", n)
	}
	second := open(1) // takes the session over
	c.expectEnd()
	second.close()
}

func TestListenerWill(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil)
	will := func() *rawClient {
		c := dialRaw(t, addr)
		body := appendText(nil, "MQTT")
		body = append(body, version311, 0x02|0x04, 0, 10)
		body = appendText(appendText(appendText(body, "w"), "orders/will"), "gone")
		c.send(append([]byte{kindConnect << 4, byte(len(body))}, body...))
		c.expect(kindConnack<<4, 2, 0, 0)
		return c
	}
	c := will()
	c.send([]byte{kindDisconnect << 4, 0})
	c.expectEnd()
	c = will()
	c.close()
	if got := h.wait(t, 1); len(got) != 1 || string(got[0].Payload) != "gone" || got[0].Topic != "orders/will" {
		t.Errorf("got %+v", got)
	}
}

func TestListenerTopicAlias(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil)
	c := dialRaw(t, addr)
	c.connect5()
	alias := appendU16(nil, propTopicAlias, 3)
	first := publication{qos: 1, id: 1, topic: []byte("orders/a")}
	again := publication{qos: 1, id: 2}
	c.send(again.append(first.append(nil, version5, alias), version5, alias))
	c.expect(kindPuback<<4, 2, 0, 1)
	c.expect(kindPuback<<4, 2, 0, 2)
	if got := h.wait(t, 2); got[1].Topic != "orders/a" {
		t.Errorf("got %q", got[1].Topic)
	}
	again.id = 3
	c.send(again.append(nil, version5, appendU16(nil, propTopicAlias, 17)))
	c.expect(kindDisconnect<<4, 1, reasonTopicAlias)
}

func TestListenerKeepAlive(t *testing.T) {
	addr, _ := startListener(t, testEnv(t), newRecorder(), nil)
	c := dialRaw(t, addr)
	c.send((&connectPacket{version: version5, clientID: "k", keepAlive: 1, cleanStart: true}).encode(nil))
	c.skip()
	start := time.Now()
	c.expect(kindDisconnect<<4, 1, reasonKeepAlive)
	if d := time.Since(start); d < time.Second || d > 3*time.Second {
		t.Errorf("ended after %s", d)
	}
}

func TestListenerStopsGracefully(t *testing.T) {
	h := newRecorder()
	entered, release := make(chan struct{}), make(chan struct{})
	h.answer = func(*message.Batch) error {
		entered <- struct{}{}
		<-release
		return nil
	}
	addr, stop := startListener(t, testEnv(t), h, nil)
	c := dialRaw(t, addr)
	c.connect5()
	pub := publication{qos: 1, id: 1, topic: []byte("orders/a")}
	c.send(pub.append(nil, version5, nil))
	<-entered
	group := run.NewGroup(t.Context())
	group.Go("stop", func(context.Context) error { stop(); return nil })
	close(release)
	c.expect(kindPuback<<4, 2, 0, 1)
	c.expect(kindDisconnect<<4, 1, reasonStopping)
	c.expectEnd()
	_ = group.Wait()
}

// The address stays open between two sources of one input, as in a reload.
func TestListenerIsHandedOver(t *testing.T) {
	h, env := newRecorder(), testEnv(t)
	addr, stop := startListener(t, env, h, nil)
	stop()
	again, _ := startListener(t, env, h, nil)
	if addr != again {
		t.Fatalf("%s became %s", addr, again)
	}
	c, _ := connect5(t, addr, nil)
	if _, err := c.Publish(t.Context(), &paho.Publish{QoS: 1, Topic: "orders/a"}); err != nil {
		t.Fatal(err)
	}
	env.Pipeline = "other"
	src, _ := newSource(SourceConfig{Listen: "127.0.0.1:0"}, env, nil)
	src2, _ := newSource(SourceConfig{Listen: "127.0.0.1:0"}, testEnvWith(env, "third"), nil)
	if err := errors.Join(src.(connectors.Binder).Bind(t.Context()), src2.(connectors.Binder).Bind(t.Context())); err == nil {
		t.Error("two inputs bound one address")
	}
}

func testEnvWith(env connectors.Env, pipeline string) connectors.Env {
	env.Pipeline = pipeline
	return env
}
