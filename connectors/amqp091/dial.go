package amqp091

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

const (
	// dialWithin bounds dialling with TLS, and then the handshake of the protocol. Brokers
	// answer wrong credentials after a pause.
	dialWithin = 10 * time.Second
	// closeWithin bounds the farewell.
	closeWithin = 2 * time.Second
	// flushBytes is how much is gathered before it is written.
	flushBytes = 64 << 10
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

	pipe *pipe
	// ended is closed by the library when the connection is over.
	ended chan *amqp.Error
}

// open connects and logs in.
func (d *dialer) open(ctx context.Context) (*link, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	p := &pipe{Conn: conn}
	stop := context.AfterFunc(ctx, p.abort)
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(dialWithin)); err != nil {
		p.abort()
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	c, err := amqp.Open(p, amqp.Config{
		SASL: d.sasl(), Vhost: vhost(d.address.URL()), FrameSize: frameMax, Heartbeat: d.heartbeat, Locale: "en_US",
		Properties: amqp.Table{"product": "linkspan", "connection_name": d.name},
	})
	l := &link{Connection: c, pipe: p, ended: c.NotifyClose(make(chan *amqp.Error, 1))}
	if err != nil {
		broken := p.failure()
		p.abort()
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
	timer := time.AfterFunc(closeWithin, l.pipe.abort)
	defer timer.Stop()
	_ = l.CloseDeadline(time.Now().Add(closeWithin)) // it may be lost
	l.wait()
}

func (l *link) wait() {
	for range l.ended { // until the library closes it
	}
}

// pipe is the socket below the library, which flushes after every message. While it is
// held, what is written gathers.
type pipe struct {
	net.Conn

	broken atomic.Pointer[error]

	mu      sync.Mutex
	holders int
	buf     []byte
}

// Read implements net.Conn, and keeps the first failure.
func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if err != nil {
		p.broken.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (p *pipe) failure() error {
	if err := p.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Write implements net.Conn.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holders == 0 && len(p.buf) == 0 {
		return p.Conn.Write(b)
	}
	p.buf = append(p.buf, b...)
	if p.holders == 0 || len(p.buf) >= flushBytes {
		if err := p.flush(); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (p *pipe) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.Conn.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}

// hold lets writes gather.
func (p *pipe) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holders++
}

// release writes what has gathered. Others may go on to hold.
func (p *pipe) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holders--
	if p.flush() != nil {
		p.abort()
	}
}

// abort ends the socket at once. What waits for it fails.
func (p *pipe) abort() { _ = p.Close() }
