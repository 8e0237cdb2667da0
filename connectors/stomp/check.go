package stomp

import (
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/config"
)

// maxFrameLimit is the largest frame that can be configured.
const maxFrameLimit = 256 << 20

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	dials := c.Connect.URL() != nil
	if dials == (c.Listen != "") {
		r.Errorf(n, "LS1150", "write `listen: 127.0.0.1:61613` or `connect: stomp://host:61613`", "exactly one of listen and connect is needed")
		return
	}
	if (c.Destination == "") == (len(c.Destinations) == 0) {
		r.Errorf(n, "LS1150", "write `destinations: [/queue/orders]`", "exactly one of destination and destinations is needed")
	}
	for _, d := range c.names() {
		if d == "" || hasControl(d) || !dials && strings.Contains(strings.TrimSuffix(d, "*"), "*") {
			r.Errorf(n, "LS1150", "write a name such as /queue/orders; with `listen:` a `*` may stand at the end", "%q is not a destination", d)
		}
	}
	if c.MaxFrame < 1024 || c.MaxFrame > maxFrameLimit || c.MaxHeaders < 16 || c.MaxHeaders > 4096 || c.MaxConnections < 1 || c.MaxInFlight < 1 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults",
			"max_frame must be 1KiB to 256MiB, max_headers 16 to 4096, max_connections and max_in_flight at least 1")
	}
	checkBeat(c.HeartBeat, n, r)
	c.TLS.Check(!dials, n.Get("tls"), r)
	if dials {
		c.checkDial(n, r)
		return
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		r.Errorf(n.Get("listen"), "LS1150", "write host:port, such as 127.0.0.1:61613", "this is not an address to listen on")
	}
	if c.Auth != nil && (len(c.Auth.Users) == 0 || c.Auth.User != "" || !c.Auth.Password.IsZero()) {
		r.Errorf(n.Get("auth"), "LS1150", "write `users: {name: ${env:PASSWORD}}`", "a listener needs the users that may connect")
	}
	notFor(n, r, "connect", "ack", "prefetch", "selector", "headers", "subscription_id", "client_id", "version", "host")
}

func notFor(n config.Node, r *config.Report, side string, keys ...string) {
	for _, key := range keys {
		if v := n.Get(key); !v.IsZero() {
			r.Errorf(v, "LS1150", "remove it", "%s is for `%s:`", key, side)
		}
	}
}

func (c *SourceConfig) checkDial(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Version, n, r)
	c.Auth.checkDial(n.Get("auth"), r)
	notFor(n, r, "listen", "max_connections", "max_in_flight")
	if c.Ack != ackIndividual && c.Ack != ackCumulative && c.Ack != ackAuto {
		r.Errorf(n.Get("ack"), "LS1150", "write client-individual, client or auto", "%q is not a mode of acknowledgement", c.Ack)
	}
	if c.Prefetch < 1 || c.Prefetch > 65535 {
		r.Errorf(n.Get("prefetch"), "LS1150", "write 256", "prefetch must be 1 to 65535")
	}
	for key, text := range map[string]string{"selector": c.Selector, "subscription_id": c.SubscriptionID, "client_id": c.ClientID, "host": c.Host} {
		if hasControl(text) {
			r.Errorf(n.Get(key), "LS1150", "remove the control characters", "STOMP cannot carry this")
		}
	}
	checkHeaders(c.Headers, subscribeOwn, n.Get("headers"), r)
}

// subscribeOwn reports whether a header of SUBSCRIBE has an option of its own.
func subscribeOwn(name string) bool {
	switch name {
	case "destination", "id", "ack", "receipt", "selector", "transaction", "content-length":
		return true
	default:
		return false
	}
}

// sendOwn reports whether a header of SEND is the connector's.
func sendOwn(name string) bool { return name != headerPersistent && reserved(name) }

func checkHeaders(headers map[string]string, own func(string) bool, n config.Node, r *config.Report) {
	for name, value := range headers {
		switch {
		case own(name):
			r.Errorf(n.Get(name), "LS1150", "remove it", "the header %s is set by the connector", name)
		case name == "" || hasControl(name) || hasControl(value) || strings.Contains(name, ":"):
			r.Errorf(n, "LS1150", "use a name without a colon, and no control characters", "%q cannot be a header of STOMP", name)
		}
	}
}

func (a *Auth) checkDial(n config.Node, r *config.Report) {
	if a != nil && (len(a.Users) > 0 || a.User == "" || hasControl(a.User) || hasControl(a.Password.Reveal())) {
		r.Errorf(n, "LS1150", "write `user:` and `password:`, without line breaks", "a client needs the user that it connects as")
	}
}

// checkPeer checks what both ends that dial have in common.
func checkPeer(peer config.Address, version string, n config.Node, r *config.Report) {
	u := peer.URL()
	switch {
	case u == nil || u.Scheme != "stomp" && u.Scheme != "stomp+ssl" || u.Hostname() == "":
		r.Errorf(n.Get("connect"), "LS1150", "write stomp://host:61613 or stomp+ssl://host:61614", "this is not the address of a STOMP broker")
	case u.User != nil:
		r.Errorf(n.Get("connect"), "LS1150", "write `auth: {user: …, password: …}`", "a name and password do not belong into the address")
	case u.Scheme == "stomp" && !n.Get("tls").IsZero():
		r.Errorf(n.Get("tls"), "LS1150", "write stomp+ssl:// to use TLS", "`tls:` has no effect with stomp://")
	}
	if versionOf(version) == 0 {
		r.Errorf(n.Get("version"), "LS1150", "write 1.2, 1.1 or 1.0", "%q is not a version of STOMP", version)
	}
}

func checkBeat(d time.Duration, n config.Node, r *config.Report) {
	if d != 0 && (d < 100*time.Millisecond || d > time.Hour) {
		r.Errorf(n.Get("heart_beat"), "LS1150", "write 10s, or 0s for none", "heart_beat must be 0s, or 100ms to 1h")
	}
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	checkPeer(c.Connect, c.Version, n, r)
	c.Auth.checkDial(n.Get("auth"), r)
	c.TLS.Check(false, n.Get("tls"), r)
	checkBeat(c.HeartBeat, n, r)
	if c.Destination.Expr.IsZero() && (c.Destination.Literal == "" || hasControl(c.Destination.Literal)) {
		r.Errorf(n.Get("destination"), "LS1150", "write a name such as /queue/orders, or {expr: …}", "this is not a destination that can be sent to")
	}
	if c.Type != typeAuto && c.Type != typeText && c.Type != typeBytes {
		r.Errorf(n.Get("type"), "LS1150", "write auto, text or bytes", "%q is not a type of body", c.Type)
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > 65535 || c.Timeout <= 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_in_flight must be 1 to 65535 and timeout more than zero")
	}
	for key, text := range map[string]string{"client_id": c.ClientID, "host": c.Host} {
		if hasControl(text) {
			r.Errorf(n.Get(key), "LS1150", "remove the control characters", "STOMP cannot carry this")
		}
	}
	checkHeaders(c.Headers, sendOwn, n.Get("headers"), r)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "61613"
		if u.Scheme == "stomp+ssl" {
			port = "61614"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}
