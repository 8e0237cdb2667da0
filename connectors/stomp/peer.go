package stomp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// connectWithin is how long a client may take to connect and say who it is.
	connectWithin = 10 * time.Second
	// strangerBytes and strangerHeaders bound what it may send until then.
	strangerBytes   = 8 << 10
	strangerHeaders = 32
	// lingerWithin is how long a client may take to read why its connection ends, and
	// lingerBytes what it may send meanwhile.
	lingerWithin = time.Second
	lingerBytes  = 1 << 20
)

// peer is a client that has connected.
type peer struct {
	source *listenSource
	link   *link
	recv   *receiver
	// stopping: this side ends the connection, for no fault of the client.
	stopping atomic.Bool

	// These belong to the reading goroutine.
	beats        beats
	destinations destinations
	transactions transactions
	// refused is the receipt that the frame asked for which ends the connection.
	refused string
}

func newPeer(s *listenSource, conn net.Conn, group *run.Group, next message.Handler) *peer {
	p := &peer{source: s, link: newLink(conn, limits{head: strangerBytes, headers: strangerHeaders})}
	p.destinations.allowed = s.allows
	p.transactions = transactions{limit: s.cfg.MaxInFlight, held: &s.held}
	p.recv = (&receiver{
		link: p.link, next: next, start: group.Go, source: s.env.Name, answer: p.answer,
		bundles: s.bundles, limit: s.cfg.MaxInFlight, held: &s.held,
	}).init()
	return p
}

var errClientLeft = errors.New("the client has left")

// serve is the life of a connection. Its own failure ends no other connection.
func (p *peer) serve(ctx context.Context) (err error) {
	defer p.source.forget(p)
	defer func() { _ = p.link.conn.Close() }() // nobody is left to be told
	defer func() {
		if recover() != nil {
			p.log(ctx, slog.LevelError, &run.PanicError{Name: "stomp connection", Stack: debug.Stack()})
		}
	}()
	beating := run.NewGroup(ctx)
	defer func() { beating.Stop(); _ = beating.Wait() }()
	if err = p.connect(); err == nil {
		p.link.beat(beating, p.beats.every)
		err = p.link.pump(p.beats.silence, p.handle, p.recv.flush)
		p.recv.drain()
		p.transactions.abandon()
		if failure := p.recv.failure(); failure != nil {
			err = failure
		}
	}
	if !p.stopping.Load() && !errors.Is(err, errClientLeft) && !errors.Is(err, io.EOF) {
		p.log(ctx, slog.LevelInfo, err)
	}
	p.goodbye(err)
	return nil
}

func (p *peer) log(ctx context.Context, level slog.Level, err error) {
	now, last := time.Now().UnixNano(), p.source.logged.Load()
	if now-last < int64(time.Second) || !p.source.logged.CompareAndSwap(last, now) {
		return
	}
	p.source.env.Logger.LogAttrs(ctx, level, "stomp connection ended", slog.String("remote", p.link.conn.RemoteAddr().String()), slog.String("error", err.Error()))
}

var errStranger = &wireError{"LS4357", "the client did not connect in time"}

// connect waits for CONNECT and answers it.
func (p *peer) connect() error {
	late := time.AfterFunc(p.source.within, p.link.stop)
	defer late.Stop()
	var greeting *frame.Frame
	got := errors.New("connected")
	err := p.link.pump(p.source.within, func(f *frame.Frame) error {
		if f.Command != frame.CONNECT && f.Command != frame.STOMP {
			return malformed("the first frame is neither CONNECT nor STOMP")
		}
		greeting = f
		return got
	}, func() {})
	switch {
	case isTimeout(err):
		return errStranger
	case !errors.Is(err, got):
		return err
	case !late.Stop(): // and so reading was stopped
		return errStranger
	}
	return p.welcome(greeting.Header)
}

// welcome answers CONNECT (STOMP 1.2, Protocol Negotiation).
func (p *peer) welcome(h *frame.Header) (err error) {
	v := version10 // a client of 1.0 does not say
	if accepts, ok := h.Contains(frame.AcceptVersion); ok {
		v = highest(accepts)
	}
	if v == 0 {
		return errVersion
	}
	if !p.source.cfg.Auth.admits(h) {
		return &wireError{"LS4352", "wrong login or passcode"}
	}
	if v >= version11 {
		if p.beats, err = agreeBeats(p.source.cfg.HeartBeat, h.Get(frame.HeartBeat)); err != nil {
			return err
		}
	}
	session := "linkspan-" + rand.Text()
	p.destinations.prefix = session + "\x00"
	if id := h.Get(headerClientID); id != "" {
		p.destinations.prefix = valid(id) + "\x00"
	}
	answer := frame.New(frame.CONNECTED, frame.Version, v.String(), frame.Session, session, frame.Server, "linkspan")
	if v >= version11 {
		answer.Header.Add(frame.HeartBeat, beatHeader(p.source.cfg.HeartBeat))
	}
	p.link.agree(v)
	p.link.stream.limits = p.source.limits
	return p.link.sendFrame(answer)
}

var errVersion = &wireError{"LS4356", "no version of STOMP that the client accepts is spoken here"}

// admits compares in a time that does not depend on what is wrong.
func (a *Auth) admits(h *frame.Header) bool {
	if a == nil {
		return true
	}
	secret, known := a.Users[h.Get(frame.Login)]
	want, got := sha256.Sum256([]byte(secret.Reveal())), sha256.Sum256([]byte(h.Get(frame.Passcode)))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && known
}

// handle works on one frame of a connected client.
func (p *peer) handle(f *frame.Frame) error {
	err := p.work(f)
	if err != nil && !errors.Is(err, errClientLeft) {
		p.refused = f.Header.Get(frame.Receipt)
	}
	return err
}

func (p *peer) work(f *frame.Frame) error {
	receipt := answer{id: f.Header.Get(frame.Receipt)}
	switch f.Command {
	case frame.SEND:
		return p.take(receipt, f)
	case frame.BEGIN:
		if err := p.transactions.begin(f.Header); err != nil {
			return err
		}
	case frame.COMMIT:
		return p.commit(receipt, f.Header)
	case frame.ABORT:
		if _, err := p.transactions.end(f.Header); err != nil {
			return err
		}
	case frame.DISCONNECT:
		if err := p.confirm(receipt); err != nil {
			return err
		}
		return errClientLeft
	case frame.SUBSCRIBE, frame.UNSUBSCRIBE, frame.ACK, frame.NACK:
		return &wireError{"LS4353", "this address only receives: nothing can be subscribed to"}
	default:
		return malformed("an unknown command")
	}
	return p.confirm(receipt)
}

// confirm owes the receipt of a frame without a message.
func (p *peer) confirm(a answer) error {
	if a.id == "" {
		return nil
	}
	return p.recv.put(a, 0, func(*bundle) error { return nil })
}

// take receives SEND.
func (p *peer) take(a answer, f *frame.Frame) error {
	d := p.destinations.get(f.Header.Get(frame.Destination))
	if d.refused {
		return &wireError{"LS4353", "this destination is not received here"}
	}
	if _, ok := f.Header.Contains(frame.Transaction); !ok {
		return p.recv.add(a, f, d, true)
	}
	if err := p.transactions.add(f, d, p.source.env.Name, p.recv.time()); err != nil {
		return err
	}
	return p.confirm(a)
}

// commit hands on a transaction in one batch.
func (p *peer) commit(a answer, h *frame.Header) error {
	tx, err := p.transactions.end(h)
	if err != nil {
		return err
	}
	return p.recv.put(a, tx.bytes, func(b *bundle) error {
		b.batch.Messages = append(b.batch.Messages, tx.batch.Messages...)
		b.bytes += tx.bytes
		return nil
	})
}
