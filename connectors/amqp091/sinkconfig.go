package amqp091

import (
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// SinkConfig is what a user writes under `amqp091:` of an output: either `queue`, or
// `exchange` and `routing_key`.
type SinkConfig struct {
	// Connect is the broker, amqp://host:5672/vhost or amqps://host:5671/vhost. No vhost,
	// `/` and `/%2F` all mean the vhost named "/".
	Connect config.Address `yaml:"connect,required"`
	// Queue sends to this queue, by the default exchange.
	Queue string `yaml:"queue"`
	// Exchange is where messages are published. Default: empty, the default exchange,
	// where the routing key is the name of a queue.
	Exchange string `yaml:"exchange"`
	// RoutingKey of the messages: text, or {expr: …}. Default: empty.
	RoutingKey config.Option `yaml:"routing_key"`
	// Mandatory makes a message that no queue takes a refusal. Otherwise it counts as
	// delivered, and is gone. Default: true.
	Mandatory bool `yaml:"mandatory"`
	// Persistent messages outlive the broker in a durable queue. Default: true.
	Persistent bool `yaml:"persistent"`
	// MaxInFlight is the number of messages that wait for their confirmation at once.
	// Default: 1000.
	MaxInFlight int `yaml:"max_in_flight"`
	// Timeout is how long the broker may confirm nothing. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
	// ReplyTo is where replies are sent: text, or {expr: …}. Default: that of the message.
	ReplyTo config.Option `yaml:"reply_to"`
	// Type and AppID are properties of every message. Default: the headers amqp091.type
	// and amqp091.app_id of the message.
	Type  string `yaml:"type"`
	AppID string `yaml:"app_id"`
	// UserID is a property of every message; the broker compares it with who connected.
	UserID string `yaml:"user_id"`
	// Declare says what to do about the queue or exchange before anything is published:
	// none leaves it alone, check asks whether it is there, create makes it. Default: none.
	Declare string `yaml:"declare"`
	// QueueOptions describe the queue for `declare: create`.
	QueueOptions QueueOptions `yaml:"queue_options"`
	// ExchangeOptions describe the exchange for `declare: create`.
	ExchangeOptions ExchangeOptions `yaml:"exchange_options"`
	// Auth is who connects. Default: user guest, password guest.
	Auth *Auth `yaml:"auth"`
	// TLS is used with amqps.
	TLS *tlsconf.Client `yaml:"tls"`
	// Heartbeat is how often each side gives a sign of life. Default: 10s.
	Heartbeat time.Duration `yaml:"heartbeat"`
}

func sinkDefaults() SinkConfig {
	return SinkConfig{
		RoutingKey: config.Option{Destination: true}, Mandatory: true, Persistent: true,
		MaxInFlight: 1000, Timeout: 30 * time.Second, Declare: declareNone,
		QueueOptions: QueueOptions{Durable: true}, ExchangeOptions: ExchangeOptions{Type: "direct", Durable: true},
		Heartbeat: 10 * time.Second,
	}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Auth, c.TLS, c.Heartbeat, n, r)
	checkNames(n, r, name{"queue", c.Queue}, name{"exchange", c.Exchange}, name{"routing_key", c.RoutingKey.Literal},
		name{"reply_to", c.ReplyTo.Literal}, name{"type", c.Type}, name{"app_id", c.AppID}, name{"user_id", c.UserID})
	switch {
	case c.Queue != "" && (c.Exchange != "" || !c.RoutingKey.IsZero()):
		r.Errorf(n, "LS1150", "write `queue: q`, or `exchange: x` and `routing_key: k`", "a queue is reached by the default exchange, with its name as the routing key")
	case c.Queue == "" && c.Exchange == "" && c.RoutingKey.IsZero():
		r.Errorf(n, "LS1150", "write `queue: q`, or `exchange: x` and `routing_key: k`", "it is not said where messages go")
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > 65535 || c.Timeout <= 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_in_flight must be 1 to 65535 and timeout more than zero")
	}
	options, other := "queue_options", "exchange_options"
	if c.Queue == "" {
		options, other = other, options
	}
	checkDeclare(c.Declare, n, r, options)
	if v := n.Get(other); !v.IsZero() {
		r.Errorf(v, "LS1150", "remove it", "%s has no effect here", other)
	}
	if c.Declare != declareNone && c.Queue == "" && c.Exchange == "" {
		r.Errorf(n.Get("declare"), "LS1150", "remove it", "the default exchange is always there")
	}
	c.QueueOptions.check(n.Get("queue_options"), r)
}
