//go:build brokers

package stomp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// quirks is a broker, with what is its own.
type quirks struct {
	name string
	// address is the key of its address, tls that of its address or port with TLS.
	address, tls string
	// queue makes a destination of a name that the user may use.
	queue func(name string) string
	// selectors: SUBSCRIBE takes one.
	selectors bool
	// text are the versions in which a text comes without a length.
	text []string
	// deadLetters is where a refused message ends; empty: it is dropped.
	deadLetters string
	// durable are the headers of a durable subscription to a topic. None: the broker, as
	// it is set up here, makes queues of all addresses.
	durable map[string]string
	topic   string
}

func brokers() []quirks {
	slash := func(name string) string { return "/queue/app." + name }
	return []quirks{
		{
			name: "rabbitmq", address: "LS_RABBITMQ_STOMP_ADDR", tls: "LS_RABBITMQ_STOMPS_ADDR", queue: slash,
			durable: map[string]string{"durable": "true", "auto-delete": "false"}, topic: "/topic/app.durable",
		},
		{
			name: "activemq", address: "LS_ACTIVEMQ_STOMP_ADDR", tls: "LS_ACTIVEMQ_STOMPS_ADDR", queue: slash, selectors: true, text: []string{"1.0", "1.1", "1.2"},
			deadLetters: "/queue/ActiveMQ.DLQ", durable: map[string]string{"activemq.subscriptionName": "linkspan"}, topic: "/topic/app.durable",
		},
		{
			name: "artemis", address: "LS_ARTEMIS_STOMP_ADDR", tls: "LS_ARTEMIS_TLS_PORT", queue: func(name string) string { return "app." + name }, selectors: true, text: []string{"1.0"},
		},
	}
}

// rig is a broker that is up.
type rig struct {
	quirks

	addr string
}

func eachBroker(t *testing.T, f func(t *testing.T, r rig)) {
	for _, q := range brokers() {
		t.Run(q.name, func(t *testing.T) { f(t, rig{q, brokersenv.Need(t, q.name, q.address)}) })
	}
}

func (r rig) auth(t testing.TB) *Auth {
	return &Auth{User: brokersenv.Need(t, r.name, "LS_APP_USER"), Password: config.NewSecret(brokersenv.Need(t, r.name, "LS_APP_PASS"))}
}

// fresh returns a queue that no other test uses.
func (r rig) fresh(t testing.TB) string {
	name := regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")
	return r.queue(name + "-" + strconv.FormatInt(time.Now().UnixNano(), 36))
}

func (r rig) source(t testing.TB, queue string, change func(*SourceConfig)) connectors.Source {
	return testDialSource(t, r.addr, func(c *SourceConfig) {
		c.Destinations, c.Auth = []string{queue}, r.auth(t)
		if change != nil {
			change(c)
		}
	})
}

func (r rig) sink(t testing.TB, queue string, change func(*SinkConfig)) connectors.Sink {
	return testSink(t, r.addr, func(c *SinkConfig) {
		c.Destination.Literal, c.Auth = queue, r.auth(t)
		if change != nil {
			change(c)
		}
	})
}

// collector receives with the client of go-stomp.
type collector struct {
	mu  sync.Mutex
	got []message.Message
}

func (r rig) dialOther(t testing.TB, v gostomp.Version) *gostomp.Conn {
	t.Helper()
	a := r.auth(t)
	c, err := gostomp.Dial("tcp", r.addr, gostomp.ConnOpt.Login(a.User, a.Password.Reveal()), gostomp.ConnOpt.Host("/"),
		gostomp.ConnOpt.AcceptVersion(v), gostomp.ConnOpt.HeartBeat(0, 0), gostomp.ConnOpt.MsgSendTimeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r rig) collect(t *testing.T, queue string) *collector {
	t.Helper()
	c := r.dialOther(t, gostomp.V12)
	sub, err := c.Subscribe(queue, gostomp.AckAuto)
	if err != nil {
		t.Fatal(err)
	}
	out := &collector{}
	group := run.NewGroup(context.Background())
	group.Go("collect", func(context.Context) error {
		for m := range sub.C {
			if m.Err != nil {
				return nil
			}
			x := message.Message{Payload: m.Body, Topic: m.Destination}
			for i := range m.Header.Len() {
				name, value := m.Header.GetAt(i)
				x.Headers.Add(name, message.String(value))
			}
			out.mu.Lock()
			out.got = append(out.got, x)
			out.mu.Unlock()
		}
		return nil
	})
	t.Cleanup(func() {
		_ = c.MustDisconnect()
		_ = group.Wait()
	})
	return out
}

func (c *collector) wait(t *testing.T, n int) []message.Message {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; {
		c.mu.Lock()
		got := slices.Clone(c.got)
		c.mu.Unlock()
		if len(got) >= n {
			return got
		}
		if time.Now().After(limit) {
			t.Fatalf("%d messages, want %d", len(got), n)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestBrokerSuite(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		for _, version := range []string{"1.0", "1.1", "1.2"} {
			t.Run(version, func(t *testing.T) {
				queue, current := "", ""
				out := r.fresh(t)
				col := r.collect(t, out)
				sender := r.dialOther(t, gostomp.V12)
				defer func() { _ = sender.MustDisconnect() }()
				connectortest.Run(t, connectortest.Harness{
					Source: &connectortest.Source{
						New: func(t *testing.T) connectors.Source {
							if t.Name() != current {
								current, queue = t.Name(), r.queue("suite-"+strconv.FormatInt(time.Now().UnixNano(), 36))
							}
							return r.source(t, queue, func(c *SourceConfig) { c.Version = version })
						},
						Send: func(_ context.Context, m message.Message) error {
							opts := []func(*frame.Frame) error{gostomp.SendOpt.Receipt, gostomp.SendOpt.Header("persistent", "true")}
							for _, h := range m.Headers {
								opts = append(opts, gostomp.SendOpt.Header(h.Name, h.Value.Text()))
							}
							return sender.Send(queue, "", m.Payload, opts...)
						},
						Intruder: func(t *testing.T) error {
							err := r.source(t, queue, func(c *SourceConfig) {
								c.Auth = &Auth{User: "app", Password: config.NewSecret("wrong")}
							}).Run(t.Context(), nil)
							if err != nil && !strings.Contains(err.Error(), "LS4341") {
								t.Errorf("got %v", err)
							}
							return err
						},
					},
					Sink: &connectortest.Sink{
						New: func(t *testing.T) connectors.Sink {
							return r.sink(t, out, func(c *SinkConfig) { c.Version = version })
						},
						Received: func(t *testing.T, n int) []message.Message { return col.wait(t, n) },
					},
				}, connectortest.Features{Redelivers: true, Headers: true, LineBreaks: version == "1.2", Single: true})
			})
		}
	})
}

// What leaves through the sink arrives at the source as it was.
func TestBrokerProperties(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		for _, version := range []string{"1.0", "1.1", "1.2"} {
			for _, tx := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s transactions %v", version, tx), func(t *testing.T) {
					queue := r.fresh(t)
					sent := message.Message{
						Payload: []byte(`{"a":1}`), ContentType: "application/json", CorrelationID: "c:1", ReplyTo: r.queue("replies"), Priority: 7,
						Expires: time.Now().Add(time.Hour).Truncate(time.Millisecond), Key: []byte("k"),
						Headers: message.Headers{{Name: "x-text", Value: message.String("é:✓ \\n")}, {Name: "type", Value: message.String("order")}, {Name: "empty", Value: message.String("")}},
					}
					if version == "1.0" {
						sent.Headers[0].Value = message.String("é:✓")
					}
					if version == "1.2" {
						sent.Headers.Add("x:y", message.String("a\r\nb\\c:d"))
					}
					b := &message.Batch{}
					for range 20 {
						b.Messages = append(b.Messages, sent)
					}
					b.Messages[1].Payload = []byte("\x00\xff\n\x00")
					if err := r.sink(t, queue, func(c *SinkConfig) { c.Version, c.Transactions = version, tx }).Handle(t.Context(), b); err != nil {
						t.Fatal(err)
					}
					rec := newRecorder()
					startSource(t, r.source(t, queue, func(c *SourceConfig) { c.Version = version }), rec)
					got := rec.wait(t, 20)
					for i, m := range got[:2] {
						if string(m.Payload) != string(b.Messages[i].Payload) || m.ContentType != sent.ContentType || m.CorrelationID != sent.CorrelationID || m.ReplyTo != sent.ReplyTo ||
							m.Priority != sent.Priority || !m.Expires.Equal(sent.Expires) || m.Topic != queue || string(m.Key) != queue || m.Attempt != 1 || m.ID == "" {
							t.Errorf("message %d: %+v", i, m)
						}
						for _, h := range sent.Headers {
							if m.Headers.Text(h.Name) != h.Value.Text() {
								t.Errorf("message %d: header %q is %q", i, h.Name, m.Headers.Text(h.Name))
							}
						}
						if time.Since(m.Time).Abs() > time.Minute {
							t.Errorf("message %d: time %s", i, m.Time)
						}
					}
					want := [2]string{bodyBytes, bodyBytes}
					if slices.Contains(r.text, version) {
						want[0] = bodyText
					}
					if k := [2]string{got[0].Headers.Text(headerBody), got[1].Headers.Text(headerBody)}; k != want {
						t.Errorf("bodies came as %v, want %v", k, want)
					}
				})
			}
		}
	})
}

func TestBrokerForbidden(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		forbidden := strings.Replace(r.queue("x"), "app.x", "forbidden", 1)
		err := r.source(t, forbidden, nil).Run(t.Context(), newRecorder())
		if err == nil || !strings.Contains(err.Error(), "LS4344") || strings.Contains(err.Error(), "forbidden") {
			t.Errorf("subscribe: %v", err)
		}
		for _, tx := range []bool{false, true} {
			t.Run(fmt.Sprintf("transactions %v", tx), func(t *testing.T) {
				queue := r.fresh(t)
				col := r.collect(t, queue)
				s := r.sink(t, queue, func(c *SinkConfig) { computed(c); c.Transactions = tx })
				b := batchOf(20)
				for i := range b.Messages {
					b.Messages[i].Options = []string{queue}
				}
				b.Messages[11].Options = []string{forbidden}
				refused := map[string]bool{}
				for try := 0; b.Len() > 0; try++ {
					if try == 10 {
						t.Fatalf("%d messages are left", b.Len())
					}
					left := &message.Batch{}
					for i, err := range failed(t, s.Handle(t.Context(), b)) {
						if message.IsUnavailable(err) {
							left.Messages = append(left.Messages, b.Messages[i])
						} else {
							refused[string(b.Messages[i].Payload)] = true
						}
					}
					b = left
				}
				if len(refused) != 1 || !refused["11"] {
					t.Errorf("refused %v", refused)
				}
				// What was on its way when the connection ended may come twice.
				seen := map[string]bool{}
				for n := 19; len(seen) < 19; n++ {
					for _, m := range col.wait(t, n) {
						seen[string(m.Payload)] = true
					}
				}
				if len(seen) != 19 || seen["11"] {
					t.Errorf("%d different messages arrived", len(seen))
				}
			})
		}
	})
}

func TestBrokerSelector(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		if !r.selectors {
			t.Skip("it has none")
		}
		queue := r.fresh(t)
		b := batchOf(10)
		for i := range b.Messages {
			b.Messages[i].Headers.Set("region", message.String([]string{"eu", "us"}[i%2]))
		}
		if err := r.sink(t, queue, nil).Handle(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		rec := newRecorder()
		startSource(t, r.source(t, queue, func(c *SourceConfig) { c.Selector = "region = 'us'" }), rec)
		for i, m := range rec.wait(t, 5) {
			if string(m.Payload) != strconv.Itoa(2*i+1) {
				t.Errorf("got %s", m.Payload)
			}
		}
	})
}

// A message that was not taken comes again, as a second attempt; one that can never be
// taken ends where the broker puts it, and does not come again.
func TestBrokerRefusals(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		for _, ack := range []string{ackIndividual, ackCumulative} {
			t.Run(ack, func(t *testing.T) {
				queue := r.fresh(t)
				if err := r.sink(t, queue, nil).Handle(t.Context(), batchOf(50)); err != nil {
					t.Fatal(err)
				}
				rec := newRecorder()
				attempts := map[string]int{}
				rec.answer = func(b *message.Batch) error {
					var p message.PartialError
					for i := range b.Messages {
						m := &b.Messages[i]
						attempts[string(m.Payload)] = max(attempts[string(m.Payload)], m.Attempt)
						switch {
						case string(m.Payload) == "7":
							p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrTooLarge})
						case string(m.Payload) == "20" && m.Attempt == 1:
							p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrFull})
						}
					}
					if p.Failed == nil {
						return nil
					}
					return &p
				}
				change := func(c *SourceConfig) { c.Ack, c.Prefetch = ack, 10 }
				if err := r.source(t, queue, change).Run(t.Context(), rec); !errors.Is(err, message.ErrFull) {
					t.Fatalf("the session ended with %v", err)
				}
				startSource(t, r.source(t, queue, change), rec)
				distinct := func() int {
					got := map[string]bool{}
					for _, m := range rec.all() {
						got[string(m.Payload)] = true
					}
					return len(got)
				}
				for limit := time.Now().Add(20 * time.Second); distinct() < 49; {
					if time.Now().After(limit) {
						t.Fatalf("%d arrived", distinct())
					}
					<-time.After(10 * time.Millisecond)
				}
				rec.mu.Lock()
				defer rec.mu.Unlock()
				if attempts["20"] != 2 || attempts["7"] > 2 {
					t.Errorf("attempts of 20: %d, of 7: %d", attempts["20"], attempts["7"])
				}
				if r.deadLetters != "" {
					waitDeadLetter(t, r.collect(t, r.deadLetters), queue)
				}
			})
		}
	})
}

// waitDeadLetter returns when a message that came from queue is among the dead letters.
func waitDeadLetter(t *testing.T, dead *collector, queue string) {
	t.Helper()
	for n := 1; ; n++ {
		for _, m := range dead.wait(t, n) {
			if m.Headers.Text("original-destination") == queue && string(m.Payload) == "7" {
				return
			}
		}
	}
}

// A message that is larger than max_frame does not block its queue.
func TestBrokerOversized(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		for _, kind := range []string{typeText, typeBytes} {
			t.Run(kind, func(t *testing.T) {
				queue := r.fresh(t)
				b := batchOf(5)
				b.Messages[2].Payload = []byte(strings.Repeat("x", 2<<20))
				if err := r.sink(t, queue, func(c *SinkConfig) { c.Type = kind }).Handle(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				rec := newRecorder()
				if err := r.source(t, queue, nil).Run(t.Context(), rec); err == nil || !strings.Contains(err.Error(), "LS4351") {
					t.Fatalf("the session ended with %v", err)
				}
				startSource(t, r.source(t, queue, nil), rec)
				rec.wait(t, 4)
			})
		}
	})
}

// A durable subscription keeps what was sent while the source was away.
func TestBrokerDurable(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		if r.durable == nil {
			t.Skip("it has no topics")
		}
		topic := r.topic + strconv.FormatInt(time.Now().UnixNano(), 36)
		id := "linkspan-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		source := func() connectors.Source {
			return r.source(t, topic, func(c *SourceConfig) { c.ClientID, c.SubscriptionID, c.Headers = id, id, r.durable })
		}
		send := func(n int) {
			t.Helper()
			if err := r.sink(t, topic, nil).Handle(t.Context(), batchOf(n)); err != nil {
				t.Fatal(err)
			}
		}
		rec := newRecorder()
		stop := startSource(t, source(), rec)
		for limit := time.Now().Add(10 * time.Second); len(rec.all()) == 0; { // until the subscription is there
			if time.Now().After(limit) {
				t.Fatal("nothing arrived")
			}
			send(1)
			<-time.After(50 * time.Millisecond)
		}
		stop()
		before := len(rec.all())
		send(5)
		startSource(t, source(), rec)
		rec.wait(t, before+5)
	})
}

// The broker is restarted, and killed, while messages go in and come out: what was
// confirmed arrives.
func TestBrokerRestartAndKill(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		for _, fault := range []string{"restart", "kill"} {
			for _, tx := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s transactions %v", fault, tx), func(t *testing.T) {
					queue := r.fresh(t)
					rec := newRecorder()
					group := run.NewGroup(context.Background())
					group.Go("receive", func(ctx context.Context) error {
						for ctx.Err() == nil {
							_ = r.source(t, queue, nil).Run(ctx, rec)
							run.Pause(ctx, 50*time.Millisecond)
						}
						return nil
					})
					t.Cleanup(func() { group.Stop(); _ = group.Wait() })
					s := r.sink(t, queue, func(c *SinkConfig) { c.Transactions, c.Timeout = tx, 5*time.Second })
					var confirmed int
					limit := time.Now().Add(2 * time.Minute)
					sendUntil := func(done func() bool) {
						for !done() {
							if time.Now().After(limit) {
								t.Fatalf("the broker does not take messages again after %d", confirmed)
							}
							b := &message.Batch{}
							for i := range 50 {
								b.Messages = append(b.Messages, message.Message{Payload: fmt.Appendf(nil, "%d", confirmed+i)})
							}
							for b.Len() > 0 && time.Now().Before(limit) {
								left := &message.Batch{}
								err := s.Handle(context.Background(), b)
								if partial, ok := errors.AsType[*message.PartialError](err); ok {
									for _, f := range partial.Failed {
										left.Messages = append(left.Messages, b.Messages[f.Index])
									}
								} else if err != nil {
									left = b
								}
								if b = left; err != nil {
									<-time.After(20 * time.Millisecond)
								}
							}
							confirmed += 50
						}
					}
					sendUntil(func() bool { return confirmed >= 500 })
					broken := make(chan struct{})
					group.Go("fault", func(context.Context) error {
						defer close(broken)
						brokersenv.Do(t, fault, r.name)
						if fault == "kill" {
							waitGone(r.addr)
							brokersenv.Do(t, "up", r.name)
						}
						return nil
					})
					sendUntil(func() bool {
						select {
						case <-broken:
							return true
						default:
							return false
						}
					})
					end := confirmed + 500
					sendUntil(func() bool { return confirmed >= end })
					var missing int
					for limit = time.Now().Add(60 * time.Second); ; {
						got := map[string]bool{}
						for _, m := range rec.all() {
							got[string(m.Payload)] = true
						}
						if missing = confirmed - len(got); missing == 0 || time.Now().After(limit) {
							break
						}
						<-time.After(50 * time.Millisecond)
					}
					if missing != 0 {
						t.Errorf("%d of %d confirmed messages are missing", missing, confirmed)
					}
					t.Logf("%d confirmed, %d received", confirmed, len(rec.all()))
				})
			}
		}
	})
}

// waitGone returns when nobody listens any more: a process that was killed takes a
// moment to let go of its port.
func waitGone(addr string) {
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return
		}
		_ = conn.Close()
		<-time.After(20 * time.Millisecond)
	}
}

// A broker that is stopped with its connections open is given up after the
// heart-beats that it owes.
func TestBrokerHangs(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		queue := r.fresh(t)
		rec := newRecorder()
		ended := make(chan error, 1)
		group := run.NewGroup(context.Background())
		t.Cleanup(func() { group.Stop(); _ = group.Wait() })
		src := r.source(t, queue, func(c *SourceConfig) { c.HeartBeat = time.Second })
		group.Go("receive", func(ctx context.Context) error { ended <- src.Run(ctx, rec); return nil })
		s := r.sink(t, queue, func(c *SinkConfig) { c.HeartBeat = time.Second })
		if err := s.Handle(t.Context(), batchOf(5)); err != nil {
			t.Fatal(err)
		}
		rec.wait(t, 5)
		select {
		case err := <-ended: // heart-beats both ways keep it
			t.Fatalf("the source ended: %v", err)
		case <-time.After(5 * time.Second):
		}
		brokersenv.Do(t, "pause", r.name)
		paused := true
		defer func() {
			if paused {
				brokersenv.Do(t, "resume", r.name)
			}
		}()
		begun := time.Now()
		err := s.Handle(t.Context(), batchOf(1))
		if len(failed(t, err)) != 1 || !message.IsUnavailable(failed(t, err)[0]) || time.Since(begun) > 8*time.Second {
			t.Errorf("the sink: %v after %s", err, time.Since(begun))
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the source ended without an error")
			}
		case <-time.After(8 * time.Second):
			t.Error("the source waits")
		}
		brokersenv.Do(t, "resume", r.name)
		paused = false
	})
}

func TestBrokerTLS(t *testing.T) {
	eachBroker(t, func(t *testing.T, r rig) {
		at := brokersenv.Need(t, r.name, r.tls)
		if _, _, err := net.SplitHostPort(at); err != nil {
			at = net.JoinHostPort("localhost", at)
		}
		ca := brokersenv.Need(t, r.name, "LS_CA_FILE")
		queue := r.fresh(t)
		with := func(c tlsconf.Either) error {
			s := r.sink(t, queue, func(s *SinkConfig) { s.Connect, s.TLS = address(t, "stomp+ssl://"+at), &c })
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			return s.Handle(ctx, batchOf(3))
		}
		// ActiveMQ 5.17 now and then reads the first frame of a TLS connection twice and says
		// so with an ERROR; such a connection is of no use, and the supervisor tries again.
		err := with(tlsconf.Either{CA: ca})
		for tries := 1; err != nil && tries < 5; tries++ {
			err = with(tlsconf.Either{CA: ca})
		}
		if err != nil {
			t.Fatalf("with its authority: %v", err)
		}
		for name, c := range map[string]tlsconf.Either{"the system's authorities": {}, "another name": {CA: ca, ServerName: "other.example"}} {
			if err := with(c); err == nil || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("with %s: %v", name, err)
			}
		}
		rec := newRecorder()
		group := run.NewGroup(context.Background())
		group.Go("receive", func(ctx context.Context) error {
			for ctx.Err() == nil {
				_ = r.source(t, queue, func(c *SourceConfig) {
					c.Connect, c.TLS = address(t, "stomp+ssl://"+at), &tlsconf.Either{CA: ca}
				}).Run(ctx, rec)
			}
			return nil
		})
		defer func() { group.Stop(); _ = group.Wait() }()
		rec.wait(t, 3)
	})
}

// A client that is not written in Go sends to the listener.
func TestBrokerOutsideClient(t *testing.T) {
	rec := newRecorder()
	addr, _ := startListener(t, rec, func(c *SourceConfig) {
		c.Auth = &Auth{Users: map[string]config.Secret{"legacy": config.NewSecret("s3cret")}}
	})
	host, port, _ := net.SplitHostPort(addr)
	_, here, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(here), "..", "..", "test", "brokers", "clients", "stomp.py")
	out, err := exec.CommandContext(t.Context(), "python3", script, host, port, "/queue/orders.legacy", "legacy", "s3cret").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	counts := map[string]int{}
	for _, m := range rec.all() {
		kind := m.Headers.Text("kind")
		counts[kind]++
		switch {
		case kind == "bytes" && string(m.Payload) != "\x00binary\n\x00", kind == "text" && string(m.Payload) != "text",
			kind == "escaped" && m.Headers.Text("a:b") != "c:\\\nd", m.Topic != "/queue/orders.legacy":
			t.Errorf("%s: %q %v", kind, m.Payload, m.Headers)
		}
	}
	for kind, want := range map[string]int{"text": 3, "bytes": 3, "escaped": 2, "pipelined": 300, "committed": 9, "aborted": 0} {
		if counts[kind] != want {
			t.Errorf("%d messages of kind %s, want %d", counts[kind], kind, want)
		}
	}
}
