//go:build brokers

package amqp091

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// quirks are what a broker does in its own way.
type quirks struct {
	// streams and quorum: it has such queues.
	streams, quorum bool
	// replies: it has direct reply-to.
	replies bool
}

// realBroker is a broker that is up.
type realBroker struct {
	name string
	app  peer
	tls  string
	quirks
}

func brokers(t *testing.T, test func(t *testing.T, b realBroker)) {
	for _, b := range []struct {
		name, key, tls string
		quirks
	}{
		{"rabbitmq", "LS_RABBITMQ_AMQP_URL", "LS_RABBITMQ_AMQPS_URL", quirks{streams: true, quorum: true, replies: true}},
	} {
		t.Run(b.name, func(t *testing.T) {
			u, err := url.Parse(brokersenv.Need(t, b.name, b.key))
			if err != nil {
				t.Fatal(err)
			}
			password, _ := u.User.Password()
			secure, err := url.Parse(brokersenv.Need(t, b.name, b.tls))
			if err != nil {
				t.Fatal(err)
			}
			p := peer{"amqp://" + u.Host + "/%2F", u.User.Username(), password}
			test(t, realBroker{b.name, p, "amqps://" + secure.Host + "/", b.quirks})
		})
	}
}

func (b realBroker) as(t *testing.T, user, password string) peer {
	p := b.app
	p.user, p.password = brokersenv.Need(t, b.name, user), brokersenv.Need(t, b.name, password)
	return p
}

// fresh makes a queue that the user app may use.
func (b realBroker) fresh(t *testing.T, kind string, arguments amqp.Table) string {
	t.Helper()
	queue := "app." + strings.ToLower(strings.NewReplacer("/", ".", " ", "_").Replace(t.Name())) + kind + strconv.FormatInt(time.Now().UnixNano(), 10)
	if arguments == nil {
		arguments = amqp.Table{}
	}
	if kind != "" {
		arguments["x-queue-type"] = kind
	}
	if _, err := client(t, b.app).QueueDeclare(queue, true, false, false, false, arguments); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn, err := amqp.Dial(b.app.url())
		if err != nil {
			return
		}
		defer conn.Close()
		if ch, err := conn.Channel(); err == nil {
			_, _ = ch.QueueDelete(queue, false, false, false)
		}
	})
	return queue
}

func TestBrokerSuite(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		kinds := []string{""}
		if b.quorum {
			kinds = append(kinds, "quorum")
		}
		for _, kind := range kinds {
			t.Run("queue "+kind, func(t *testing.T) { runSuite(t, b.app, b.fresh(t, kind, nil), b.fresh(t, kind, nil)) })
		}
	})
}

// Everything that Carries claims passes a broker.
func TestBrokerProperties(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		queue := b.fresh(t, "", nil)
		h := newRecorder()
		start(t, testSource(t, b.app, testEnv(t), queue, nil), h)
		want := message.Message{
			ID: "id-1", CorrelationID: "c-1", ReplyTo: "answers", ContentType: "application/json", Priority: 7,
			Time: time.Unix(1700000000, 0), Expires: time.Now().Add(time.Hour), Payload: []byte{0, 1, 2},
			Headers: message.Headers{
				{Name: "bool", Value: message.Bool(true)},
				{Name: "bytes", Value: message.Bytes([]byte{0, 0xff})},
				{Name: "float", Value: message.Float(-0.5)},
				{Name: "int", Value: message.Int(1 << 60)},
				{Name: "null"},
				{Name: "text", Value: message.String("é\r\n")},
				{Name: "time", Value: message.Time(time.Unix(7, 0))},
				{Name: "twice", Value: message.Int(1)},
				{Name: "twice", Value: message.String("b")},
			},
		}
		zero := message.Message{Payload: []byte("zero")}
		if err := testSink(t, b.app, queue, nil).Handle(t.Context(), &message.Batch{Messages: []message.Message{want, zero}}); err != nil {
			t.Fatal(err)
		}
		got := h.wait(t, 2)
		g := got[0]
		if g.ID != want.ID || g.CorrelationID != want.CorrelationID || g.ReplyTo != want.ReplyTo || g.ContentType != want.ContentType ||
			g.Priority != 7 || !g.Time.Equal(want.Time) || g.Expires.Sub(want.Expires).Abs() > 5*time.Second || string(g.Payload) != string(want.Payload) || g.Topic != queue {
			t.Errorf("%+v", g)
		}
		for i, x := range want.Headers {
			if i >= len(g.Headers) || g.Headers[i] != x {
				t.Errorf("header %s: %v", x.Name, g.Headers)
			}
		}
		if got[1].Priority != 0 || len(got[1].Headers) != 0 {
			t.Errorf("priority 0: %+v", got[1])
		}
	})
}

// A stream goes on behind what was handed on, also after a failure.
func TestBrokerStream(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		if !b.streams {
			t.Skip("no streams")
		}
		queue := b.fresh(t, "stream", nil)
		env := testEnv(t)
		sink := testSink(t, b.app, queue, nil)
		if err := sink.Handle(t.Context(), numbered(0, 1000)); err != nil {
			t.Fatal(err)
		}
		source := func(offset string) connectors.Source {
			return testSource(t, b.app, env, queue, func(c *SourceConfig) { c.Offset, c.Prefetch = offset, 100 })
		}
		h := newRecorder()
		h.answer = func(batch *message.Batch) error { // takes half of the third batch
			if h.batches != 3 {
				return nil
			}
			h.got = append(h.got, batch.Messages[0].Clone())
			p := &message.PartialError{}
			for i := 1; i < batch.Len(); i++ {
				p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrFull})
			}
			if p.Failed == nil {
				return message.ErrFull
			}
			return p
		}
		if err := source("first").Run(t.Context(), h); !errors.Is(err, message.ErrFull) {
			t.Fatalf("run: %v", err)
		}
		h.answer = nil
		stop := start(t, source("first"), h)
		got := h.wait(t, 1000)
		for i, m := range got {
			if string(m.Payload) != strconv.Itoa(i) {
				t.Fatalf("%s came in place of %d", m.Payload, i)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := sink.Handle(t.Context(), numbered(1000, 10)); err != nil {
			t.Fatal(err)
		}
		start(t, source("next"), h) // there is an offset, so nothing is passed over
		if got := h.wait(t, 1010); len(got) != 1010 {
			t.Errorf("%d messages", len(got))
		}
		// Without an offset of its own, another input begins where it is told.
		other := newRecorder()
		start(t, testSource(t, b.app, testEnv(t), queue, func(c *SourceConfig) { c.Offset = "1005" }), other)
		if got := other.wait(t, 5); string(got[0].Payload) != "1005" {
			t.Errorf("offset 1005 begins with %s", got[0].Payload)
		}
	})
}

// Quorum queues count deliveries, and what is rejected goes to the dead-letter queue.
func TestBrokerAttemptsAndDeadLetters(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		dead := b.fresh(t, "", nil)
		queue := b.fresh(t, "quorum", amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
		send(t, b.app, queue, numbered(0, 1))
		env := testEnv(t)
		for want := 1; want <= 3; want++ {
			var attempt int
			err := testSource(t, b.app, env, queue, nil).Run(t.Context(), message.HandlerFunc(func(_ context.Context, batch *message.Batch) error {
				attempt = batch.Messages[0].Attempt
				return message.ErrFull
			}))
			if attempt != want || !errors.Is(err, message.ErrFull) {
				t.Errorf("attempt %d, want %d: %v", attempt, want, err)
			}
		}
		start(t, testSource(t, b.app, env, queue, nil), message.HandlerFunc(func(context.Context, *message.Batch) error {
			return &message.PartialError{Failed: []message.Failed{{Index: 0, Err: &message.Reason{Code: "LS2108", Permanent: true}}}}
		}))
		m := collect(t, b.app, dead).wait(t, 1)[0]
		for name, want := range map[string]message.Value{
			"amqp091.death_count": message.Int(1), "amqp091.death_reason": message.String("rejected"),
			"amqp091.death_queue": message.String(queue), "amqp091.death_exchange": message.String(""),
		} {
			if got, _ := m.Headers.Get(name); got != want {
				t.Errorf("%s: %v", name, got)
			}
		}
		if !strings.Contains(m.Headers.Text("x-death"), `"reason":"rejected"`) {
			t.Errorf("x-death: %s", m.Headers.Text("x-death"))
		}
	})
}

func TestBrokerRefusals(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		full := b.fresh(t, "", amqp.Table{"x-max-length": int64(3), "x-overflow": "reject-publish"})
		failed := failures(t, testSink(t, b.app, full, nil).Handle(t.Context(), keyed(numbered(0, 10))))
		if len(failed) == 0 || len(failed) > 7 {
			t.Errorf("full queue: %d failed", len(failed))
		}
		for i, err := range failed {
			if !message.IsUnavailable(err) {
				t.Errorf("full queue: message %d: %v", i, err)
			}
		}
		failed = failures(t, testSink(t, b.app, "app.missing", nil).Handle(t.Context(), keyed(numbered(0, 500))))
		for i := range 500 {
			if code(failed[i]) != codeUnroutable {
				t.Fatalf("unroutable: message %d: %v", i, failed[i])
			}
		}
		ok := b.fresh(t, "", nil)
		user := testSink(t, b.app, ok, func(c *SinkConfig) { c.UserID = "somebody" })
		if err := failures(t, user.Handle(t.Context(), numbered(0, 1)))[0]; code(err) != codeRefused {
			t.Errorf("user-id of another: %v", err)
		}
		topic := testSink(t, b.app, "", func(c *SinkConfig) { c.Exchange, c.RoutingKey.Literal, c.Mandatory = "amq.topic", "forbidden.x", false })
		if err := failures(t, topic.Handle(t.Context(), numbered(0, 1)))[0]; code(err) != codeRefused || strings.Contains(err.Error(), "forbidden") {
			t.Errorf("forbidden topic: %v", err)
		}
		exchange := testSink(t, b.app, "", func(c *SinkConfig) { c.Exchange, c.RoutingKey.Literal = "amq.direct", "x" })
		if err := failures(t, exchange.Handle(t.Context(), numbered(0, 2)))[0]; !message.IsUnavailable(err) || !strings.Contains(err.Error(), "LS4311") {
			t.Errorf("forbidden exchange: %v", err)
		}
		missing := testSink(t, b.app, "", func(c *SinkConfig) { c.Exchange, c.RoutingKey.Literal = "app.missing", "x" })
		if err := failures(t, missing.Handle(t.Context(), numbered(0, 2)))[0]; !message.IsUnavailable(err) || !strings.Contains(err.Error(), "LS4310") {
			t.Errorf("missing exchange: %v", err)
		}
		reader := b.as(t, "LS_READER_USER", "LS_READER_PASS")
		h := newRecorder()
		send(t, b.app, ok, numbered(0, 3))
		start(t, testSource(t, reader, testEnv(t), ok, func(c *SourceConfig) { c.Declare = declareCheck }), h)
		h.wait(t, 3) // consuming and looking need no right to configure
	})
}

func TestBrokerTurnedAway(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		queue := b.fresh(t, "", nil)
		wrong, elsewhere, forbidden := b.app, b.app, b.app
		wrong.password = "wrong"
		elsewhere.address = strings.Replace(elsewhere.address, "%2F", "elsewhere", 1)
		forbidden.address = strings.Replace(forbidden.address, "%2F", "other", 1)
		reader := b.as(t, "LS_READER_USER", "LS_READER_PASS")
		held := b.fresh(t, "", nil)
		exclusive := client(t, b.app)
		if _, err := exclusive.Consume(held, "", true, true, false, false, nil); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			p           peer
			queue, code string
			change      func(*SourceConfig)
		}{
			"password":      {wrong, queue, "LS4308", nil},
			"no vhost":      {elsewhere, queue, "LS4309", nil},
			"vhost":         {forbidden, queue, "LS4309", nil},
			"no queue":      {b.app, "app.missing", "LS4310", nil},
			"read":          {b.app, "secret", "LS4311", nil},
			"exclusive":     {b.app, held, "LS4311", nil},
			"configure":     {reader, "app.new", "LS4311", func(c *SourceConfig) { c.Declare = declareCreate }},
			"other options": {b.app, queue, "LS4312", func(c *SourceConfig) { c.Declare, c.QueueOptions.Durable = declareCreate, false }},
		} {
			err := testSource(t, c.p, testEnv(t), c.queue, c.change).Run(t.Context(), newRecorder())
			if err == nil || !strings.Contains(err.Error(), c.code) || strings.Contains(err.Error(), "secret") && name == "password" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestBrokerTLS(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		queue := b.fresh(t, "", nil)
		dir := brokersenv.Need(t, b.name, "LS_CERT_DIR")
		secure := func(change func(*SinkConfig)) error {
			s := testSink(t, b.app, queue, func(c *SinkConfig) {
				c.Connect = address(t, b.tls)
				c.TLS = &tlsconf.Client{CA: dir + "/ca.pem"}
				change(c)
			})
			return s.Handle(t.Context(), numbered(0, 10))
		}
		if err := secure(func(*SinkConfig) {}); err != nil {
			t.Errorf("good: %v", err)
		}
		if err := secure(func(c *SinkConfig) {
			c.TLS.Cert, c.TLS.Key, c.Auth = dir+"/client.pem", dir+"/client.key", &Auth{External: true}
		}); err != nil {
			t.Errorf("external: %v", err)
		}
		if err := secure(func(c *SinkConfig) { c.TLS.CA = dir + "/rogue-ca.pem" }); !message.IsUnavailable(err) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("rogue authority: %v", err)
		}
		if err := secure(func(c *SinkConfig) { c.TLS.ServerName = "other.example" }); !message.IsUnavailable(err) {
			t.Errorf("other name: %v", err)
		}
	})
}

// A request with direct reply-to is answered at the address that the broker made.
func TestBrokerReply(t *testing.T) {
	brokers(t, func(t *testing.T, b realBroker) {
		if !b.replies {
			t.Skip("no direct reply-to")
		}
		queue := b.fresh(t, "", nil)
		ch := client(t, b.app)
		replies, err := ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.PublishWithContext(t.Context(), "", queue, true, false, amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: "42", Body: []byte("ping")}); err != nil {
			t.Fatal(err)
		}
		var r config.Report
		node := config.Parse("x", []byte("a: b"), config.Lookup{}, &r).Root()
		sink := testSink(t, b.app, "", func(c *SinkConfig) {
			c.RoutingKey = config.Option{Expr: config.Expr{Source: "message.reply_to", Node: node}, Destination: true}
		})
		start(t, testSource(t, b.app, testEnv(t), queue, nil), message.HandlerFunc(func(ctx context.Context, batch *message.Batch) error {
			for i := range batch.Messages {
				m := &batch.Messages[i]
				m.Options = []string{m.ReplyTo}
				m.ReplyTo, m.Payload = "", []byte("pong")
			}
			return sink.Handle(ctx, batch)
		}))
		select {
		case d := <-replies:
			if d.CorrelationId != "42" || string(d.Body) != "pong" {
				t.Errorf("%+v", d)
			}
		case <-time.After(patience):
			t.Error("no reply")
		}
	})
}
