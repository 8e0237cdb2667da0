package amqp091

import (
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// The ways to treat queues and exchanges.
const (
	declareNone   = "none"
	declareCheck  = "check"
	declareCreate = "create"
)

// SourceConfig is what a user writes under `amqp091:` of an input.
type SourceConfig struct {
	// Connect is the broker, amqp://host:5672/vhost or amqps://host:5671/vhost. No vhost,
	// `/` and `/%2F` all mean the vhost named "/".
	Connect config.Address `yaml:"connect,required"`
	// Queue is the queue that is consumed.
	Queue string `yaml:"queue,required"`
	// Prefetch is the number of messages that the broker sends ahead of their
	// acknowledgement. Default: 512.
	Prefetch int `yaml:"prefetch"`
	// Offset makes the queue a stream, and says where to begin when there is no offset of
	// an earlier run: first, last, next, a number, or a time (RFC 3339).
	Offset string `yaml:"offset"`
	// Declare says what to do about the queue before it is consumed: none leaves it alone,
	// check asks whether it is there, create makes it and its bindings. Default: none.
	Declare string `yaml:"declare"`
	// QueueOptions describe the queue for `declare: create`.
	QueueOptions QueueOptions `yaml:"queue_options"`
	// Bindings bind the queue to exchanges with `declare: create`.
	Bindings []Binding `yaml:"bindings"`
	// ConsumerTag names the consumer. Default: made by linkspan.
	ConsumerTag string `yaml:"consumer_tag"`
	// Exclusive refuses other consumers of the queue. Default: false.
	Exclusive bool `yaml:"exclusive"`
	// Priority of this consumer over others of the queue (x-priority). Default: 0.
	Priority int `yaml:"priority"`
	// Arguments are further arguments of basic.consume.
	Arguments map[string]Argument `yaml:"arguments"`
	// Auth is who connects. Default: user guest, password guest.
	Auth *Auth `yaml:"auth"`
	// TLS is used with amqps.
	TLS *tlsconf.Client `yaml:"tls"`
	// Heartbeat is how often each side gives a sign of life. Default: 10s.
	Heartbeat time.Duration `yaml:"heartbeat"`
}

// Auth is who connects.
type Auth struct {
	// User and Password are sent with SASL PLAIN.
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
	// External takes the user from the certificate in `tls` (SASL EXTERNAL).
	External bool `yaml:"external"`
}

// QueueOptions describe a queue.
type QueueOptions struct {
	// Type is classic, quorum or stream. Default: what the broker takes by itself.
	Type string `yaml:"type"`
	// Durable queues outlive the broker. Default: true.
	Durable bool `yaml:"durable"`
	// AutoDelete deletes the queue after its last consumer. Default: false.
	AutoDelete bool `yaml:"auto_delete"`
	// Exclusive binds the queue to this connection. Default: false.
	Exclusive bool `yaml:"exclusive"`
	// Arguments are x-… arguments: x-max-length: 1000, x-dead-letter-exchange: dlx.
	Arguments map[string]Argument `yaml:"arguments"`
}

// ExchangeOptions describe an exchange.
type ExchangeOptions struct {
	// Type is direct, fanout, topic, headers, or one of a plugin. Default: direct.
	Type string `yaml:"type"`
	// Durable exchanges outlive the broker. Default: true.
	Durable bool `yaml:"durable"`
	// AutoDelete deletes the exchange after its last binding. Default: false.
	AutoDelete bool `yaml:"auto_delete"`
	// Internal exchanges take messages from other exchanges only. Default: false.
	Internal bool `yaml:"internal"`
	// Arguments are further arguments: alternate-exchange: other.
	Arguments map[string]Argument `yaml:"arguments"`
}

// Binding binds the queue of an input to an exchange.
type Binding struct {
	// Exchange is the exchange.
	Exchange string `yaml:"exchange,required"`
	// Type declares the exchange, durable, as of this type. Empty: it is there.
	Type string `yaml:"type"`
	// RoutingKey is what is bound, with * and # for a topic exchange. Default: empty.
	RoutingKey string `yaml:"routing_key"`
	// Arguments of the binding, for an exchange of type headers.
	Arguments map[string]Argument `yaml:"arguments"`
}

// Argument is one value of a table: a whole number, a number, true, false, or a text
// (which quotes force).
type Argument struct{ value any }

// DecodeConfig implements config.Decoder.
func (a *Argument) DecodeConfig(n config.Node, r *config.Report) {
	if !n.IsScalar() || n.IsNull() {
		r.Errorf(n, "LS1110", "write 1000, true or a text", "a plain value is needed here")
		return
	}
	var text config.Option
	text.DecodeConfig(n, r) // follows a reference
	a.value = text.Literal
	if n.IsText() {
		return
	}
	if i, err := strconv.ParseInt(text.Literal, 10, 64); err == nil {
		a.value = i
	} else if f, err := strconv.ParseFloat(text.Literal, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		a.value = f
	} else if b, err := strconv.ParseBool(text.Literal); err == nil {
		a.value = b
	} else {
		r.Errorf(n, "LS1110", "write it in quotes if it is a text", "this is neither a number nor true or false")
	}
}

func sourceDefaults() SourceConfig {
	return SourceConfig{Prefetch: 512, Declare: declareNone, QueueOptions: QueueOptions{Durable: true}, Heartbeat: 10 * time.Second}
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Auth, c.TLS, c.Heartbeat, n, r)
	checkNames(n, r, name{"queue", c.Queue}, name{"consumer_tag", c.ConsumerTag})
	if c.Queue == "" {
		r.Errorf(n.Get("queue"), "LS1150", "name a queue", "the name of the queue is empty")
	}
	if c.Prefetch < 1 || c.Prefetch > 65535 {
		r.Errorf(n.Get("prefetch"), "LS1150", "leave it out to get 512", "prefetch must be 1 to 65535")
	}
	if _, err := parseOffset(c.Offset); err != nil {
		r.Errorf(n.Get("offset"), "LS1150", "write first, last, next, a number or a time such as 2026-01-31T00:00:00Z", "this is not an offset of a stream")
	}
	if c.Offset != "" && c.Exclusive {
		r.Errorf(n.Get("exclusive"), "LS1150", "remove it", "a stream has no exclusive consumers")
	}
	checkDeclare(c.Declare, n, r, "queue_options", "bindings")
	c.QueueOptions.check(n.Get("queue_options"), r)
	for i, b := range c.Bindings {
		checkNames(n.Get("bindings").Items()[i], r, name{"exchange", b.Exchange}, name{"routing_key", b.RoutingKey}, name{"type", b.Type})
	}
	if c.Offset != "" && c.Declare == declareCreate && c.QueueOptions.Type != amqp.QueueTypeStream {
		r.Errorf(n.Get("queue_options"), "LS1150", "add `type: stream`", "offset is for a stream")
	}
}

func (q *QueueOptions) check(n config.Node, r *config.Report) {
	if !slices.Contains([]string{"", amqp.QueueTypeClassic, amqp.QueueTypeQuorum, amqp.QueueTypeStream}, q.Type) {
		r.Errorf(n.Get("type"), "LS1150", "write classic, quorum or stream", "%q is not a type of queue", q.Type)
	}
	if (q.Type == amqp.QueueTypeQuorum || q.Type == amqp.QueueTypeStream) && (!q.Durable || q.Exclusive || q.AutoDelete) {
		r.Errorf(n, "LS1150", "remove durable, auto_delete and exclusive", "a %s queue is durable, is never exclusive, and stays", q.Type)
	}
}

// checkDeclare checks that what describes queues and exchanges is used.
func checkDeclare(mode string, n config.Node, r *config.Report, options ...string) {
	if !slices.Contains([]string{declareNone, declareCheck, declareCreate}, mode) {
		r.Errorf(n.Get("declare"), "LS1150", "write none, check or create", "%q is not a way to declare", mode)
		return
	}
	for _, key := range options {
		if v := n.Get(key); mode != declareCreate && !v.IsZero() {
			r.Errorf(v, "LS1150", "add `declare: create`, or remove it", "%s has no effect with `declare: %s`", key, mode)
		}
	}
}

// name is a short string of the protocol, and its option.
type name struct{ option, value string }

func checkNames(n config.Node, r *config.Report, names ...name) {
	for _, s := range names {
		if !short(s.value) {
			r.Errorf(n.Get(s.option), "LS1150", "shorten it", "%s must have at most 255 bytes, in UTF-8 and without NUL", s.option)
		}
	}
}

// checkPeer checks what both ends have in common.
func checkPeer(peer config.Address, auth *Auth, tls *tlsconf.Client, heartbeat time.Duration, n config.Node, r *config.Report) {
	u := peer.URL()
	switch {
	case u == nil || u.Scheme != "amqp" && u.Scheme != "amqps" || u.Hostname() == "" || u.RawQuery != "" || !short(vhost(u)):
		r.Errorf(n.Get("connect"), "LS1150", "write amqp://host:5672/vhost or amqps://host:5671/vhost", "this is not the address of an AMQP 0-9-1 broker")
	case u.User != nil:
		r.Errorf(n.Get("connect"), "LS1150", "write `auth: {user: …, password: …}`", "a name and password do not belong into the address")
	case u.Scheme == "amqp" && tls != nil:
		r.Errorf(n.Get("tls"), "LS1150", "write amqps:// to use TLS", "`tls:` has no effect with amqp://")
	}
	if tls != nil {
		tls.Check(n.Get("tls"), r)
	}
	switch {
	case auth == nil:
	case auth.External && (auth.User != "" || tls == nil || tls.Cert == ""):
		r.Errorf(n.Get("auth"), "LS1150", "add `tls: {cert: …, key: …}`, and no user", "with external the certificate says who connects")
	case !auth.External && (auth.User == "" || strings.ContainsRune(auth.User, 0)):
		r.Errorf(n.Get("auth"), "LS1150", "write `user:` and `password:`", "a client needs the user that it connects as")
	}
	if heartbeat < time.Second || heartbeat > 65535*time.Second {
		r.Errorf(n.Get("heartbeat"), "LS1150", "write 10s", "heartbeat must be 1s to 65535s")
	}
}

// vhost returns the virtual host of an address. Clients differ about an empty path; here
// it means "/", as the address with %2F does.
func vhost(u *url.URL) string {
	if v := strings.TrimPrefix(u.Path, "/"); v != "" {
		return v
	}
	return "/"
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "5672"
		if u.Scheme == "amqps" {
			port = "5671"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// table returns arguments as the library takes them.
func table(arguments map[string]Argument) amqp.Table {
	t := make(amqp.Table, len(arguments)+1)
	for k, v := range arguments {
		t[k] = v.value
	}
	return t
}
