package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/accept"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// station is what belongs to an address and outlives the sources that use it: who is
// its user.
type station struct {
	ln    net.Listener
	place *accept.Place
}

func newStation(ln net.Listener) *station {
	return &station{ln: ln, place: accept.NewPlace()}
}

// listenSource accepts clients.
type listenSource struct {
	cfg     SourceConfig
	env     connectors.Env
	limits  limits
	bundles *sync.Pool
	station *station
	tls     *tls.Config
	// within is how long a client may take to say who it is.
	within time.Duration

	// logged is when a connection's end was last logged, in Unix nanoseconds: hostile
	// clients must not fill the log.
	logged atomic.Int64
	// held counts the bytes of all batches and transactions that are not handed on.
	held atomic.Int64

	mu    sync.Mutex
	peers map[*peer]struct{}
}

func newListenSource(cfg SourceConfig, env connectors.Env, l limits) *listenSource {
	return &listenSource{cfg: cfg, env: env, limits: l, bundles: newBundles(), within: connectWithin, peers: map[*peer]struct{}{}}
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
	ln, err := s.env.Listeners.Open(ctx, "stomp", s.cfg.Listen, func(ln net.Listener) any { return newStation(ln) })
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
	group.Go("stomp connection", p.serve)
}

// stop lets every connection answer what was handed on, and end.
func (s *listenSource) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.peers {
		p.stopping.Store(true)
		p.link.stop()
	}
}

func (s *listenSource) forget(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
}

// allows reports whether a destination is received here.
func (s *listenSource) allows(name string) bool {
	for _, d := range s.cfg.names() {
		prefix, open := strings.CutSuffix(d, "*")
		if name == d || open && strings.HasPrefix(name, prefix) {
			return name != ""
		}
	}
	return false
}
