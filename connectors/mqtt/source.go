package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// subscribeID is the packet identifier of SUBSCRIBE; nothing else is numbered on a
// connection that only receives. It is far from those of the broker's own messages,
// which some brokers confuse with it.
const subscribeID = 0xffff

// book keeps the QoS 2 receipts of dialled sessions while the process lives: a
// source that is started again goes on with those of the one before.
type book struct {
	mu       sync.Mutex
	sessions map[string]*receipts
}

// open returns the receipts of a session, empty ones when the broker has forgotten
// it.
func (b *book) open(name string, present bool) *receipts {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.sessions[name]
	if r == nil || !present {
		r = &receipts{}
		b.sessions[name] = r
	}
	r.abandon()
	return r
}

// dialSource subscribes at a broker.
type dialSource struct {
	cfg  SourceConfig
	env  connectors.Env
	dial dialer
	book *book
}

func newDialSource(cfg SourceConfig, env connectors.Env, sessions *book) connectors.Source {
	if cfg.ClientID == "" {
		cfg.ClientID = "linkspan-" + env.Pipeline + "-" + env.Name
	}
	return &dialSource{cfg: cfg, env: env, book: sessions, dial: dialer{
		address: cfg.Connect, tls: cfg.TLS, auth: cfg.Auth, version: versionOf(cfg.Version),
		clientID: cfg.ClientID, keepAlive: cfg.KeepAlive, maxPacket: int(cfg.MaxPacket), will: cfg.Will.publication(),
	}}
}

func (s *dialSource) cleanStart() bool {
	if s.cfg.CleanStart != nil {
		return *s.cfg.CleanStart
	}
	return s.cfg.QoS == 0
}

// connectProperties asks the broker for a session and a window.
func (s *dialSource) connectProperties() []byte {
	if s.dial.version < version5 {
		return nil
	}
	b := appendU16(nil, propReceiveMaximum, uint16(min(s.cfg.ReceiveMaximum, math.MaxUint16)))
	b = appendU32(b, propMaximumPacket, uint32(s.cfg.MaxPacket))
	// No topic aliases are asked for: brokers resend messages with aliases of a
	// connection that is gone.
	if !s.cleanStart() {
		b = appendU32(b, propSessionExpiry, uint32(min(s.cfg.SessionExpiry/time.Second, math.MaxUint32)))
	}
	return b
}

// Run implements connectors.Source.
func (s *dialSource) Run(ctx context.Context, next message.Handler) error {
	b, err := s.dial.open(ctx, s.cleanStart(), s.connectProperties())
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { _ = b.link.conn.Close() }() // said goodbye, or lost
	stop := context.AfterFunc(ctx, b.link.stop)
	defer stop()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group := run.NewGroup(work)
	recv := (&receiver{
		link: b.link, next: next, start: group.Go, source: s.env.Name, clientID: s.cfg.ClientID, refuse: refuseDial,
		receipts: s.book.open(s.cfg.Connect.String()+" "+s.cfg.ClientID, b.present), bundles: newBundles(),
		limit: s.cfg.ReceiveMaximum, lenient: true, held: &atomic.Int64{}, log: s.env.Logger,
	}).init()
	b.ping(group)
	err = b.link.send(appendSubscribe(nil, s.dial.version, subscribeID, s.cfg.Topics, byte(s.cfg.QoS)))
	if err == nil {
		err = b.link.pump(b.silence(), func(p packet) error { return s.handle(recv, p) }, recv.flush)
	}
	grace := time.AfterFunc(stopGrace, cancel)
	defer grace.Stop()
	recv.drain()
	if failure := recv.failure(); failure != nil {
		err = failure
	}
	return s.end(ctx, b, err, func() error { cancel(); return group.Wait() })
}

// end says goodbye and returns why the connection ended; nil when ctx did.
func (s *dialSource) end(ctx context.Context, b *broker, err error, wait func() error) error {
	reason := byte(reasonSuccess)
	if broken, ok := errors.AsType[*protocolError](err); ok {
		reason = broken.code
	}
	_ = b.link.send(encodeDisconnect(s.dial.version, reason)) // the connection may be lost
	err = errors.Join(err, wait())
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of the context is no failure
	}
	return fmt.Errorf("receive from %s: %w", s.cfg.Connect, err)
}

func (s *dialSource) handle(recv *receiver, p packet) error {
	switch p.kind() {
	case kindPublish:
		return recv.publish(p)
	case kindPubrel:
		return recv.pubrel(p)
	case kindPingresp:
		return nil
	case kindSuback:
		worst, err := decodeSuback(p, s.dial.version, len(s.cfg.Topics))
		if err == nil && worst >= 0x80 {
			err = fmt.Errorf("the broker refused a subscription (code 0x%02x)", worst)
		}
		if err == nil {
			s.env.Logger.Debug("subscribed", slog.String("broker", s.cfg.Connect.String()))
		}
		return err
	case kindDisconnect:
		return brokerLeft(p)
	default:
		return violation("a packet that a broker does not send")
	}
}

// refuseDial says how to answer a broker. A refusal makes it drop the message, so
// only what can never be taken over is refused; everything else ends the connection
// and comes again with the session. Version 3.1.1 cannot refuse.
func refuseDial(err error, version byte) (reason byte, ok bool) {
	if version < version5 {
		return 0, false
	}
	var r *message.Reason
	switch {
	case errors.Is(err, message.ErrTooLarge):
		return reasonImplementation, true
	case errors.As(err, &r):
		return reasonPayloadFormat, true
	default:
		return 0, false
	}
}
