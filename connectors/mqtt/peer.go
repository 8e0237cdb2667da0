package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// connectWithin is how long a client may take to connect and say who it is.
const connectWithin = 10 * time.Second

// maxConnectPacket bounds what a stranger may send before it has said who it is.
const maxConnectPacket = 128 << 10

// peer is a client that has connected.
type peer struct {
	source   *listenSource
	link     *link
	recv     *receiver
	clientID string
	// gone is closed when nothing of the connection is left.
	gone chan struct{}
	// ending is the reason code with which this side ends the connection; zero: it
	// does not.
	ending atomic.Int32

	// These belong to the reading goroutine.
	session *session
	user    string
	will    *publication
	// willDelayed: a successor of this connection cancels the will.
	willDelayed bool
	expiry      time.Duration
	// left is set when the client said goodbye.
	left bool
}

func newPeer(s *listenSource, conn net.Conn, group *run.Group, next message.Handler) *peer {
	p := &peer{source: s, link: newLink(conn, min(int(s.cfg.MaxPacket), maxConnectPacket)), gone: make(chan struct{})}
	p.recv = (&receiver{
		link: p.link, next: next, start: group.Go, source: s.env.Name, allowed: p.allows,
		refuse: refuseListen, bundles: s.bundles, limit: s.cfg.ReceiveMaximum, held: &s.held, log: s.env.Logger,
	}).init()
	return p
}

// end makes the connection stop reading and finish, with a reason for the client.
func (p *peer) end(reason byte) {
	p.ending.CompareAndSwap(0, int32(reason))
	p.link.stop()
}

var errClientLeft = errors.New("the client has left")

// serve is the life of a connection. Its own failure ends no other connection.
func (p *peer) serve(ctx context.Context) (err error) {
	defer close(p.gone)
	defer p.source.forget(p)
	defer func() { _ = p.link.conn.Close() }() // nobody is left to be told
	defer func() {
		if recover() != nil {
			p.log(ctx, slog.LevelError, &run.PanicError{Name: "mqtt connection", Stack: debug.Stack()})
		}
	}()
	keepAlive, err := p.connect(ctx)
	if err == nil {
		defer p.detach()
		err = p.link.pump(keepAlive, p.handle, p.recv.flush)
		p.recv.drain()
		if failure := p.recv.failure(); failure != nil {
			err = failure
		}
	}
	p.goodbye(err)
	p.publishWill(ctx)
	if !p.left && p.ending.Load() == 0 && !errors.Is(err, io.EOF) {
		p.log(ctx, slog.LevelInfo, err)
	}
	return nil
}

func (p *peer) log(ctx context.Context, level slog.Level, err error) {
	now, last := time.Now().UnixNano(), p.source.logged.Load()
	if now-last < int64(time.Second) || !p.source.logged.CompareAndSwap(last, now) {
		return
	}
	p.source.env.Logger.LogAttrs(ctx, level, "mqtt connection ended", slog.String("remote", p.link.conn.RemoteAddr().String()), slog.String("error", err.Error()))
}

// connect waits for CONNECT and answers it. KeepAlive is the longest silence; zero:
// no bound.
func (p *peer) connect(ctx context.Context) (keepAlive time.Duration, err error) {
	var c *connectPacket
	got := errors.New("connected")
	deadline := time.Now().Add(connectWithin)
	err = p.link.pump(connectWithin, func(k packet) error {
		if c, err = decodeConnect(k); err != nil {
			return err
		}
		return got
	}, func() {
		// A trickle of bytes does not buy time, and another protocol none at all.
		if first, ok := p.link.stream.peek(); time.Now().After(deadline) || ok && first != kindConnect<<4 {
			p.link.stop()
		}
	})
	if !errors.Is(err, got) {
		p.refuseVersion(err)
		return 0, err
	}
	p.link.version, p.link.stream.max = c.version, int(p.source.cfg.MaxPacket)
	if code, text := p.admits(c); code != 0 {
		return 0, p.refuseConnect(code, text)
	}
	assigned := ""
	if p.clientID = c.clientID; p.clientID == "" {
		assigned = "linkspan-" + randomID()
		p.clientID = assigned
	}
	p.recv.clientID, p.user = p.clientID, c.user
	var present bool
	p.session, present, err = p.source.station.attach(ctx, p, c.cleanStart)
	if err != nil {
		return 0, err
	}
	p.recv.receipts = &p.session.receipts
	p.will, p.willDelayed = c.will, c.willDelay > 0
	p.expiry = expiryOf(c)
	if err := p.link.send(encodeConnack(c.version, present, 0, p.connackProperties(c, assigned))); err != nil {
		p.detach()
		return 0, err
	}
	return time.Duration(c.keepAlive) * time.Second * 3 / 2, nil
}

// refuseVersion tells a client of another version that it cannot be served. To
// anything else than a client nothing is said.
func (p *peer) refuseVersion(err error) {
	var broken *protocolError
	if errors.As(err, &broken) && broken.code == reasonVersion {
		_ = p.link.send(encodeConnack(version311, false, connackVersion311, nil)) // it leaves anyhow
	}
}

// admits returns zero, or the reason code of MQTT 5 why the client may not connect.
func (p *peer) admits(c *connectPacket) (code byte, text string) {
	switch {
	case c.props.has(propAuthMethod):
		return reasonAuthMethod, "enhanced authentication is not offered"
	case !p.source.cfg.Auth.admits(c):
		return reasonCredentials, "wrong user or password"
	case c.clientID == "" && c.version < version5 && !c.cleanStart:
		return reasonClientID, "a session needs a client id"
	case c.will != nil && !p.source.permits(c.user, string(c.will.topic)):
		return reasonNotAuthorized, "the will's topic is not received here"
	}
	return 0, ""
}

// allows says whether this client may publish to a topic.
func (p *peer) allows(topic string) bool { return p.source.permits(p.user, topic) }

// permits says whether a user may publish to a topic here.
func (s *listenSource) permits(user, topic string) bool {
	return s.allows(topic) && s.cfg.Auth.permits(user, topic)
}

// permits says whether a user may publish to a topic.
func (a *Auth) permits(user, topic string) bool {
	if a == nil {
		return true
	}
	filters, limited := a.Publish[user]
	return !limited || slices.ContainsFunc(filters, func(f string) bool { return matches(f, topic) })
}

// admits compares in a time that does not depend on what is wrong.
func (a *Auth) admits(c *connectPacket) bool {
	if a == nil {
		return true
	}
	secret, known := a.Users[c.user]
	want, got := sha256.Sum256([]byte(secret.Reveal())), sha256.Sum256([]byte(c.password))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && known && c.hasUser && c.hasPassword
}

func (p *peer) refuseConnect(code byte, text string) error {
	if p.link.version < version5 {
		code = map[byte]byte{
			reasonCredentials: connackCredentials311, reasonClientID: connackClientID311,
			reasonNotAuthorized: connackNotAuthorized311,
		}[code]
	}
	// The client is refused, whether it hears it or not.
	_ = p.link.send(encodeConnack(p.link.version, false, code, []byte{}))
	return &protocolError{0, text}
}

func (p *peer) connackProperties(c *connectPacket, assigned string) []byte {
	limit := p.source.cfg.ReceiveMaximum
	b := appendU16(nil, propReceiveMaximum, uint16(min(limit, math.MaxUint16)))
	b = appendU32(b, propMaximumPacket, uint32(p.source.cfg.MaxPacket))
	b = appendU16(b, propTopicAliasMax, maxAliases)
	if kept := uint32(p.expiry / time.Second); kept != c.props.sessionExpiry {
		b = appendU32(b, propSessionExpiry, kept)
	}
	if assigned != "" {
		b = appendText(append(b, propAssignedID), assigned)
	}
	return append(b, propWildcardSub, 0, propSubscriptionIDOK, 0, propSharedSub, 0)
}

func expiryOf(c *connectPacket) time.Duration {
	switch {
	case c.version == version5:
		return min(time.Duration(c.props.sessionExpiry)*time.Second, maxSessionExpiry)
	case c.cleanStart:
		return 0
	default:
		return maxSessionExpiry
	}
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// handle works on one packet of a connected client.
func (p *peer) handle(k packet) error {
	switch k.kind() {
	case kindPublish:
		return p.recv.publish(k)
	case kindPubrel:
		return p.recv.pubrel(k)
	case kindPingreq:
		if len(k.body) > 0 {
			return malformed("pingreq")
		}
		return p.link.send([]byte{kindPingresp << 4, 0})
	case kindSubscribe, kindUnsubscribe:
		return p.refuseSubscription(k)
	case kindDisconnect:
		return p.disconnect(k)
	default:
		return violation("a packet that a client does not send")
	}
}

// refuseSubscription answers SUBSCRIBE and UNSUBSCRIBE: nothing is sent to clients.
func (p *peer) refuseSubscription(k packet) error {
	id, count, err := decodeFilters(k, p.link.version)
	if err != nil {
		return err
	}
	kind, reason := byte(kindSuback), byte(reasonNotAuthorized)
	switch {
	case k.kind() == kindUnsubscribe && p.link.version < version5:
		return p.link.send([]byte{kindUnsuback << 4, 2, byte(id >> 8), byte(id)})
	case k.kind() == kindUnsubscribe:
		kind, reason = kindUnsuback, reasonNoSubscription
	case p.link.version < version5:
		reason = subackFailure311
	}
	body := []byte{byte(id >> 8), byte(id)}
	if p.link.version == version5 {
		body = append(body, 0)
	}
	for range count {
		body = append(body, reason)
	}
	return p.link.send(append(appendVarint([]byte{kind << 4}, len(body)), body...))
}

// disconnect reads DISCONNECT. The will is forgotten unless the client asks for it.
func (p *peer) disconnect(k packet) error {
	reason := byte(reasonSuccess)
	if p.link.version == version5 && len(k.body) > 0 {
		r := reader{b: k.body}
		reason = r.u8()
		if err := p.changeExpiry(&r); err != nil {
			return err
		}
	}
	if p.left = reason != reasonWithWill; p.left {
		p.will = nil
	}
	return errClientLeft
}

// changeExpiry reads the properties of DISCONNECT, which may change how long the
// session is kept.
func (p *peer) changeExpiry(r *reader) error {
	var props properties
	if len(r.b) > 0 {
		props.decode(r, allowedDisconnect, p.link.version)
	}
	if r.bad || len(r.b) > 0 {
		return malformed("disconnect")
	}
	if !props.has(propSessionExpiry) {
		return nil
	}
	if p.expiry == 0 && props.sessionExpiry != 0 {
		return violation("session expiry after a session without")
	}
	p.expiry = min(time.Duration(props.sessionExpiry)*time.Second, maxSessionExpiry)
	return nil
}

// goodbye tells a client of MQTT 5 why the connection ends.
func (p *peer) goodbye(err error) {
	if p.link.version != version5 || p.session == nil || errors.Is(err, errClientLeft) {
		return
	}
	reason := byte(p.ending.Load())
	var broken *protocolError
	switch {
	case errors.As(err, &broken) && broken.code != 0:
		reason = broken.code
	case reason != 0:
	case isTimeout(err):
		reason = reasonKeepAlive
	case p.recv.failure() != nil:
		reason = reasonUnspecified
	default:
		return // the connection is lost
	}
	_ = p.link.send(encodeDisconnect(version5, reason)) // it ends anyhow
}

// publishWill hands on the will of a client that left without a goodbye. When this
// side stops, clients are not dead, so their wills stay unsaid.
func (p *peer) publishWill(ctx context.Context) {
	ending := p.ending.Load()
	if p.will == nil || p.session == nil || ending == reasonStopping || ending == reasonTakenOver && p.willDelayed {
		return
	}
	topic := string(p.will.topic)
	m := message.Message{
		Key: []byte(p.clientID + "\x00" + topic), Topic: topic, Time: time.Now(), Priority: message.NormalPriority,
		Source: p.source.env.Name, Attempt: 1, Payload: p.will.payload,
	}
	p.will.describe(&m, m.Time)
	if err := p.recv.handOn(ctx, &message.Batch{Messages: []message.Message{m}}); err != nil {
		p.source.env.Logger.LogAttrs(ctx, slog.LevelWarn, "the will of a client was not stored", slog.String("error", err.Error()))
	}
}

func (p *peer) detach() {
	p.source.station.detach(p, p.session, p.expiry)
}
