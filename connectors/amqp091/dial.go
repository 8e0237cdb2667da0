package amqp091

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/gather"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

const (
	// dialWithin bounds dialling with TLS, and then the handshake of the protocol. Brokers
	// answer wrong credentials after a pause.
	dialWithin = 10 * time.Second
	// closeWithin bounds the farewell.
	closeWithin = 2 * time.Second
	// frameMax is what is asked for; brokers have it as their default.
	frameMax = 128 << 10
)

// dialer is what both ends know of the broker.
type dialer struct {
	address   config.Address
	tls       *tlsconf.Client
	auth      *Auth
	heartbeat time.Duration
	// name shows in the broker's list of connections.
	name string
}

func newDialer(address config.Address, t *tlsconf.Client, auth *Auth, heartbeat time.Duration, env connectors.Env) dialer {
	return dialer{address: address, tls: t, auth: auth, heartbeat: heartbeat, name: "linkspan " + env.Pipeline + "." + env.Name}
}

// link is one connection.
type link struct {
	*amqp.Connection

	pipe *gather.Conn
	// ended is closed by the library when the connection is over.
	ended chan *amqp.Error
}

// open connects and logs in.
func (d *dialer) open(ctx context.Context) (*link, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	p := gather.NewConn(conn)
	stop := context.AfterFunc(ctx, p.Abort)
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(dialWithin)); err != nil {
		p.Abort()
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	c, err := amqp.Open(p, amqp.Config{
		SASL: d.sasl(), Vhost: vhost(d.address.URL()), FrameSize: frameMax, Heartbeat: d.heartbeat, Locale: "en_US",
		Properties: amqp.Table{"product": "linkspan", "connection_name": d.name},
	})
	l := &link{Connection: c, pipe: p, ended: c.NotifyClose(make(chan *amqp.Error, 1))}
	if err != nil {
		broken := p.Failure()
		p.Abort()
		l.wait()
		return nil, fmt.Errorf("connect %s: %w", d.address, explainOpen(ctx, err, broken))
	}
	return l, nil
}

func (d *dialer) sasl() []amqp.Authentication {
	switch {
	case d.auth == nil:
		return []amqp.Authentication{&amqp.PlainAuth{Username: "guest", Password: "guest"}}
	case d.auth.External:
		return []amqp.Authentication{&amqp.ExternalAuth{}}
	default:
		return []amqp.Authentication{&amqp.PlainAuth{Username: d.auth.User, Password: d.auth.Password.Reveal()}}
	}
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	plain := &net.Dialer{Timeout: dialWithin}
	u := d.address.URL()
	if u.Scheme != "amqps" {
		return plain.DialContext(ctx, "tcp", hostPort(u))
	}
	conf, err := d.tls.Load(u.Hostname())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	return (&tls.Dialer{NetDialer: plain, Config: conf}).DialContext(ctx, "tcp", hostPort(u))
}

// close says goodbye and waits for the library to end.
func (l *link) close() {
	timer := time.AfterFunc(closeWithin, l.pipe.Abort)
	defer timer.Stop()
	_ = l.CloseDeadline(time.Now().Add(closeWithin)) // it may be lost
	l.wait()
}

func (l *link) wait() {
	for range l.ended { // until the library closes it
	}
}
