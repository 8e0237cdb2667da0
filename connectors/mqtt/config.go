package mqtt

import (
	"net"
	"net/url"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// Spec describes the mqtt connector.
func Spec() connectors.Spec {
	sessions := &book{sessions: map[string]*receipts{}}
	return connectors.Spec{
		Name: "mqtt",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Headers: true, Carries: carries(), OrderKey: "client and topic"}, sourceDefaults,
			func(c SourceConfig, e connectors.Env) (connectors.Source, error) { return newSource(c, e, sessions) }),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true, Carries: carries()}, sinkDefaults, newSink),
	}
}

func carries() connectors.Properties {
	return connectors.Properties{
		CorrelationID: "Correlation Data", ReplyTo: "Response Topic", ContentType: "Content Type", Expires: "Message Expiry Interval",
		Kinds: connectors.TextOnly(), Repeats: true,
		Notes: []string{
			"The expiry leaves in whole seconds, rounded down to no less than one.",
			"A reply address with + or #, which is no topic, is refused.",
			"Control characters in header names, values and properties are refused: brokers end the connection for them (MQTT 5 §1.5.4).",
			"MQTT 3.1.1 carries the payload and nothing else: no property and no header.",
		},
	}
}

// SourceConfig is what a user writes under `mqtt:` of an input: either `listen`, and
// clients connect to linkspan, or `connect`, and linkspan subscribes at a broker.
type SourceConfig struct {
	// Listen is the address that clients connect to, host:port.
	Listen string `yaml:"listen"`
	// Connect is the broker, mqtt://host:1883 or mqtts://host:8883.
	Connect config.Address `yaml:"connect"`
	// Topics are the topic filters that are received. With listen, a publish to any
	// other topic is refused.
	Topics []string `yaml:"topics,required"`
	// MaxPacket is the largest packet. Default: 1MiB, at most the largest message that
	// the queue takes and 64KiB.
	MaxPacket config.Size `yaml:"max_packet"`
	// ReceiveMaximum is the number of unacknowledged messages of a connection.
	// Default: 1024.
	ReceiveMaximum int `yaml:"receive_maximum"`
	// Auth is who may connect (listen: users), or who connects (connect: user and
	// password).
	Auth *Auth `yaml:"auth"`
	// TLS is used with listen when it is given, and with mqtts.
	TLS *tlsconf.Either `yaml:"tls"`

	// MaxConnections bounds the clients of a listener. Default: 10000.
	MaxConnections int `yaml:"max_connections"`

	// QoS is what is asked of the broker: 0, 1 or 2. Default: 1.
	QoS int `yaml:"qos"`
	// ClientID names this client to the broker. Default: linkspan-PIPELINE-INPUT.
	ClientID string `yaml:"client_id"`
	// Version of the protocol to dial with: 5 or 3.1.1. Default: 5.
	Version string `yaml:"version"`
	// CleanStart forgets what the broker kept for this client. Default: false, and true
	// with QoS 0.
	CleanStart *bool `yaml:"clean_start"`
	// SessionExpiry is how long the broker keeps the session while linkspan is away
	// (MQTT 5). Default: 1h.
	SessionExpiry time.Duration `yaml:"session_expiry"`
	// KeepAlive is the longest silence on a connection. Default: 30s.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// Will is what the broker publishes when this client is lost.
	Will *Will `yaml:"will"`
}

// Will is a message that the broker publishes when the connection ends without a
// goodbye (MQTT 5 §3.1.2.5).
type Will struct {
	Topic   string `yaml:"topic,required"`
	Payload string `yaml:"payload"`
	QoS     int    `yaml:"qos"`
	Retain  bool   `yaml:"retain"`
}

func (w *Will) check(n config.Node, r *config.Report) {
	if w != nil && (!validTopic(w.Topic) || w.QoS < 0 || w.QoS > 2 || len(w.Payload) > maxWill) {
		r.Errorf(n, "LS1150", "write `{topic: bridges/orders, payload: lost, qos: 1}`", "a will needs a topic without wildcards, qos 0 to 2, and a payload of at most 64KiB")
	}
}

// publication is the will as it stands in CONNECT.
func (w *Will) publication() *publication {
	if w == nil {
		return nil
	}
	return &publication{qos: byte(w.QoS), retain: w.Retain, topic: []byte(w.Topic), payload: []byte(w.Payload)}
}

// Auth is who may connect, or who connects.
type Auth struct {
	// Users are the names and passwords that a listener accepts.
	Users map[string]config.Secret `yaml:"users"`
	// Publish are the topic filters that a user may publish to, among those of the
	// listener. A user that is not there may publish to all of them.
	Publish map[string][]string `yaml:"publish"`
	// User and Password are sent to the broker.
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
}

func sourceDefaults() SourceConfig {
	return SourceConfig{
		MaxPacket: 1 << 20, ReceiveMaximum: 1024, MaxConnections: 10000,
		QoS: 1, Version: "5", SessionExpiry: time.Hour, KeepAlive: 30 * time.Second,
	}
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	dials := c.Connect.URL() != nil
	if dials == (c.Listen != "") {
		r.Errorf(n, "LS1150", "write `listen: 127.0.0.1:1883` or `connect: mqtt://host:1883`", "exactly one of listen and connect is needed")
		return
	}
	if len(c.Topics) == 0 {
		r.Errorf(n.Get("topics"), "LS1150", "write [\"#\"] to receive everything", "no topic is received, so nothing can arrive")
	}
	for _, f := range c.Topics {
		if !validFilter(f) {
			r.Errorf(n.Get("topics"), "LS1150", "`+` stands for one whole level and `#` for all that follow, as in orders/+/new or orders/#", "%q is not a topic filter", f)
		}
	}
	if c.ReceiveMaximum < 1 || c.ReceiveMaximum > 65535 || c.MaxConnections < 1 || c.MaxPacket < 1024 || c.MaxPacket > maxPacketLimit {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "receive_maximum must be 1 to 65535, max_connections at least 1, max_packet 1KiB to 256MiB")
	}
	c.TLS.Check(!dials, n.Get("tls"), r)
	if dials {
		c.checkDial(n, r)
		return
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		r.Errorf(n.Get("listen"), "LS1150", "write host:port, such as 127.0.0.1:1883", "this is not an address to listen on")
	}
	if c.Auth != nil && (len(c.Auth.Users) == 0 || c.Auth.User != "" || !c.Auth.Password.IsZero()) {
		r.Errorf(n.Get("auth"), "LS1150", "write `users: {name: ${env:PASSWORD}}`", "a listener needs the users that may connect")
	}
	c.Auth.checkPublish(n.Get("auth").Get("publish"), r)
	for _, key := range []string{"qos", "client_id", "version", "clean_start", "session_expiry", "keep_alive", "will"} {
		if v := n.Get(key); !v.IsZero() {
			r.Errorf(v, "LS1150", "remove it", "%s is for `connect:`; with `listen:` the client decides", key)
		}
	}
}

func (a *Auth) checkPublish(n config.Node, r *config.Report) {
	if a == nil {
		return
	}
	for user, filters := range a.Publish {
		if _, known := a.Users[user]; !known {
			r.Errorf(n.Get(user), "LS1150", "add the user to `users:`, or remove it here", "there is no user %q", user)
		}
		for _, f := range filters {
			if !validFilter(f) {
				r.Errorf(n.Get(user), "LS1150", "write a filter such as plant/7/#", "%q is not a topic filter", f)
			}
		}
	}
}

func (c *SourceConfig) checkDial(n config.Node, r *config.Report) {
	c.Will.check(n.Get("will"), r)
	checkPeer(c.Connect, c.Version, c.QoS, c.KeepAlive, n, r)
	c.Auth.checkDial(n.Get("auth"), r)
	if !validField(c.ClientID) {
		r.Errorf(n.Get("client_id"), "LS1150", "use letters, digits and hyphens", "this is not a client id")
	}
	if v := n.Get("max_connections"); !v.IsZero() {
		r.Errorf(v, "LS1150", "remove it", "max_connections is for `listen:`")
	}
}

func (a *Auth) checkDial(n config.Node, r *config.Report) {
	if a != nil && (len(a.Users) > 0 || len(a.Publish) > 0 || a.User == "" || !validField(a.User)) {
		r.Errorf(n, "LS1150", "write `user:` and `password:`", "a client needs the user that it connects as")
	}
}

// checkPeer checks what both ends that dial have in common.
func checkPeer(peer config.Address, version string, qos int, keepAlive time.Duration, n config.Node, r *config.Report) {
	u := peer.URL()
	switch {
	case u == nil || u.Scheme != "mqtt" && u.Scheme != "mqtts" || u.Hostname() == "":
		r.Errorf(n.Get("connect"), "LS1150", "write mqtt://host:1883 or mqtts://host:8883", "this is not the address of an MQTT broker")
	case u.User != nil:
		r.Errorf(n.Get("connect"), "LS1150", "write `auth: {user: …, password: …}`", "a name and password do not belong into the address")
	case u.Scheme == "mqtt" && !n.Get("tls").IsZero():
		r.Errorf(n.Get("tls"), "LS1150", "write mqtts:// to use TLS", "`tls:` has no effect with mqtt://")
	}
	if versionOf(version) == 0 {
		r.Errorf(n.Get("version"), "LS1150", "write 5 or 3.1.1", "%q is not a version of MQTT that can be dialled", version)
	}
	if qos < 0 || qos > 2 {
		r.Errorf(n.Get("qos"), "LS1150", "write 0, 1 or 2", "%d is not a quality of service", qos)
	}
	if keepAlive < time.Second || keepAlive > 65535*time.Second {
		r.Errorf(n.Get("keep_alive"), "LS1150", "write 30s", "keep_alive must be 1s to 65535s")
	}
}

func versionOf(text string) byte {
	switch text {
	case "5":
		return version5
	case "3.1.1":
		return version311
	default:
		return 0
	}
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "1883"
		if u.Scheme == "mqtts" {
			port = "8883"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// SinkConfig is what a user writes under `mqtt:` of an output.
type SinkConfig struct {
	// Connect is the broker, mqtt://host:1883 or mqtts://host:8883.
	Connect config.Address `yaml:"connect,required"`
	// Topic is where messages are published: text, or {expr: …}.
	Topic config.Option `yaml:"topic,required"`
	// QoS is 0, 1 or 2. With 0 nothing is confirmed. Default: 1.
	QoS int `yaml:"qos"`
	// Retain asks the broker to keep the last message of each topic. Default: false.
	Retain bool `yaml:"retain"`
	// ClientID names this client to the broker. Default: linkspan-PIPELINE-OUTPUT.
	ClientID string `yaml:"client_id"`
	// Version of the protocol: 5 or 3.1.1, which carries no headers. Default: 5.
	Version string `yaml:"version"`
	// MaxInFlight is the number of messages that wait for their confirmation at once.
	// Default: 256.
	MaxInFlight int `yaml:"max_in_flight"`
	// Timeout is how long a confirmation may take. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
	// KeepAlive is the longest silence on a connection. Default: 30s.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// Will is what the broker publishes when this client is lost.
	Will *Will `yaml:"will"`
	// Auth is sent to the broker.
	Auth *Auth `yaml:"auth"`
	// TLS is used with mqtts.
	TLS *tlsconf.Either `yaml:"tls"`
}

func sinkDefaults() SinkConfig {
	return SinkConfig{Topic: config.Option{Destination: true}, QoS: 1, Version: "5", MaxInFlight: 256, Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Version, c.QoS, c.KeepAlive, n, r)
	c.Auth.checkDial(n.Get("auth"), r)
	c.Will.check(n.Get("will"), r)
	c.TLS.Check(false, n.Get("tls"), r)
	if c.Topic.Expr.IsZero() && !validTopic(c.Topic.Literal) {
		r.Errorf(n.Get("topic"), "LS1150", "write a topic without + and #, or {expr: …}", "this is not a topic that can be published to")
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > 65535 || c.Timeout <= 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_in_flight must be 1 to 65535 and timeout more than zero")
	}
	if !validField(c.ClientID) {
		r.Errorf(n.Get("client_id"), "LS1150", "use letters, digits and hyphens", "this is not a client id")
	}
}

// Traits implements connectors.Traited: at QoS 0 nothing is sent again.
func (c *SourceConfig) Traits(t connectors.Traits) connectors.Traits {
	t.Redelivers = c.Listen != "" || c.QoS > 0
	t.Brokered = c.Listen == ""
	return t
}

// Traits implements connectors.Traited: QoS 0 confirms nothing, and MQTT 3.1.1 has no
// headers.
func (c *SinkConfig) Traits(t connectors.Traits) connectors.Traits {
	t.Confirms = c.QoS > 0
	if c.Version == "3.1.1" {
		t.Headers, t.Carries = false, connectors.Properties{}
	}
	return t
}
