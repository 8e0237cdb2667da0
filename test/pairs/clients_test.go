//go:build brokers

package pairs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"
	"github.com/eclipse/paho.golang/paho"
	"github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// window is how many messages a sender has under way.
const window = 16

func feedHTTP(ctx context.Context, url string, f *feeding) error {
	for i := int(f.confirmed.Load()); i < f.n; i++ {
		if err := f.room(ctx, i); err != nil {
			return err
		}
		_, payload := f.make(i)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		f.confirmed.Store(int64(i + 1))
	}
	return nil
}

// inWindows sends by start, which returns what waits for the confirmation.
func inWindows(ctx context.Context, f *feeding, start func(i int) (wait func() error, err error)) error {
	for i := int(f.confirmed.Load()); i < f.n; {
		if err := f.room(ctx, i); err != nil {
			return err
		}
		var waits []func() error
		for first := i; i < f.n && i < first+window; i++ {
			wait, err := start(i)
			if err != nil {
				return err
			}
			waits = append(waits, wait)
		}
		for _, wait := range waits {
			if err := wait(); err != nil {
				return err
			}
			f.confirmed.Add(1)
		}
	}
	return nil
}

func amqp091Peer(t *testing.T) peer {
	who, at := app(t, "rabbitmq"), host(t, "rabbitmq", "LS_RABBITMQ_AMQP_URL")
	dial := func() (*amqp091.Connection, *amqp091.Channel, error) {
		conn, err := amqp091.Dial(fmt.Sprintf("amqp://%s:%s@%s/", who.user, who.password, at))
		if err != nil {
			return nil, nil, err
		}
		ch, err := conn.Channel()
		return conn, ch, err
	}
	options := func(a string) string {
		return fmt.Sprintf("amqp091: {connect: %q, auth: {user: %s, password: %s}, queue: %s}", "amqp://"+at, who.user, who.password, a)
	}
	return peer{
		name: "amqp091", broker: "rabbitmq", in: options, out: options,
		prepare: func(t *testing.T, addresses map[string]string) {
			conn, ch, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for a := range addresses {
				if _, err := ch.QueueDeclare(a, true, false, false, false, nil); err != nil {
					t.Fatal(err)
				}
			}
		},
		feed: func(ctx context.Context, a string, f *feeding) error {
			conn, ch, err := dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := ch.Confirm(false); err != nil {
				return err
			}
			return inWindows(ctx, f, func(i int) (func() error, error) {
				_, payload := f.make(i)
				c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", a, true, false, amqp091.Publishing{
					DeliveryMode: amqp091.Persistent, ContentType: "application/json", Body: payload,
				})
				return func() error {
					if ok, err := c.WaitContext(ctx); err != nil || !ok {
						return fmt.Errorf("not confirmed: %w", err)
					}
					return nil
				}, err
			})
		},
		collect: func(ctx context.Context, a string, got func([]byte)) error {
			conn, ch, err := dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			in, err := ch.ConsumeWithContext(ctx, a, "", false, false, false, false, nil)
			if err != nil {
				return err
			}
			for d := range in {
				got(d.Body)
				if err := d.Ack(false); err != nil {
					return err
				}
			}
			return errors.New("the channel is closed")
		},
	}
}

func amqp1Peer(t *testing.T) peer {
	who, at := app(t, "artemis"), host(t, "artemis", "LS_ARTEMIS_AMQP_URL")
	dial := func(ctx context.Context) (*amqp.Conn, *amqp.Session, error) {
		conn, err := amqp.Dial(ctx, "amqp://"+at, &amqp.ConnOptions{SASLType: amqp.SASLTypePlain(who.user, who.password)})
		if err != nil {
			return nil, nil, err
		}
		s, err := conn.NewSession(ctx, nil)
		return conn, s, err
	}
	options := func(a string) string {
		return fmt.Sprintf("amqp1: {connect: %q, auth: {user: %s, password: %s}, address: %s}", "amqp://"+at, who.user, who.password, a)
	}
	return peer{
		name: "amqp1", broker: "artemis", in: options, out: options,
		prepare: func(*testing.T, map[string]string) {}, // made on first use
		feed: func(ctx context.Context, a string, f *feeding) error {
			conn, s, err := dial(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			sender, err := s.NewSender(ctx, a, nil)
			if err != nil {
				return err
			}
			return inWindows(ctx, f, func(i int) (func() error, error) {
				_, payload := f.make(i)
				m := amqp.NewMessage(payload)
				m.Header = &amqp.MessageHeader{Durable: true}
				receipt, err := sender.SendWithReceipt(ctx, m, nil)
				return func() error {
					state, err := receipt.Wait(ctx)
					if _, ok := state.(*amqp.StateAccepted); err == nil && !ok {
						return fmt.Errorf("outcome %T", state)
					}
					return err
				}, err
			})
		},
		collect: func(ctx context.Context, a string, got func([]byte)) error {
			conn, s, err := dial(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			r, err := s.NewReceiver(ctx, a, &amqp.ReceiverOptions{Credit: 100})
			if err != nil {
				return err
			}
			for {
				m, err := r.Receive(ctx, nil)
				if err != nil {
					return err
				}
				got(m.GetData())
				if err := r.AcceptMessage(ctx, m); err != nil {
					return err
				}
			}
		},
	}
}

func mqttPeer(t *testing.T) peer {
	who, at := app(t, "mosquitto"), host(t, "mosquitto", "LS_MOSQUITTO_MQTT_URL")
	topic := func(a string) string { return strings.ReplaceAll(a, ".", "/") }
	options := fmt.Sprintf("connect: %q, auth: {user: %s, password: %s}", "mqtt://"+at, who.user, who.password)
	connect := func(ctx context.Context, id string, clean bool, config paho.ClientConfig) (*paho.Client, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
		if err != nil {
			return nil, err
		}
		config.Conn = conn
		c := paho.NewClient(config)
		expiry := uint32(3600)
		_, err = c.Connect(ctx, &paho.Connect{
			ClientID: id, CleanStart: clean, KeepAlive: 30, Username: who.user, UsernameFlag: true, Password: []byte(who.password), PasswordFlag: true,
			Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
		})
		return c, err
	}
	return peer{
		name: "mqtt", broker: "mosquitto",
		in:  func(a string) string { return fmt.Sprintf("mqtt: {%s, topics: [%s], qos: 1}", options, topic(a)) },
		out: func(a string) string { return fmt.Sprintf("mqtt: {%s, topic: %s, qos: 1}", options, topic(a)) },
		// A topic forgets what is published before somebody has subscribed, so the sessions
		// of the bridge and of the collectors are made before.
		prepare: func(t *testing.T, addresses map[string]string) {
			for a, reader := range addresses {
				id := "collect-" + a
				if client, ok := strings.CutPrefix(reader, "client "); ok {
					id = client
				} else if reader != "" {
					id = "linkspan-" + reader + "-i"
				}
				c, err := connect(t.Context(), id, true, paho.ClientConfig{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic(a), QoS: 1}}}); err != nil {
					t.Fatal(err)
				}
				_ = c.Disconnect(&paho.Disconnect{})
			}
		},
		feed: func(ctx context.Context, a string, f *feeding) error {
			c, err := connect(ctx, "feed-"+a, true, paho.ClientConfig{})
			if err != nil {
				return err
			}
			defer func() { _ = c.Disconnect(&paho.Disconnect{}) }()
			for i := int(f.confirmed.Load()); i < f.n; i++ {
				if err := f.room(ctx, i); err != nil {
					return err
				}
				_, payload := f.make(i)
				if _, err := c.Publish(ctx, &paho.Publish{Topic: topic(a), QoS: 1, Payload: payload}); err != nil {
					return err
				}
				f.confirmed.Store(int64(i + 1))
			}
			return nil
		},
		collect: func(ctx context.Context, a string, got func([]byte)) error {
			lost := make(chan error, 1)
			fail := func(err error) {
				select {
				case lost <- err:
				default:
				}
			}
			c, err := connect(ctx, "collect-"+a, false, paho.ClientConfig{
				OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
					got(p.Packet.Payload)
					return true, nil
				}},
				OnClientError:      fail,
				OnServerDisconnect: func(*paho.Disconnect) { fail(errors.New("the broker left")) },
			})
			if err != nil {
				return err
			}
			if _, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic(a), QoS: 1}}}); err != nil {
				return err
			}
			select {
			case err := <-lost:
				return err
			case <-ctx.Done():
				return c.Disconnect(&paho.Disconnect{})
			}
		},
	}
}

func stompPeer(t *testing.T) peer {
	who, at := app(t, "activemq"), brokersenv.Need(t, "activemq", "LS_ACTIVEMQ_STOMP_ADDR")
	dial := func() (*stomp.Conn, error) {
		return stomp.Dial("tcp", at, stomp.ConnOpt.Login(who.user, who.password), stomp.ConnOpt.HeartBeat(0, 0))
	}
	options := func(a string) string {
		return fmt.Sprintf("stomp: {connect: %q, auth: {user: %s, password: %s}, destination: /queue/%s}", "stomp://"+at, who.user, who.password, a)
	}
	return peer{
		name: "stomp", broker: "activemq", in: options, out: options,
		prepare: func(*testing.T, map[string]string) {},
		feed: func(ctx context.Context, a string, f *feeding) error {
			conn, err := dial()
			if err != nil {
				return err
			}
			defer func() { _ = conn.MustDisconnect() }()
			for i := int(f.confirmed.Load()); i < f.n; i++ {
				if err := f.room(ctx, i); err != nil {
					return err
				}
				_, payload := f.make(i)
				if err := conn.Send("/queue/"+a, "application/json", payload, stomp.SendOpt.Receipt, stomp.SendOpt.Header("persistent", "true"), stomp.SendOpt.NoContentLength); err != nil {
					return err
				}
				f.confirmed.Store(int64(i + 1))
			}
			return nil
		},
		collect: func(ctx context.Context, a string, got func([]byte)) error {
			conn, err := dial()
			if err != nil {
				return err
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.MustDisconnect() })
			defer stop()
			sub, err := conn.Subscribe("/queue/"+a, stomp.AckClientIndividual, stomp.SubscribeOpt.Header("activemq.prefetchSize", "8"), stomp.SubscribeOpt.Header(frame.Id, "c"))
			if err != nil {
				return err
			}
			for m := range sub.C {
				if m.Err != nil {
					return m.Err
				}
				got(m.Body)
				if err := conn.Ack(m); err != nil {
					return err
				}
			}
			return errors.New("the subscription has ended")
		},
	}
}

func kafkaPeer(t *testing.T) peer {
	at := brokersenv.Need(t, "kafka", "LS_KAFKA_BROKERS")
	return peer{
		name: "kafka", broker: "kafka",
		in:  func(a string) string { return fmt.Sprintf("kafka: {brokers: [%q], topics: [%s], group: %s}", at, a, a) },
		out: func(a string) string { return fmt.Sprintf("kafka: {brokers: [%q], topic: %s}", at, a) },
		prepare: func(t *testing.T, addresses map[string]string) {
			c, err := kgo.NewClient(kgo.SeedBrokers(at))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			made, err := kadm.NewClient(c).CreateTopics(t.Context(), 3, 1, nil, slices.Collect(maps.Keys(addresses))...)
			if err == nil {
				err = made.Error()
			}
			if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) { // by an earlier run of an example
				t.Fatal(err)
			}
		},
		feed: func(ctx context.Context, a string, f *feeding) error {
			c, err := kgo.NewClient(kgo.SeedBrokers(at), kgo.DefaultProduceTopic(a), kgo.ProducerLinger(0))
			if err != nil {
				return err
			}
			defer c.Close()
			for i := int(f.confirmed.Load()); i < f.n; i++ {
				if err := f.room(ctx, i); err != nil {
					return err
				}
				key, payload := f.make(i)
				if err := c.ProduceSync(ctx, &kgo.Record{Key: []byte(key), Value: payload}).FirstErr(); err != nil {
					return err
				}
				f.confirmed.Store(int64(i + 1))
			}
			return nil
		},
		collect: func(ctx context.Context, a string, got func([]byte)) error {
			c, err := kgo.NewClient(kgo.SeedBrokers(at), kgo.ConsumeTopics(a), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))
			if err != nil {
				return err
			}
			defer c.Close()
			for {
				fetches := c.PollFetches(ctx)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				fetches.EachRecord(func(r *kgo.Record) { got(r.Value) })
			}
		},
	}
}
