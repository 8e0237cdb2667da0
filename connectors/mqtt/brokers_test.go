//go:build brokers

package mqtt

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// realBroker is a broker with what is peculiar to it.
type realBroker struct {
	name, url, tls string
	versions       []string
	// qos is the highest that it grants.
	qos int
	// payload bounds what the suite sends in one message, in bytes.
	payload int
	// silent: a forbidden publish of MQTT 3.1.1 is acknowledged and thrown away.
	silent bool
	// swaps: it sends neighbours in the wrong order now and then, seen on the wire with
	// packet identifiers that ascend and without a duplicate flag.
	swaps bool
}

func realBrokers() []realBroker {
	return []realBroker{
		{name: "mosquitto", url: "LS_MOSQUITTO_MQTT_URL", tls: "LS_MOSQUITTO_MQTTS_URL", versions: []string{"5", "3.1.1"}, qos: 2, silent: true},
		{name: "artemis", url: "LS_ARTEMIS_MQTT_URL", versions: []string{"5", "3.1.1"}, qos: 2, payload: 64 << 10, swaps: true},
		{name: "rabbitmq", url: "LS_RABBITMQ_MQTT_URL", tls: "LS_RABBITMQ_MQTTS_URL", versions: []string{"3.1.1"}, qos: 1},
		{name: "activemq", url: "LS_ACTIVEMQ_MQTT_URL", tls: "LS_ACTIVEMQ_MQTTS_URL", versions: []string{"3.1.1"}, qos: 2, silent: true},
	}
}

// at is where the tests reach a broker, and as whom.
type at struct {
	broker   config.Address
	user     string
	password config.Secret
	host     string
}

func (b *realBroker) at(t *testing.T, key string) at {
	t.Helper()
	u, err := url.Parse(brokersenv.Need(t, b.name, key))
	if err != nil {
		t.Fatal(err)
	}
	a := at{host: u.Host, user: u.User.Username()}
	password, _ := u.User.Password()
	a.password = config.NewSecret(password)
	u.User = nil
	if a.broker, err = config.NewAddress(u.String()); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a at) auth() *Auth { return &Auth{User: a.user, Password: a.password} }

// source and sink are ends of ours, for topics that the test has to itself.
func (a at) source(t *testing.T, env connectors.Env, topic string, change func(*SourceConfig)) connectors.Source {
	t.Helper()
	cfg := sourceDefaults()
	cfg.Connect, cfg.Auth, cfg.Topics, cfg.ClientID = a.broker, a.auth(), []string{topic}, "c-"+strings.ReplaceAll(strings.TrimSuffix(topic, "/#"), "/", "-")
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, env, &book{sessions: map[string]*receipts{}})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func (a at) sink(t *testing.T, topic string, change func(*SinkConfig)) connectors.Sink {
	t.Helper()
	cfg := sinkDefaults()
	cfg.Connect, cfg.Auth, cfg.ClientID = a.broker, a.auth(), "s-"+randomName()
	cfg.Topic.Literal = topic
	if change != nil {
		change(&cfg)
	}
	s, err := newSink(cfg, connectors.Env{Pipeline: "p", Name: "out"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	return s
}

func randomName() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// inbox is what a client that is not ours has received.
type inbox struct {
	mu  sync.Mutex
	got []message.Message
}

func (i *inbox) add(m message.Message) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, m)
}

func (i *inbox) wait(t *testing.T, n int) []message.Message {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; {
		i.mu.Lock()
		out := append([]message.Message(nil), i.got...)
		i.mu.Unlock()
		if len(out) >= n {
			return out
		}
		if time.Now().After(limit) {
			t.Fatalf("%d messages, want %d", len(out), n)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// outside subscribes a client that is not ours.
func (a at) outside(t *testing.T, version, topic string) *inbox {
	t.Helper()
	box := &inbox{}
	if version == "3.1.1" {
		c := connect3(t, a.host, func(o *paho3.ClientOptions) {
			o.SetClientID("o-" + randomName()).SetUsername(a.user).SetPassword(a.password.Reveal()).SetCleanSession(true)
		})
		if tok := c.Subscribe(topic, 1, func(_ paho3.Client, m paho3.Message) { box.add(message.Message{Payload: m.Payload()}) }); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatalf("subscribe: %v", tok.Error())
		}
		return box
	}
	c, _ := connect5(t, a.host, func(p *paho.Connect) {
		p.ClientID, p.Username, p.UsernameFlag, p.Password, p.PasswordFlag = "o-"+randomName(), a.user, true, []byte(a.password.Reveal()), true
	})
	c.AddOnPublishReceived(func(p paho.PublishReceived) (bool, error) {
		m := message.Message{Payload: p.Packet.Payload}
		for _, u := range p.Packet.Properties.User {
			m.Headers.Add(u.Key, message.String(u.Value))
		}
		box.add(m)
		return true, nil
	})
	if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic, QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	return box
}

// subscriptions tells when a source has said that it is subscribed.
type subscriptions struct {
	slog.Handler

	said chan struct{}
}

func (s *subscriptions) Enabled(context.Context, slog.Level) bool { return true }
func (s *subscriptions) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *subscriptions) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "subscribed" {
		s.said <- struct{}{}
	}
	return nil
}

func (s *subscriptions) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.said:
	case <-time.After(20 * time.Second):
		t.Fatal("the source did not subscribe")
	}
}

func watchedEnv(t *testing.T) (connectors.Env, *subscriptions) {
	t.Helper()
	s := &subscriptions{Handler: slog.DiscardHandler, said: make(chan struct{}, 1000)}
	env := testEnv(t)
	env.Logger = slog.New(s)
	return env, s
}

func TestBrokerSuite(t *testing.T) {
	for _, b := range realBrokers() {
		for _, version := range b.versions {
			t.Run(b.name+" "+version, func(t *testing.T) { suite(t, b, version) })
		}
	}
}

func suite(t *testing.T, b realBroker, version string) {
	a := b.at(t, b.url)
	base := "app/suite/" + randomName()
	env, subscribed := watchedEnv(t)
	sender := a.sink(t, base+"/in/a", func(c *SinkConfig) { c.Version = version })
	source := func(t *testing.T, change func(*SourceConfig)) connectors.Source {
		return a.source(t, env, base+"/in/#", func(c *SourceConfig) {
			c.Version = version
			if change != nil {
				change(c)
			}
		})
	}
	received := a.outside(t, version, base+"/out")
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New:   func(t *testing.T) connectors.Source { return source(t, nil) },
			Ready: func(t *testing.T) { subscribed.wait(t) },
			Send:  func(ctx context.Context, m message.Message) error { return persist(ctx, sender, m) },
			Intruder: func(t *testing.T) error {
				return source(t, func(c *SourceConfig) {
					c.ClientID, c.Auth = "intruder", &Auth{User: a.user, Password: config.NewSecret("wrong")}
				}).Run(t.Context(), nil)
			},
		},
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink {
				return a.sink(t, base+"/out", func(c *SinkConfig) { c.Version = version })
			},
			Received: received.wait,
		},
	}, connectortest.Features{Redelivers: true, Headers: version == "5", LargePayload: b.payload, Swaps: b.swaps})
}

// persist sends a message until it is taken.
func persist(ctx context.Context, s connectors.Sink, m message.Message) error {
	for {
		err := s.Open(ctx)
		if err == nil {
			err = s.Handle(ctx, &message.Batch{Messages: []message.Message{m}})
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// A broker that is restarted, killed or silent for a while loses nothing that it has
// confirmed, and the order holds.
func TestBrokerFaults(t *testing.T) {
	for _, b := range realBrokers() {
		for _, fault := range []string{"restart", "kill", "pause"} {
			t.Run(b.name+" "+fault, func(t *testing.T) { faulty(t, b, fault) })
		}
	}
}

func faulty(t *testing.T, b realBroker, fault string) {
	a := b.at(t, b.url)
	base := "app/fault/" + randomName()
	version := b.versions[0]
	h := newRecorder()
	env, subscribed := watchedEnv(t)
	group := run.NewGroup(t.Context())
	group.Go("source", func(ctx context.Context) error {
		for ctx.Err() == nil {
			_ = a.source(t, env, base+"/#", func(c *SourceConfig) { c.Version, c.KeepAlive = version, 2*time.Second }).Run(ctx, h)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return nil
	})
	subscribed.wait(t)
	const n = 600
	sender := a.sink(t, base+"/a", func(c *SinkConfig) { c.Version, c.KeepAlive, c.Timeout = version, 2*time.Second, 3*time.Second })
	faults := run.NewGroup(t.Context())
	for i := range n {
		if i == n/3 {
			faults.Go("fault", func(context.Context) error {
				node := b.name
				brokersenv.Do(t, fault, node)
				switch fault {
				case "kill":
					brokersenv.Do(t, "up", b.name)
				case "pause":
					<-time.After(4 * time.Second)
					brokersenv.Do(t, "resume", node)
				}
				return nil
			})
		}
		if err := persist(t.Context(), sender, message.Message{Payload: strconv.AppendInt(nil, int64(i), 10)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := faults.Wait(); err != nil {
		t.Fatal(err)
	}
	seen, last, limit := map[int]bool{}, -1, time.Now().Add(60*time.Second)
	for at := 0; len(seen) < n; {
		got := h.all()
		for ; at < len(got); at++ {
			i, _ := strconv.Atoi(string(got[at].Payload))
			if !seen[i] && i < last && !b.swaps {
				t.Errorf("%d came after %d", i, last)
			}
			if !seen[i] {
				last = i
			}
			seen[i] = true
		}
		if time.Now().After(limit) {
			t.Errorf("%d of %d messages arrived", len(seen), n)
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	group.Stop()
	_ = group.Wait()
}

// What a user may not do is said, or at least not taken for done where the broker
// tells.
func TestBrokerRights(t *testing.T) {
	for _, b := range realBrokers() {
		for _, version := range b.versions {
			t.Run(b.name+" "+version, func(t *testing.T) {
				a := b.at(t, b.url)
				s := a.sink(t, "forbidden/topic", func(c *SinkConfig) { c.Version, c.Timeout = version, 5*time.Second })
				err := s.Open(t.Context())
				if err == nil {
					err = s.Handle(t.Context(), &message.Batch{Messages: []message.Message{{Payload: []byte("x")}}})
				}
				if (err == nil) != (b.silent && version == "3.1.1") {
					t.Errorf("a forbidden publish: %v", err)
				}
				wrong := a.sink(t, "app/x", func(c *SinkConfig) {
					c.Version, c.Auth = version, &Auth{User: a.user, Password: config.NewSecret("wrong-secret")}
				})
				if err := wrong.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "LS4204") || strings.Contains(err.Error(), "wrong-secret") {
					t.Errorf("a wrong password: %v", err)
				}
			})
		}
	}
}

func TestBrokerTLS(t *testing.T) {
	for _, b := range realBrokers() {
		if b.tls == "" {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			a := b.at(t, b.tls)
			ca := brokersenv.Need(t, b.name, "LS_CA_FILE")
			for name, c := range map[string]struct {
				ca, server string
				ok         bool
			}{
				"good":         {ca, "", true},
				"other CA":     {strings.Replace(ca, "ca.pem", "rogue-ca.pem", 1), "", false},
				"other name":   {ca, "elsewhere.example", false},
				"system's CAs": {"", "", false},
			} {
				s := a.sink(t, "app/tls", func(cfg *SinkConfig) {
					cfg.Version = b.versions[0]
					cfg.TLS = &tlsconf.Either{CA: c.ca, ServerName: c.server}
				})
				err := s.Open(t.Context())
				if err == nil {
					err = s.Handle(t.Context(), &message.Batch{Messages: []message.Message{{Payload: []byte("x")}}})
				}
				if (err == nil) != c.ok {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// Sources that share a subscription share its messages.
func TestBrokerSharedSubscription(t *testing.T) {
	for _, b := range realBrokers() {
		if b.versions[0] != "5" {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			a := b.at(t, b.url)
			topic := "app/shared/" + randomName()
			h := newRecorder()
			for i := range 2 {
				env, subscribed := watchedEnv(t)
				startSource(t, a.source(t, env, "$share/g/"+topic, func(c *SourceConfig) { c.ClientID += strconv.Itoa(i) }), h)
				subscribed.wait(t)
			}
			s := a.sink(t, topic, nil)
			for i := range 100 {
				if err := persist(t.Context(), s, message.Message{Payload: strconv.AppendInt(nil, int64(i), 10)}); err != nil {
					t.Fatal(err)
				}
			}
			senders, seen := map[string]int{}, map[string]int{}
			for _, m := range h.wait(t, 100) {
				client, _, _ := strings.Cut(string(m.Key), "\x00")
				senders[client]++
				seen[string(m.Payload)]++
			}
			if len(senders) != 2 || len(seen) != 100 {
				t.Errorf("shared as %v, %d different", senders, len(seen))
			}
		})
	}
}

// Clients that are not written in Go talk to the listener.
func TestBrokerOutsideClients(t *testing.T) {
	brokersenv.Need(t, "mosquitto", "LS_MOSQUITTO_MQTT_URL") // its tools are installed with it
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, func(c *SourceConfig) {
		c.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret("p")}}
	})
	host, port, _ := strings.Cut(addr, ":")
	n := 0
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		for qos := range 3 {
			args := []string{"-h", host, "-p", port, "-V", version, "-q", strconv.Itoa(qos), "-t", "orders/" + version, "-u", "u", "-P", "p", "-m", "hello"}
			if version == "mqttv5" {
				args = append(args, "-D", "publish", "user-property", "tenant", "acme", "-D", "publish", "content-type", "text/plain")
			}
			if out, err := exec.CommandContext(t.Context(), "mosquitto_pub", args...).CombinedOutput(); err != nil {
				t.Errorf("%s qos %d: %v %s", version, qos, err, out)
				continue
			}
			n++
		}
	}
	for _, m := range h.wait(t, n) {
		if string(m.Payload) != "hello" || m.Topic == "orders/mqttv5" && (m.Headers.Text("tenant") != "acme" || m.ContentType != "text/plain") {
			t.Errorf("got %+v", m)
		}
	}
	out, err := exec.CommandContext(t.Context(), "mosquitto_pub", "-h", host, "-p", port, "-t", "orders/a", "-u", "u", "-P", "wrong", "-m", "x").CombinedOutput()
	if _, refused := errors.AsType[*exec.ExitError](err); !refused {
		t.Errorf("a wrong password: %v %s", err, out)
	}
}
