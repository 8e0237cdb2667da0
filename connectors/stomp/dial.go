package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

const (
	// dialWithin bounds dialling, the TLS handshake and the broker's answer, each.
	dialWithin = 10 * time.Second
	// goodbyeWithin is how long the broker may take to confirm DISCONNECT.
	goodbyeWithin = 2 * time.Second
	// brokerHeaders is the number of headers that a broker's frame may have.
	brokerHeaders = 4096
)

// dialer is what both ends that dial know of the broker.
type dialer struct {
	address   config.Address
	tls       *tlsconf.Either
	auth      *Auth
	version   version
	host      string
	clientID  string
	heartBeat time.Duration
	limits    limits
}

// broker is a connection that the broker has accepted.
type broker struct {
	link  *link
	beats beats
}

var errConnected = errors.New("connected")

// open connects. The stream is left where it is after CONNECTED.
func (d *dialer) open(ctx context.Context) (_ *broker, err error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", d.address, err)
	}
	b := &broker{link: newLink(conn, d.limits)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect %s: %w", d.address, err), ignoreClosed(conn.Close()))
		}
	}()
	stop := context.AfterFunc(ctx, b.link.stop)
	defer stop()
	if err := b.link.sendFrame(d.hello()); err != nil {
		return nil, err
	}
	err = b.link.pump(dialWithin, func(f *frame.Frame) error {
		switch f.Command {
		case frame.CONNECTED:
			return d.connected(b, f)
		case frame.ERROR:
			return refusedConnect(f)
		default:
			return malformed("the answer to CONNECT is neither CONNECTED nor ERROR")
		}
	}, func() {})
	if !errors.Is(err, errConnected) {
		return nil, err
	}
	return b, nil
}

// hello is CONNECT, which brokers of 1.0 know as well.
func (d *dialer) hello() *frame.Frame {
	f := frame.New(frame.CONNECT, frame.AcceptVersion, upTo(d.version), frame.Host, d.host, frame.HeartBeat, beatHeader(d.heartBeat))
	if d.clientID != "" {
		f.Header.Add(headerClientID, d.clientID)
	}
	if d.auth != nil {
		f.Header.Add(frame.Login, d.auth.User)
		if !d.auth.Password.IsZero() {
			f.Header.Add(frame.Passcode, d.auth.Password.Reveal())
		}
	}
	return f
}

func (d *dialer) connected(b *broker, f *frame.Frame) (err error) {
	v := version10 // a broker of 1.0 does not say
	if text, ok := f.Header.Contains(frame.Version); ok {
		v = versionOf(text)
	}
	if v == 0 || v > d.version {
		return &wireError{"LS4344", "the broker chose a version of STOMP that was not offered"}
	}
	if v >= version11 {
		if b.beats, err = agreeBeats(d.heartBeat, f.Header.Get(frame.HeartBeat)); err != nil {
			return err
		}
	}
	b.link.agree(v)
	if strings.HasPrefix(f.Header.Get(frame.Server), "RabbitMQ/") {
		b.link.stream.escapes = max(v, version11) // it escapes in 1.0, too
	}
	return errConnected
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
	if u.Scheme != "stomp+ssl" {
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

// says reports whether an ERROR speaks of any of these. Its text itself is never
// passed on: brokers quote what they were sent.
func says(f *frame.Frame, words ...string) bool {
	body := f.Body
	if len(body) > 1024 {
		body = body[:1024] // what follows is a stack trace
	}
	text := strings.ToLower(f.Header.Get(frame.Message) + "\n" + string(body))
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// refusedConnect explains an ERROR that answers CONNECT. Credentials have a code of
// their own, because trying again does not help.
func refusedConnect(f *frame.Frame) error {
	switch {
	case says(f, "virtual host", "vhost"):
		return &wireError{"LS4344", "the broker does not know the virtual host, or does not let this user in; set `host`"}
	case says(f, "version"):
		return &wireError{"LS4344", "the broker does not speak the version; set `version`"}
	case says(f, "password", "access refused", "credential", "authent", "security error", "bad connect", "not authorized", "login"):
		return &wireError{"LS4341", "the broker does not accept the user or the password"}
	default:
		return &wireError{"LS4344", "the broker refused the connection; its log says why"}
	}
}

// brokerError explains an ERROR after CONNECTED, without its text. Away: it is about
// the broker's own state and not about what was sent.
func brokerError(f *frame.Frame) (_ *wireError, away bool) {
	switch {
	case says(f, "no space left", "resourceallocation", "usage manager", "is full", "address_full", "disk"):
		return &wireError{"LS4344", "the broker has no room"}, true
	case says(f, "connection is not valid"):
		return &wireError{"LS4344", "the broker ends the connection after an error"}, true
	case says(f, "connection_forced", "shutdown", "shutting down", "stopped", "stopping"):
		return &wireError{"LS4344", "the broker is being stopped"}, true
	case says(f, "access_refused", "access refused", "not authorized", "permission", "security"):
		return &wireError{"LS4344", "the broker says that this user may not do this"}, false
	case says(f, "not_found", "not found", "does not exist", "no such"):
		return &wireError{"LS4344", "the broker does not know the destination"}, false
	default:
		return &wireError{"LS4344", "the broker answered with an error; its log says why"}, false
	}
}

// goodbye leaves in a way that lets the broker see the acknowledgements before. Broken:
// what comes cannot be read as frames any more.
func (b *broker) goodbye(broken bool) {
	const bye = "bye"
	// The connection may be lost; then nothing of this matters.
	if b.link.sendFrame(frame.New(frame.DISCONNECT, frame.Receipt, bye)) != nil {
		return
	}
	if broken {
		b.link.linger(goodbyeWithin, maxFrameLimit)
		return
	}
	b.link.resume()
	end := time.AfterFunc(goodbyeWithin, b.link.stop)
	defer end.Stop()
	_ = b.link.pump(goodbyeWithin, func(f *frame.Frame) error {
		if f.Command == frame.ERROR || f.Command == frame.RECEIPT && f.Header.Get(frame.ReceiptId) == bye {
			return errConnected // any error ends it
		}
		return nil
	}, func() {})
}
