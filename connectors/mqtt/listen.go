package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/accept"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// stopGrace is how long hand-overs under way may go on after a stop.
	stopGrace = 5 * time.Second
	// maxPacketLimit is the largest packet of the protocol.
	maxPacketLimit = 256 << 20
	// maxWill is the largest will of a client of our own.
	maxWill = 64 << 10
	// packetOverhead is what a packet may have beside the payload.
	packetOverhead = 64 << 10
)

// newSource makes the end that the configuration asks for.
func newSource(cfg SourceConfig, env connectors.Env, sessions *book) (connectors.Source, error) {
	if env.MaxMessage > 0 {
		cfg.MaxPacket = min(cfg.MaxPacket, config.Size(env.MaxMessage+packetOverhead))
	}
	if cfg.Listen == "" {
		return newDialSource(cfg, env, sessions), nil
	}
	return &listenSource{cfg: cfg, env: env, bundles: newBundles(), peers: map[*peer]struct{}{}}, nil
}

// listenSource accepts clients.
type listenSource struct {
	cfg     SourceConfig
	env     connectors.Env
	bundles *sync.Pool
	station *station
	tls     *tls.Config

	// logged is when a connection's end was last logged, in Unix nanoseconds: hostile
	// clients must not fill the log.
	logged atomic.Int64
	// held counts the bytes of all batches that are not handed on.
	held atomic.Int64

	mu    sync.Mutex
	peers map[*peer]struct{}
}

func (s *listenSource) owner() string { return s.env.Pipeline + ": in." + s.env.Name }

// Bind implements connectors.Binder.
func (s *listenSource) Bind(ctx context.Context) error {
	if server := s.cfg.TLS.Server(); server != nil {
		conf, err := server.Config(nil)
		if err != nil {
			return err
		}
		s.tls = conf
	}
	ln, err := s.env.Listeners.Open(ctx, "mqtt", s.cfg.Listen, func(ln net.Listener) any { return newStation(ln) })
	if err != nil {
		return err
	}
	st, ok := ln.Shared.(*station)
	if !ok {
		return fmt.Errorf("listen on %s: the address is used by something else", s.cfg.Listen)
	}
	if err := st.place.Claim(s.owner(), s.cfg.Listen); err != nil {
		return err
	}
	s.station = st
	return nil
}

// Run implements connectors.Source.
func (s *listenSource) Run(ctx context.Context, next message.Handler) error {
	if s.station == nil {
		if err := s.Bind(ctx); err != nil {
			return err
		}
	}
	leave, ok := s.station.place.Take(ctx)
	if !ok {
		return nil
	}
	defer leave()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group := run.NewGroup(work)
	err := accept.Loop(ctx, s.station.ln, s.env.Logger, func(conn net.Conn) { s.admit(ctx, group, next, conn) })
	s.stop()
	grace := time.AfterFunc(stopGrace, cancel)
	defer grace.Stop()
	return errors.Join(err, group.Wait())
}

// admit starts serving a connection, or closes it when there are too many.
func (s *listenSource) admit(ctx context.Context, group *run.Group, next message.Handler, conn net.Conn) {
	if s.tls != nil {
		conn = tls.Server(conn, s.tls)
	}
	p := newPeer(s, conn, group, next)
	s.mu.Lock()
	full := len(s.peers) >= s.cfg.MaxConnections
	if !full {
		s.peers[p] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		s.env.Logger.LogAttrs(ctx, slog.LevelWarn, "connection refused: max_connections is reached", slog.Int("max_connections", s.cfg.MaxConnections))
		_ = conn.Close()
		return
	}
	group.Go("mqtt connection", p.serve)
}

// stop lets every connection answer what was handed on, and end.
func (s *listenSource) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.peers {
		p.end(reasonStopping)
	}
}

func (s *listenSource) forget(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
}

// allows reports whether topic is received here.
func (s *listenSource) allows(topic string) bool {
	for _, f := range s.cfg.Topics {
		if matches(f, topic) {
			return true
		}
	}
	return false
}

// refuseListen says how to answer a client whose message was not taken over. An
// answer without success ends the matter for a client of MQTT 5, so it is given only
// where sending again makes no sense or the client itself must decide; in all other
// cases the connection ends, and the client sends again.
func refuseListen(err error, version byte) (reason byte, ok bool) {
	if version < version5 {
		return 0, false
	}
	var r *message.Reason
	switch {
	case errors.Is(err, message.ErrFull), errors.Is(err, message.ErrDiskFull):
		return reasonQuota, true
	case errors.Is(err, message.ErrTooLarge):
		return reasonImplementation, true
	case errors.As(err, &r):
		return reasonPayloadFormat, true
	default:
		return 0, false
	}
}
