package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// dialWithin bounds dialling, the TLS handshake and the broker's answer, each.
const dialWithin = 10 * time.Second

// dialer is what both ends that dial know of the broker.
type dialer struct {
	address   config.Address
	tls       *tlsconf.Either
	auth      *Auth
	version   byte
	clientID  string
	keepAlive time.Duration
	maxPacket int
	will      *publication
}

// broker is a connection that the broker has accepted.
type broker struct {
	link *link
	// present says that the broker has kept the session.
	present bool
	props   *properties
	// keepAlive is the longest silence that the broker takes.
	keepAlive time.Duration
}

var errConnected = errors.New("connected")

// open connects. The stream is left where it is after CONNACK.
func (d *dialer) open(ctx context.Context, cleanStart bool, props []byte) (_ *broker, err error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	b := &broker{link: newLink(conn, d.maxPacket), keepAlive: d.keepAlive}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect %s: %w", d.address, err), ignoreClosed(conn.Close()))
		}
	}()
	stop := context.AfterFunc(ctx, b.link.stop)
	defer stop()
	b.link.version = d.version
	c := connectPacket{version: d.version, cleanStart: cleanStart, clientID: d.clientID, keepAlive: uint16(d.keepAlive / time.Second), will: d.will}
	if d.auth != nil {
		c.hasUser, c.user = true, d.auth.User
		c.hasPassword, c.password = !d.auth.Password.IsZero(), d.auth.Password.Reveal()
	}
	if err := b.link.send(c.encode(props)); err != nil {
		return nil, err
	}
	err = b.link.pump(dialWithin, func(p packet) error {
		var code byte
		if b.present, code, b.props, err = decodeConnack(p, d.version); err != nil {
			return err
		}
		if code != 0 {
			return connackError(code, d.version)
		}
		return errConnected
	}, func() {})
	switch {
	case errors.Is(err, errConnected):
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		return nil, hungUp(d.version, err)
	default:
		return nil, err
	}
	if b.props.has(propServerKeepAlive) && b.props.serverAlive > 0 {
		b.keepAlive = time.Duration(b.props.serverAlive) * time.Second
	}
	return b, nil
}

// hungUp explains a connection that ends without CONNACK: brokers that do not speak a
// version, or that speak TLS here, say nothing.
func hungUp(version byte, cause error) error {
	if version == version5 {
		return fmt.Errorf("LS4205: the broker ended the connection without an answer; when it speaks MQTT 3.1.1 only, set `version: 3.1.1`; else check whether this port is for MQTT, and for TLS (mqtts): %w", cause)
	}
	return fmt.Errorf("LS4205: the broker ended the connection without an answer; check whether this port is for MQTT, and for TLS (mqtts): %w", cause)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	plain := &net.Dialer{Timeout: dialWithin}
	u := d.address.URL()
	if u.Scheme != "mqtts" {
		return plain.DialContext(ctx, "tcp", hostPort(u))
	}
	conf, err := d.tls.Client().Load(u.Hostname())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dialWithin)
	defer cancel()
	return (&tls.Dialer{NetDialer: plain, Config: conf}).DialContext(ctx, "tcp", hostPort(u))
}

// connackError explains a refusal. Credentials have a code of their own, because
// trying again does not help.
func connackError(code, version byte) error {
	if code == reasonCredentials || code == reasonNotAuthorized || version < version5 && (code == connackCredentials311 || code == connackNotAuthorized311) {
		return fmt.Errorf("LS4204: the broker does not accept the user, the password or the client id (code 0x%02x)", code)
	}
	return fmt.Errorf("the broker refused the connection (code 0x%02x)", code)
}

// ping keeps the connection alive until ctx ends.
func (b *broker) ping(group *run.Group) {
	group.Go("mqtt ping", func(ctx context.Context) error {
		every := b.keepAlive / 2
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				if now.UnixMilli()-b.link.wrote.Load() < every.Milliseconds()/2 {
					continue
				}
				if err := b.link.send([]byte{kindPingreq << 4, 0}); err != nil {
					b.link.stop()
					return nil // the reader reports the loss
				}
			}
		}
	})
}

// silence is how long the broker may send nothing: it answers each ping.
func (b *broker) silence() time.Duration { return b.keepAlive * 3 / 2 }

// brokerLeft explains DISCONNECT from the broker.
func brokerLeft(p packet) error {
	reason := byte(reasonSuccess)
	if len(p.body) > 0 {
		reason = p.body[0]
	}
	return fmt.Errorf("the broker ended the connection (code 0x%02x)", reason)
}
