//go:build brokers

package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

var stormLasts = flag.Duration("storm", time.Minute, "how long the rebalance storm lasts")

func brokers(t *testing.T) []string {
	return strings.Split(brokersenv.Need(t, "kafka", "LS_KAFKA_BROKERS"), ",")
}

// newTopic makes a topic that is taken away at the end.
func newTopic(t *testing.T, partitions int32) string {
	t.Helper()
	name := fmt.Sprintf("app.%s-%d", strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, t.Name()), time.Now().UnixNano())
	cl := newClient(t, brokers(t))
	admin := kadm.NewClient(cl)
	if _, err := admin.CreateTopic(context.Background(), partitions, -1, nil, name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic", func() bool {
		_, err := (&cluster{brokers: brokers(t)}).check(context.Background(), []string{name}, false)
		return err == nil
	})
	t.Cleanup(func() {
		if _, err := admin.DeleteTopic(context.Background(), name); err != nil {
			t.Logf("delete topic: %v", err)
		}
	})
	return name
}

func TestBrokerSuite(t *testing.T) {
	(&peer{brokers(t), newTopic(t, 1), newTopic(t, 1), func(c *SourceConfig) {
		c.Brokers = strings.Split(brokersenv.Need(t, "kafka", "LS_KAFKA_SASL_BROKERS"), ",")
		c.TLS, c.Auth = trusted(t), &Auth{Mechanism: mechanismPlain, User: "app", Password: secret("wrong")}
	}}).suite(t)
}

func trusted(t *testing.T) *tlsconf.Client {
	return &tlsconf.Client{CA: brokersenv.Need(t, "kafka", "LS_CA_FILE")}
}

func TestBrokerAuth(t *testing.T) {
	secure := strings.Split(brokersenv.Need(t, "kafka", "LS_KAFKA_SASL_BROKERS"), ",")
	app, reader := brokersenv.Need(t, "kafka", "LS_APP_PASS"), brokersenv.Need(t, "kafka", "LS_READER_PASS")
	topic := newTopic(t, 1)
	for _, mechanism := range []string{mechanismPlain, mechanismScram256, mechanismScram512} {
		auth := func(user, password string) *Auth {
			return &Auth{Mechanism: mechanism, User: user, Password: secret(password)}
		}
		source := func(t *testing.T, a *Auth) *source {
			return newTestSource(t, testEnv(t), secure, func(c *SourceConfig) {
				c.Topics, c.Group, c.Auth, c.TLS = []string{topic}, topic+mechanism, a, trusted(t)
			})
		}
		sink := func(t *testing.T, a *Auth) *sink {
			return newTestSink(t, secure, func(c *SinkConfig) { c.Topic.Literal, c.Auth, c.TLS = topic, a, trusted(t) })
		}
		want := func(t *testing.T, err error, code, text string) {
			t.Helper()
			coded, ok := errors.AsType[*codedError](err)
			if !ok || coded.code != code || !strings.Contains(err.Error(), text) {
				t.Errorf("want %s with %q, got %v", code, text, err)
			}
		}
		t.Run(mechanism, func(t *testing.T) {
			if err := handle(t, sink(t, auth("app", app)), message.Message{Payload: []byte(mechanism)}); err != nil {
				t.Fatal(err)
			}
			h := &recorder{}
			stop := startSource(t, source(t, auth("app", app)), h)
			h.wait(t, 1)
			stop()
			want(t, source(t, auth("app", "wrong")).Run(t.Context(), h), codeCredentials, "code 58")
			want(t, sink(t, auth("app", "wrong")).Open(t.Context()), codeCredentials, "code 58")
			// A user without permissions may not even know whether the topic exists.
			want(t, source(t, auth("reader", reader)).Run(t.Context(), h), codeForbidden, "TOPIC_AUTHORIZATION_FAILED")
			want(t, sink(t, auth("reader", reader)).Open(t.Context()), codeForbidden, "TOPIC_AUTHORIZATION_FAILED")
		})
	}
	t.Run("unknown authority", func(t *testing.T) {
		err := newTestSink(t, secure, func(c *SinkConfig) { c.TLS = &tlsconf.Client{} }).Open(t.Context())
		_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
		if coded, ok := errors.AsType[*codedError](err); !ok || coded.code != codeTLS || !certificate {
			t.Errorf("got %v", err)
		}
	})
	t.Run("plain to TLS", func(t *testing.T) {
		err := newTestSink(t, secure, nil).Open(t.Context())
		if coded, ok := errors.AsType[*codedError](err); !ok || coded.code != codeTLS {
			t.Errorf("got %v", err)
		}
	})
}

// flow sends numbered messages of some keys through a sink to a topic and a source, and
// again what was not taken, as the pipeline does.
func flow(t *testing.T, topic string, meanwhile func()) {
	const keys = 20
	l := newLedger()
	env := testEnv(t)
	group := run.NewGroup(context.Background())
	group.Go("source", func(ctx context.Context) error {
		for ctx.Err() == nil { // the supervisor
			err := newTestSource(t, env, brokers(t), func(c *SourceConfig) { c.Topics, c.Group = []string{topic}, topic }).Run(ctx, l)
			if err != nil {
				t.Logf("source: %v", err)
			}
			run.Pause(ctx, 100*time.Millisecond)
		}
		return nil
	})
	s := newTestSink(t, brokers(t), func(c *SinkConfig) { c.Topic.Literal, c.Key, c.Timeout = topic, computed("message.key"), 5*time.Second })
	var n atomic.Int64
	over := make(chan struct{})
	group.Go("sender", func(ctx context.Context) error {
		for {
			select {
			case <-over:
				return nil
			default:
			}
			b := &message.Batch{}
			for range 50 {
				i := n.Add(1) - 1
				key := fmt.Sprintf("k%d", i%keys)
				b.Messages = append(b.Messages, message.Message{Key: []byte(key), Options: []string{key}, Payload: fmt.Appendf(nil, "%d", i)})
			}
			for b.Len() > 0 {
				err := s.Handle(ctx, b)
				partial, ok := errors.AsType[*message.PartialError](err)
				var again []message.Message
				switch {
				case ok:
					for _, f := range partial.Failed {
						if !message.IsUnavailable(f.Err) {
							t.Errorf("refused: %v", f.Err)
						}
						again = append(again, b.Messages[f.Index])
					}
				case err != nil:
					again = b.Messages
				}
				if len(again) > 0 {
					run.Pause(ctx, 200*time.Millisecond)
				}
				b.Messages = again
			}
		}
	})
	var once sync.Once
	stop := func() { once.Do(func() { close(over) }) }
	defer stop()
	eventually(t, "the flow", func() bool { seen, _, _ := l.count(); return seen > 500 })
	meanwhile()
	before, _, _ := l.count()
	eventually(t, "the flow to go on", func() bool { seen, _, _ := l.count(); return seen > before+500 })
	stop()
	eventually(t, "all messages", func() bool { seen, _, _ := l.count(); return int64(seen) == n.Load() })
	seen, again, wrong := l.count()
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	brokersenv.Print(t, fmt.Sprintf("%s: %d messages: %d lost, %d reordered, %d came again", t.Name(), n.Load(), n.Load()-int64(seen), wrong, again))
	if wrong > 0 {
		t.Errorf("%d messages were out of order", wrong)
	}
}

func TestBrokerRestarts(t *testing.T) {
	for _, verb := range []string{"restart", "kill"} {
		t.Run(verb, func(t *testing.T) {
			flow(t, newTopic(t, 3), func() {
				if verb == "restart" {
					brokersenv.Do(t, "restart", "kafka")
					return
				}
				brokersenv.Do(t, "kill", "kafka-1")
				brokersenv.Do(t, "up", "kafka")
			})
		})
	}
}

// A broker that is silent for a while holds things up, and nothing is lost.
func TestBrokerPauses(t *testing.T) {
	flow(t, newTopic(t, 3), func() {
		brokersenv.Do(t, "pause", "kafka-1")
		<-time.After(8 * time.Second)
		brokersenv.Do(t, "resume", "kafka-1")
	})
}

// What an aborted transaction wrote does not arrive.
func TestBrokerTransactions(t *testing.T) {
	topic := newTopic(t, 1)
	cl := newClient(t, brokers(t), kgo.TransactionalID(topic))
	ctx := context.Background()
	for i, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		produce(t, cl, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", i)})
		if err := cl.EndTransaction(ctx, commit); err != nil {
			t.Fatal(err)
		}
	}
	for isolation, want := range map[string]string{readCommitted: "1,3", readUncommitted: "0,1,2,3"} {
		h := &recorder{}
		stop := startSource(t, newTestSource(t, testEnv(t), brokers(t), func(c *SourceConfig) {
			c.Topics, c.Group, c.Isolation = []string{topic}, topic+isolation, isolation
		}), h)
		var got []string
		for _, m := range h.wait(t, strings.Count(want, ",")+1) {
			got = append(got, string(m.Payload))
		}
		stop()
		if strings.Join(got, ",") != want {
			t.Errorf("%s: %v, want %s", isolation, got, want)
		}
	}
}

// Members join and leave every second for a minute.
func TestBrokerRebalanceStorm(t *testing.T) {
	topic := newTopic(t, 6)
	storm(t, brokers(t), topic, topic, 6, *stormLasts, time.Second, balancerCooperative)
}

// A static member that comes back within its session keeps its partitions, and nobody
// is rebalanced.
func TestBrokerStaticMember(t *testing.T) {
	topic := newTopic(t, 2)
	member := func(id string, h message.Handler) func() {
		return startSource(t, newTestSource(t, testEnv(t), brokers(t), func(c *SourceConfig) {
			c.Topics, c.Group, c.InstanceID = []string{topic}, topic, id
		}), h)
	}
	cl := newClient(t, brokers(t))
	both := func(n int) {
		for i := range 2 * n {
			produce(t, cl, &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: []byte("v")})
		}
	}
	a, b := &recorder{}, &recorder{}
	stop := member("a", a)
	member("b", b)
	eventually(t, "both members", func() bool { both(1); return len(a.all()) > 0 && len(b.all()) > 0 })
	stop()
	before := len(b.all())
	both(5)
	eventually(t, "the other's messages", func() bool { return len(b.all()) >= before+5 })
	again := &recorder{}
	member("a", again)
	again.wait(t, 5)
	for _, m := range b.all()[before:] {
		if p, _ := m.Headers.Get(headerPartition); p != firstPartition(b) {
			t.Error("the other member got the partition")
		}
	}
}

func firstPartition(h *recorder) message.Value {
	all := h.all()
	v, _ := all[len(all)-1].Headers.Get(headerPartition)
	return v
}

func TestBrokerExactlyOnce(t *testing.T) {
	exactlyOnce(t, brokers(t), newTopic(t, 3), newTopic(t, 3), 3000, 2, time.Second, nil)
}

// The broker is killed in the middle.
func TestBrokerExactlyOnceKill(t *testing.T) {
	exactlyOnce(t, brokers(t), newTopic(t, 3), newTopic(t, 3), 2000, 2, 20*time.Second, func() {
		brokersenv.Do(t, "kill", "kafka-1")
		brokersenv.Do(t, "up", "kafka")
	})
}
