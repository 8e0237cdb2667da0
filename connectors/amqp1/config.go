package amqp1

import (
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// What happens to messages that were not taken over for the moment.
const (
	notTakenDetach  = "detach"
	notTakenRelease = "release"
	notTakenModify  = "modify"
)

// The kinds of bodies that a sink writes.
const (
	bodyData = "data"
	bodyText = "text"
)

// The ways of a sink to settle.
const (
	settleUnsettled = "unsettled"
	settleSettled   = "settled"
)

// Auth is who connects. Without it the connection is anonymous.
type Auth struct {
	// User and Password are sent with SASL PLAIN.
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
	// External takes the user from the certificate in `tls` (SASL EXTERNAL).
	External bool `yaml:"external"`
}

// SourceConfig is what a user writes under `amqp1:` of an input.
type SourceConfig struct {
	// Connect is the peer, amqp://host:5672 or amqps://host:5671.
	Connect config.Address `yaml:"connect,required"`
	// Address is where messages come from, in the peer's own way to write it.
	Address string `yaml:"address,required"`
	// Credit is the number of messages that the peer sends ahead of their settlement.
	// Default: 512.
	Credit int `yaml:"credit"`
	// NotTaken says what happens to messages that were not taken over for the moment: detach
	// leaves them to the peer when the link ends; release gives them back; modify gives them
	// back as a failed delivery, which peers count. Default: detach.
	NotTaken string `yaml:"not_taken"`
	// Node says what the address is, when the peer must be told: queue or topic.
	Node string `yaml:"node"`
	// Subscription is the name of a durable subscription of a topic. It stays while
	// linkspan is away.
	Subscription string `yaml:"subscription"`
	// Shared lets several consumers share the subscription. Default: false.
	Shared bool `yaml:"shared"`
	// Selector is a JMS selector that the peer filters by: region = 'eu'.
	Selector string `yaml:"selector"`
	// ContainerID names this client to the peer. Default: linkspan-PIPELINE-INPUT.
	ContainerID string `yaml:"container_id"`
	// Hostname is what the peer is told that it is called. Default: the host of connect.
	Hostname string `yaml:"hostname"`
	// IdleTimeout is the longest silence of the peer. Default: 60s.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// Properties are properties of the connection.
	Properties map[string]string `yaml:"properties"`
	// Auth is who connects. Default: anonymous.
	Auth *Auth `yaml:"auth"`
	// TLS is used with amqps.
	TLS *tlsconf.Client `yaml:"tls"`
}

func sourceDefaults() SourceConfig {
	return SourceConfig{Credit: 512, NotTaken: notTakenDetach, IdleTimeout: time.Minute}
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Auth, c.TLS, c.IdleTimeout, n, r)
	if !text(c.Address) || c.Address == "" {
		r.Errorf(n.Get("address"), "LS1150", "name a queue or topic as the peer does", "this is not an address")
	}
	if c.Credit < 1 || c.Credit > 5000 {
		r.Errorf(n.Get("credit"), "LS1150", "leave it out to get 512", "credit must be 1 to 5000")
	}
	if !slices.Contains([]string{notTakenDetach, notTakenRelease, notTakenModify}, c.NotTaken) {
		r.Errorf(n.Get("not_taken"), "LS1150", "write detach, release or modify", "%q is not a way to give messages back", c.NotTaken)
	}
	checkNode(c.Node, n, r)
	if c.Shared && c.Subscription == "" {
		r.Errorf(n.Get("shared"), "LS1150", "add `subscription: NAME`", "only a subscription can be shared")
	}
	if c.Subscription != "" && c.Node == "queue" {
		r.Errorf(n.Get("subscription"), "LS1150", "write `node: topic`", "a queue has no subscriptions")
	}
}

// SinkConfig is what a user writes under `amqp1:` of an output.
type SinkConfig struct {
	// Connect is the peer, amqp://host:5672 or amqps://host:5671.
	Connect config.Address `yaml:"connect,required"`
	// Address is where messages go, in the peer's own way to write it: text, or {expr: …}.
	Address config.Option `yaml:"address,required"`
	// Settlement is unsettled, where the peer answers each message, or settled, where
	// nothing is confirmed. Default: unsettled.
	Settlement string `yaml:"settlement"`
	// Durable asks the peer to keep messages across its restart. Default: true.
	Durable bool `yaml:"durable"`
	// Body is data (bytes), or text, which JMS clients receive as a TextMessage whatever its
	// content type. Default: data.
	Body string `yaml:"body"`
	// Subject, GroupID and ReplyTo are properties of the messages: text, or {expr: …}.
	// Default: the headers amqp1.subject and amqp1.group_id, and the address of the message.
	Subject config.Option `yaml:"subject"`
	GroupID config.Option `yaml:"group_id"`
	ReplyTo config.Option `yaml:"reply_to"`
	// MaxInFlight is the number of messages that wait for their outcome at once.
	// Default: 1000.
	MaxInFlight int `yaml:"max_in_flight"`
	// Timeout is how long the peer may give neither credit nor an outcome. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
	// Node says what the address is, when the peer must be told: queue or topic.
	Node string `yaml:"node"`
	// ContainerID names this client to the peer. Default: linkspan-PIPELINE-OUTPUT.
	ContainerID string `yaml:"container_id"`
	// Hostname is what the peer is told that it is called. Default: the host of connect.
	Hostname string `yaml:"hostname"`
	// IdleTimeout is the longest silence of the peer. Default: 60s.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// Properties are properties of the connection.
	Properties map[string]string `yaml:"properties"`
	// Auth is who connects. Default: anonymous.
	Auth *Auth `yaml:"auth"`
	// TLS is used with amqps.
	TLS *tlsconf.Client `yaml:"tls"`
}

func sinkDefaults() SinkConfig {
	return SinkConfig{
		Address: config.Option{Destination: true}, Settlement: settleUnsettled, Durable: true, Body: bodyData,
		MaxInFlight: 1000, Timeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Auth, c.TLS, c.IdleTimeout, n, r)
	if c.Address.Expr.IsZero() && (c.Address.Literal == "" || !text(c.Address.Literal)) {
		r.Errorf(n.Get("address"), "LS1150", "name a queue or topic as the peer does, or write {expr: …}", "this is not an address")
	}
	if c.Settlement != settleUnsettled && c.Settlement != settleSettled {
		r.Errorf(n.Get("settlement"), "LS1150", "write unsettled or settled", "%q is not a way to settle", c.Settlement)
	}
	if c.Body != bodyData && c.Body != bodyText {
		r.Errorf(n.Get("body"), "LS1150", "write data or text", "%q is not a kind of body", c.Body)
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > 65535 || c.Timeout <= 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_in_flight must be 1 to 65535 and timeout more than zero")
	}
	checkNode(c.Node, n, r)
}

// Traits implements connectors.Traited: what is sent settled is not confirmed.
func (c *SinkConfig) Traits(t connectors.Traits) connectors.Traits {
	t.Confirms = c.Settlement == settleUnsettled
	return t
}

func checkNode(node string, n config.Node, r *config.Report) {
	if node != "" && node != "queue" && node != "topic" {
		r.Errorf(n.Get("node"), "LS1150", "write queue or topic", "%q is not a kind of node", node)
	}
}

// checkPeer checks what both ends have in common.
func checkPeer(peer config.Address, auth *Auth, tls *tlsconf.Client, idle time.Duration, n config.Node, r *config.Report) {
	u := peer.URL()
	switch {
	case u == nil || u.Scheme != "amqp" && u.Scheme != "amqps" || u.Hostname() == "" || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		r.Errorf(n.Get("connect"), "LS1150", "write amqp://host:5672 or amqps://host:5671", "this is not the address of an AMQP 1.0 peer; what is read or written stands in `address`")
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
	if idle < time.Second {
		r.Errorf(n.Get("idle_timeout"), "LS1150", "write 60s", "idle_timeout must be at least 1s")
	}
}

// hostPort returns what is dialled.
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
