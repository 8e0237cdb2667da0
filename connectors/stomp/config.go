package stomp

import (
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// Spec describes the stomp connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name: "stomp",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Headers: true, Carries: properties(), OrderKey: "destination"},
			sourceDefaults, newSource),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true, Carries: properties()}, sinkDefaults, newSink),
	}
}

// SourceConfig is what a user writes under `stomp:` of an input: either `listen`, and
// clients connect to linkspan, or `connect`, and linkspan subscribes at a broker.
type SourceConfig struct {
	// Listen is the address that clients connect to, host:port.
	Listen string `yaml:"listen"`
	// Connect is the broker, stomp://host:61613 or stomp+ssl://host:61614.
	Connect config.Address `yaml:"connect"`
	// Destination is what is received; the same as Destinations with one.
	Destination string `yaml:"destination"`
	// Destinations are what is received. With listen, a SEND to any other is refused,
	// and a `*` at the end stands for the rest of the name.
	Destinations []string `yaml:"destinations"`
	// MaxFrame is the largest body of a frame. Default: 1MiB, at most the largest
	// message that the queue takes.
	MaxFrame config.Size `yaml:"max_frame"`
	// MaxHeaders is the number of headers that a frame may have. Default: 256.
	MaxHeaders int `yaml:"max_headers"`
	// HeartBeat is how often this side sends, and wants to receive, a heart-beat; 0s:
	// never. Default: 10s.
	HeartBeat time.Duration `yaml:"heart_beat"`
	// Auth is who may connect (listen: users), or who connects (connect: user and
	// password).
	Auth *Auth `yaml:"auth"`
	// TLS is used with listen when it is given, and with stomp+ssl.
	TLS *tlsconf.Either `yaml:"tls"`

	// MaxConnections bounds the clients of a listener. Default: 10000.
	MaxConnections int `yaml:"max_connections"`
	// MaxInFlight is the number of frames of a listener's connection that are not
	// answered, and of a transaction. Default: 1024.
	MaxInFlight int `yaml:"max_in_flight"`

	// Ack is how messages are acknowledged: client-individual, client (all up to one)
	// or auto (the broker does not wait). Default: client-individual.
	Ack string `yaml:"ack"`
	// Prefetch is the number of messages that the broker sends ahead. Default: 256.
	Prefetch int `yaml:"prefetch"`
	// Selector chooses messages, in the SQL of JMS. Default: all.
	Selector string `yaml:"selector"`
	// Headers are further headers of SUBSCRIBE.
	Headers map[string]string `yaml:"headers"`
	// SubscriptionID names the subscription to the broker. Default: linkspan-0,
	// linkspan-1 and so on.
	SubscriptionID string `yaml:"subscription_id"`
	// ClientID is the client-id of CONNECT, which durable subscriptions need.
	ClientID string `yaml:"client_id"`
	// Version is the highest version that is spoken: 1.2, 1.1 or 1.0. Default: 1.2.
	Version string `yaml:"version"`
	// Host is the virtual host. Default: /.
	Host string `yaml:"host"`
}

// Auth is who may connect, or who connects.
type Auth struct {
	// Users are the names and passwords that a listener accepts.
	Users map[string]config.Secret `yaml:"users"`
	// User and Password are sent to the broker.
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
}

func sourceDefaults() SourceConfig {
	return SourceConfig{
		MaxFrame: 1 << 20, MaxHeaders: 256, HeartBeat: 10 * time.Second, MaxConnections: 10000, MaxInFlight: 1024,
		Ack: ackIndividual, Prefetch: 256, Version: "1.2", Host: "/",
	}
}

// The modes of acknowledgement (STOMP 1.2, SUBSCRIBE ack Header).
const (
	ackIndividual = "client-individual"
	ackCumulative = "client"
	ackAuto       = "auto"
)

// names are the destinations, however they were written.
func (c *SourceConfig) names() []string {
	if c.Destination != "" {
		return []string{c.Destination}
	}
	return c.Destinations
}

// Traits implements connectors.Traited: without acknowledgements nothing comes again,
// and a listener knows its clients and can tell them what is wrong.
func (c *SourceConfig) Traits(t connectors.Traits) connectors.Traits {
	if c.Listen != "" {
		t.OrderKey = "connection and destination"
		return t
	}
	t.Redelivers, t.Brokered = c.Ack != ackAuto, true
	return t
}

// SinkConfig is what a user writes under `stomp:` of an output.
type SinkConfig struct {
	// Connect is the broker, stomp://host:61613 or stomp+ssl://host:61614.
	Connect config.Address `yaml:"connect,required"`
	// Destination is where messages are sent: text, or {expr: …}.
	Destination config.Option `yaml:"destination,required"`
	// Type is how payloads are sent: bytes (with a content-length), text (without,
	// which JMS brokers take for a text message) or auto, which is text for what is text.
	// Default: auto.
	Type string `yaml:"type"`
	// Transactions sends each batch in a transaction. Default: false.
	Transactions bool `yaml:"transactions"`
	// Headers are further headers of SEND. `persistent` is true unless it is given.
	Headers map[string]string `yaml:"headers"`
	// MaxInFlight is the number of messages that wait for their receipt at once.
	// Default: 256.
	MaxInFlight int `yaml:"max_in_flight"`
	// Timeout is how long a receipt may take. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
	// HeartBeat is how often this side sends, and wants to receive, a heart-beat; 0s:
	// never. Default: 10s.
	HeartBeat time.Duration `yaml:"heart_beat"`
	// ClientID is the client-id of CONNECT. Default: none.
	ClientID string `yaml:"client_id"`
	// Version is the highest version that is spoken: 1.2, 1.1 or 1.0. Default: 1.2.
	Version string `yaml:"version"`
	// Host is the virtual host. Default: /.
	Host string `yaml:"host"`
	// Auth is sent to the broker.
	Auth *Auth `yaml:"auth"`
	// TLS is used with stomp+ssl.
	TLS *tlsconf.Either `yaml:"tls"`
}

func sinkDefaults() SinkConfig {
	return SinkConfig{
		Destination: config.Option{Destination: true}, Type: typeAuto, MaxInFlight: 256, Timeout: 30 * time.Second,
		HeartBeat: 10 * time.Second, Version: "1.2", Host: "/",
	}
}

// The types of bodies.
const (
	typeAuto  = "auto"
	typeText  = "text"
	typeBytes = "bytes"
)
