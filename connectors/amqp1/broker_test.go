//go:build brokers

package amqp1

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// quirks are what a peer does in its own way.
type quirks struct {
	// prefix stands in front of the name of a queue.
	prefix string
	// forbidden is an address that the user may not use.
	forbidden string
	// make makes a queue first, where an address that is not there loses messages, or makes
	// a queue that does not outlive the peer.
	make func(t *testing.T, name string)
	// anybody may connect.
	anybody bool
	// misbehaves on request, by address.
	misbehaves bool
	// selectors: it filters. topics: it has durable subscriptions.
	selectors, topics bool
	// counts deliveries that are given back as failed.
	counts bool
	// durable: messages outlive the peer.
	durable bool
	// secure is the address with TLS.
	secure func(t *testing.T) string
}

type realPeer struct {
	name string
	peer peer
	quirks
}

func peers(t *testing.T, test func(t *testing.T, b realPeer)) {
	for _, b := range []struct {
		name, key string
		quirks
	}{
		{"rabbitmq", "LS_RABBITMQ_AMQP_URL", quirks{prefix: "/amq/queue/app.", forbidden: "/queue/forbidden", make: makeRabbitQueue, durable: true, secure: func(t *testing.T) string {
			return "amqps://localhost:" + brokersenv.Need(t, "rabbitmq", "LS_RABBITMQ_AMQPS_PORT")
		}}},
		{"artemis", "LS_ARTEMIS_AMQP_URL", quirks{prefix: "app.", forbidden: "forbidden", selectors: true, topics: true, counts: true, durable: true, secure: func(t *testing.T) string {
			return "amqps://localhost:" + brokersenv.Need(t, "artemis", "LS_ARTEMIS_TLS_PORT")
		}}},
		{"proton", "LS_PROTON_AMQP_URL", quirks{prefix: "queue/", anybody: true, misbehaves: true, counts: true, secure: func(t *testing.T) string {
			return brokersenv.Need(t, "proton", "LS_PROTON_AMQPS_URL")
		}}},
	} {
		t.Run(b.name, func(t *testing.T) {
			u, err := url.Parse(brokersenv.Need(t, b.name, b.key))
			if err != nil {
				t.Fatal(err)
			}
			p := peer{address: "amqp://" + u.Host}
			if u.User != nil {
				p.user = u.User.Username()
				p.password, _ = u.User.Password()
			}
			test(t, realPeer{b.name, p, b.quirks})
		})
	}
}

// fresh names a queue that is not there yet.
func (b realPeer) fresh(t *testing.T) string {
	n := name(t)
	if b.make != nil {
		b.make(t, n)
	}
	return b.prefix + n
}

// makeRabbitQueue declares a durable queue over the management API.
func makeRabbitQueue(t *testing.T, name string) {
	address := brokersenv.Need(t, "rabbitmq", "LS_RABBITMQ_HTTP_URL") + "/api/queues/%2F/app." + name
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPut, address, strings.NewReader(`{"durable": true}`))
	if err != nil {
		t.Fatal(err)
	}
	q.SetBasicAuth(brokersenv.Need(t, "rabbitmq", "LS_ADMIN_USER"), brokersenv.Need(t, "rabbitmq", "LS_ADMIN_PASS"))
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if answer.StatusCode >= 300 {
		t.Fatalf("make queue: %s", answer.Status)
	}
}

func name(t *testing.T) string {
	return strings.ToLower(strings.NewReplacer("/", ".", " ", "_").Replace(t.Name())) + strconv.FormatInt(time.Now().UnixNano(), 10)
}

func TestBrokerSuite(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		in, out := b.fresh(t), b.fresh(t)
		runSuite(t, b.peer, in, out, b.anybody)
	})
}

// Everything that Carries claims passes a peer.
func TestBrokerProperties(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		queue := b.fresh(t)
		h := newRecorder()
		start(t, testSource(t, b.peer, queue, nil), h)
		want := message.Message{
			ID: "ID:AMQP_ULONG:7", CorrelationID: "ID:AMQP_BINARY:00FF", ReplyTo: "answers", ContentType: "application/json", Priority: 7,
			Time: time.UnixMilli(1700000000123), Expires: time.Now().Add(time.Hour).Truncate(time.Millisecond), Payload: []byte{0, 1, 2},
			Headers: message.Headers{
				{Name: "bool", Value: message.Bool(true)},
				{Name: "bytes", Value: message.Bytes([]byte{0, 0xff})},
				{Name: "float", Value: message.Float(-0.5)},
				{Name: "int", Value: message.Int(1 << 60)},
				{Name: "null"},
				{Name: "text", Value: message.String("é\r\n")},
				{Name: "time", Value: message.Time(time.UnixMilli(7))},
				{Name: "amqp1.subject", Value: message.String("s")},
				{Name: "amqp1.group_id", Value: message.String("g")},
				{Name: "amqp1.annotation.x-opt-a", Value: message.Int(5)},
			},
		}
		zero := message.Message{Payload: []byte("zero")}
		sink := testSink(t, b.peer, queue, nil)
		eventually(t, "sent", func() bool {
			err := sink.Handle(t.Context(), &message.Batch{Messages: []message.Message{want, zero}})
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
		got := h.wait(t, 2)
		g := got[0]
		if g.ID != want.ID || g.CorrelationID != want.CorrelationID || g.ReplyTo != want.ReplyTo || g.ContentType != want.ContentType ||
			g.Priority != 7 || !g.Time.Equal(want.Time) || !g.Expires.Equal(want.Expires) || string(g.Payload) != string(want.Payload) || g.Topic != queue {
			t.Errorf("%+v", g)
		}
		for _, x := range want.Headers {
			if v, ok := g.Headers.Get(x.Name); !ok || v != x.Value {
				t.Errorf("header %s: %v", x.Name, v)
			}
		}
		if got[1].Priority != 0 || len(got[1].Payload) != 4 {
			t.Errorf("priority 0: %+v", got[1])
		}
	})
}

// A text body is a TextMessage to JMS, and comes back as text.
func TestBrokerTextBody(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		queue := b.fresh(t)
		h := newRecorder()
		start(t, testSource(t, b.peer, queue, nil), h)
		if err := testSink(t, b.peer, queue, func(c *SinkConfig) { c.Body = bodyText }).Handle(t.Context(), &message.Batch{Messages: []message.Message{{Payload: []byte("é")}}}); err != nil {
			t.Fatal(err)
		}
		if m := h.wait(t, 1)[0]; string(m.Payload) != "é" || m.ContentType != "text/plain" {
			t.Errorf("%+v", m)
		}
	})
}

// What was not taken comes again, what never can be is rejected, and all else is gone.
func TestBrokerOutcomes(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		for _, how := range []string{notTakenDetach, notTakenRelease, notTakenModify} {
			t.Run(how, func(t *testing.T) {
				queue := b.fresh(t)
				if err := testSink(t, b.peer, queue, nil).Handle(t.Context(), numbered(0, 10)); err != nil {
					t.Fatal(err)
				}
				h := newRecorder()
				first := true
				h.answer = func(batch *message.Batch) error {
					var p message.PartialError
					for i, m := range batch.Messages {
						switch n := string(m.Payload); {
						case n == "3":
							p.Failed = append(p.Failed, message.Failed{Index: i, Err: &message.Reason{Code: "LS2108", Permanent: true}})
						case n == "5" && first:
							p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrFull})
							first = false
						default:
							h.got = append(h.got, m.Clone())
						}
					}
					if p.Failed == nil {
						h.got = h.got[:len(h.got)-batch.Len()]
						return nil
					}
					return &p
				}
				source := func() error {
					return testSource(t, b.peer, queue, func(c *SourceConfig) { c.NotTaken = how }).Run(t.Context(), h)
				}
				if err := source(); !errors.Is(err, message.ErrFull) {
					t.Fatalf("run: %v", err)
				}
				start(t, testSource(t, b.peer, queue, nil), h)
				eventually(t, "all but the rejected one", func() bool {
					seen := map[string]int{}
					for _, m := range h.all() {
						seen[string(m.Payload)] = m.Attempt
					}
					if seen["3"] != 0 {
						t.Fatal("the rejected one was taken")
					}
					if how == notTakenModify && b.counts && seen["5"] == 1 {
						t.Fatal("a failed delivery was not counted")
					}
					return len(seen) == 9
				})
			})
		}
	})
}

func TestBrokerTurnedAway(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		if b.anybody {
			t.Skip("anybody may connect")
		}
		wrong := b.peer
		wrong.password = "wrong"
		err := testSource(t, wrong, b.fresh(t), nil).Run(t.Context(), newRecorder())
		if err == nil || !strings.Contains(err.Error(), "LS4324") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("password: %v", err)
		}
		err = testSource(t, b.peer, b.forbidden, nil).Run(t.Context(), newRecorder())
		if err == nil || !strings.Contains(err.Error(), "LS4326") {
			t.Errorf("read: %v", err)
		}
		sink := testSink(t, b.peer, b.forbidden, nil)
		if err := sink.Open(t.Context()); err == nil {
			err = sink.Handle(t.Context(), numbered(0, 1))
			if !message.IsUnavailable(failures(t, err)[0]) {
				t.Errorf("write: %v", err)
			}
		}
		// An address made of a message is that message's fault, and no other's.
		anywhere := testSink(t, b.peer, "", func(c *SinkConfig) { c.Address = computed() })
		good := b.fresh(t)
		batch := numbered(0, 3)
		for i, a := range []string{good, b.forbidden, good} {
			batch.Messages[i].Options = []string{a}
		}
		failed := failures(t, anywhere.Handle(t.Context(), batch))
		if len(failed) != 1 || failed[1] == nil || message.IsUnavailable(failed[1]) {
			t.Errorf("computed: %v", failed)
		}
	})
}

func TestBrokerTLS(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		queue := b.fresh(t)
		dir := brokersenv.Need(t, b.name, "LS_CERT_DIR")
		secure := func(change func(*SinkConfig)) error {
			s := testSink(t, b.peer, queue, func(c *SinkConfig) {
				c.Connect, c.TLS = address(t, b.secure(t)), &tlsconf.Client{CA: dir + "/ca.pem"}
				change(c)
			})
			return s.Handle(t.Context(), numbered(0, 10))
		}
		if err := secure(func(*SinkConfig) {}); err != nil {
			t.Errorf("good: %v", err)
		}
		if err := secure(func(c *SinkConfig) { c.TLS.CA = dir + "/rogue-ca.pem" }); !message.IsUnavailable(err) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("rogue authority: %v", err)
		}
	})
}

func TestBrokerSelectorAndSubscription(t *testing.T) {
	peers(t, func(t *testing.T, b realPeer) {
		if !b.selectors || !b.topics {
			t.Skip("it says that it filters, and does not")
		}
		queue := b.fresh(t)
		h := newRecorder()
		selecting := testSource(t, b.peer, queue, func(c *SourceConfig) { c.Selector = "region = 'eu'" })
		batch := numbered(0, 4)
		for i := range batch.Messages {
			batch.Messages[i].Headers = message.Headers{{Name: "region", Value: message.String([]string{"eu", "us"}[i%2])}}
		}
		if err := testSink(t, b.peer, queue, nil).Handle(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		start(t, selecting, h)
		if got := h.wait(t, 2); string(got[1].Payload) != "2" {
			t.Errorf("%v", got)
		}
		topic := b.fresh(t)
		subscribed := newRecorder()
		subscribe := func() func() error {
			return start(t, testSource(t, b.peer, topic, func(c *SourceConfig) { c.Subscription, c.ContainerID = "sub", name(t)[:20] }), subscribed)
		}
		stop := subscribe()
		sink := testSink(t, b.peer, topic, func(c *SinkConfig) { c.Node = "topic" })
		eventually(t, "subscribed", func() bool {
			if err := sink.Handle(t.Context(), numbered(0, 1)); err != nil {
				t.Log(err)
			}
			return len(subscribed.all()) > 0
		})
		if err := stop(); err != nil {
			t.Error(err)
		}
		before := len(subscribed.all())
		if err := sink.Handle(t.Context(), numbered(100, 5)); err != nil {
			t.Fatal(err)
		}
		subscribe()
		got := subscribed.wait(t, before+5)
		if string(got[len(got)-1].Payload) != "104" {
			t.Errorf("%s came last", got[len(got)-1].Payload)
		}
	})
}
