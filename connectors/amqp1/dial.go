package amqp1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	amqp "github.com/Azure/go-amqp"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/gather"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

const (
	// dialWithin bounds dialling with TLS, the handshake, and an attach, each.
	dialWithin = 10 * time.Second
	// closeWithin bounds the farewell.
	closeWithin = 2 * time.Second
)

// dialer is what both ends know of the peer.
type dialer struct {
	address     config.Address
	tls         *tlsconf.Client
	auth        *Auth
	hostname    string
	containerID string
	idle        time.Duration
	properties  map[string]string
}

// named fills the names that were not given.
func (d dialer) named(env connectors.Env) dialer {
	if d.containerID == "" {
		d.containerID = "linkspan-" + env.Pipeline + "-" + env.Name
	}
	if d.hostname == "" {
		d.hostname = d.address.URL().Hostname()
	}
	return d
}

// link is one connection.
type link struct {
	*amqp.Conn

	pipe *gather.Conn
}

// open connects and logs in.
func (d *dialer) open(ctx context.Context) (*link, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	p := gather.NewConn(conn)
	options := &amqp.ConnOptions{
		ContainerID: d.containerID, HostName: d.hostname, IdleTimeout: d.idle, SASLType: d.sasl(),
		Properties: map[string]any{"product": "linkspan"},
	}
	for key, value := range d.properties {
		options.Properties[key] = value
	}
	within, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	stop := context.AfterFunc(within, p.Abort)
	defer stop()
	c, err := amqp.NewConn(within, p, options)
	if err != nil {
		p.Abort()
		return nil, fmt.Errorf("connect %s: %w", d.address, explainOpen(ctx, within, err))
	}
	return &link{c, p}, nil
}

func (d *dialer) sasl() amqp.SASLType {
	switch {
	case d.auth == nil:
		return amqp.SASLTypeAnonymous()
	case d.auth.External:
		return amqp.SASLTypeExternal("")
	default:
		return amqp.SASLTypePlain(d.auth.User, d.auth.Password.Reveal())
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
	_ = l.Close() // it may be lost
}

// explainOpen says why a connection was not opened. The library has no errors of its own
// for this, so its words are looked at.
func explainOpen(ctx, within context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case within.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the peer did not answer in time")
	case strings.Contains(err.Error(), "auth failed"):
		return errors.New("LS4324: the peer does not accept the user or the password")
	case strings.Contains(err.Error(), "no supported auth mechanism"):
		return errors.New("LS4324: the peer offers none of the ways to log in; see auth")
	default:
		return fmt.Errorf("%w; does the peer speak AMQP 1.0 at this port?", err)
	}
}

// explainLink says why a link was not attached, or ended. Only the configuration names
// the address, so the words of the peer can be passed on.
func explainLink(err error, what string) error {
	if err == nil {
		return nil
	}
	switch condition(err) {
	case amqp.ErrCondNotFound, amqp.ErrCondResourceDeleted:
		return fmt.Errorf("LS4325: %s: the address does not exist: %w", what, err)
	case amqp.ErrCondUnauthorizedAccess, amqp.ErrCondNotAllowed:
		return fmt.Errorf("LS4326: %s: the user has no permission: %w", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// condition returns the error condition that the peer gave, or "".
func condition(err error) amqp.ErrCond {
	if remote, ok := errors.AsType[*amqp.Error](err); ok && remote != nil {
		return remote.Condition
	}
	return ""
}
