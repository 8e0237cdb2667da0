// Package console is the admin server of a running linkspan: health, metrics and an
// HTTP API to look into the queue and to decide about dead letters. It is a read
// model: what it shows belongs to the pipelines and the queue, and it keeps nothing.
//
// It guarantees that nothing under /api is answered without the token of this run,
// that a request whose Host header names somebody else is refused (DNS rebinding),
// that payloads, keys and header values are shown on request only, and that an
// address other machines can reach is served with TLS or not at all. It answers from
// before the pipelines start until after they have stopped.
//
//	GET  /live                                     200, or 503 when the queue's storage has failed
//	GET  /ready                                    200, or 503 with the reason
//	GET  /metrics                                  Prometheus text
//	GET  /api/v1/status                            every pipeline
//	GET  /api/v1/queue/topics                      every topic with its subscriptions
//	GET  /api/v1/queue/messages?topic=T            one JSON object a line; from, limit (default 100), payload=true
//	GET  /api/v1/dead-letters                      one JSON object a line; pipeline, code, limit
//	GET  /api/v1/dead-letters/{pipeline}/{number}  one entry with its message
//	POST /api/v1/dead-letters/{pipeline}/retry     {"numbers":[1,2]} or {"all":true,"code":"LS2401"}
//	POST /api/v1/dead-letters/{pipeline}/drop      the same
//
// Errors are JSON: {"error": "..."}. An error after the first line of a list is the
// last line of it, in the same form.
package console

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = time.Minute
	maxHeaderBytes    = 16 << 10
	maxBody           = 1 << 20
	// closeGrace is how long requests under way may go on when the process ends.
	closeGrace = 2 * time.Second
)

// Engine is what the console reads. It is implemented by *pipelines.Engine.
type Engine interface {
	Ready() bool
	Status() []pipelines.Status
	RetryDeadLetters(ctx context.Context, pipeline string, numbers []uint64) (int, error)
	DropDeadLetters(ctx context.Context, pipeline string, numbers []uint64) (int, error)
}

// Options are what a Server is made of.
type Options struct {
	// Address is host:port. Port 0 takes a free one.
	Address string
	// TLS serves HTTPS. It must be given when Address is not a loopback address.
	TLS *tlsconf.Server
	// DataDir is where the address and the token are written for the command line.
	DataDir string
	// Queue is open already.
	Queue queue.Engine
	// Rotate makes the queue go on with other keys; a file with another master key may be
	// named. Nil: the queue cannot.
	Rotate func(ctx context.Context, keyFile string) error
	// Version and Revision are shown by /api/v1/status and the metrics.
	Version, Revision string
	Logger            *slog.Logger
}

// CheckAddress says why an address cannot be used, or nil. It opens nothing.
func CheckAddress(address string, tls bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address to listen on; write host:port, such as 127.0.0.1:5480", address)
	}
	if !tls && !loopback(host) {
		return fmt.Errorf("the admin address %s can be reached from other machines and would send its token in the clear; "+
			"use 127.0.0.1, or give a certificate with --admin-cert and --admin-key", address)
	}
	return nil
}

// Server answers from Listen until Close. It is safe for concurrent use.
type Server struct {
	o       Options
	reader  Reader
	token   string
	ln      net.Listener
	http    *http.Server
	group   *run.Group
	started time.Time

	engine atomic.Pointer[attached]
	// running is set once the engine has been ready: before that it must not be asked.
	running  atomic.Bool
	stopping atomic.Bool
}

type attached struct{ Engine }

// Listen opens the address, writes DATA/admin and begins to answer: /live with 200
// and /ready with 503 until an engine is attached and ready.
func Listen(ctx context.Context, o Options) (*Server, error) {
	if err := CheckAddress(o.Address, o.TLS != nil); err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, by its documentation
	s := &Server{o: o, reader: Reader{Queue: o.Queue}, token: hex.EncodeToString(secret), started: time.Now()}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; stop what uses the address, or choose another", o.Address, cause(err))
	}
	s.ln = ln
	if err := s.serve(ctx); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	if err := replaceAdminFile(o.DataDir, s.adminFile()); err != nil {
		// A full disk must not keep the bridge from delivering what would free it.
		o.Logger.LogAttrs(ctx, slog.LevelWarn, "the admin file cannot be written; the verbs queue and dlq cannot reach this run",
			slog.String("file", adminPath(o.DataDir)), slog.String("error", err.Error()))
	}
	return s, nil
}

func (s *Server) serve(ctx context.Context) error {
	g := newGuard(s.ln.Addr(), s.token)
	s.http = &http.Server{
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// What net/http says quotes what clients sent.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	serve := func() error { return s.http.Serve(s.ln) }
	if s.o.TLS != nil {
		conf, err := s.o.TLS.Config([]string{"h2", "http/1.1"})
		if err != nil {
			return err
		}
		if g.cert, err = leafOf(s.o.TLS.Cert); err != nil {
			return err
		}
		s.http.TLSConfig = conf
		serve = func() error { return s.http.ServeTLS(s.ln, "", "") }
	}
	s.http.Handler = g.wrap(s.routes())
	s.group = run.NewGroup(context.WithoutCancel(ctx))
	s.group.Go("admin server", func(ctx context.Context) error {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			s.o.Logger.LogAttrs(ctx, slog.LevelError, "the admin server ended", slog.String("error", err.Error()))
		}
		return nil
	})
	return nil
}

// Address is where the server listens, with the port that was taken.
func (s *Server) Address() string { return s.ln.Addr().String() }

// Attach gives the server the engine that is about to run.
func (s *Server) Attach(e Engine) { s.engine.Store(&attached{e}) }

// Stopping makes /ready say so, before the engine does.
func (s *Server) Stopping() { s.stopping.Store(true) }

// Close removes DATA/admin, lets the requests under way end for a moment, and waits
// for everything that the server started.
func (s *Server) Close(ctx context.Context) error {
	err := removeAdminFile(s.o.DataDir, s.token)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if shutdown := s.http.Shutdown(ctx); shutdown != nil {
		_ = s.http.Close() // a client that does not read
	}
	return errors.Join(err, s.group.Wait())
}

// state says how far the process is: ready, or why it is not.
type state struct {
	Ready  bool   `json:"ready"`
	State  string `json:"state"` // starting, ready, stopping, failed
	Reason string `json:"reason,omitempty"`
}

func (s *Server) state() state {
	e := s.engine.Load()
	ready := e != nil && e.Ready()
	if ready {
		s.running.Store(true)
	}
	err := s.o.Queue.Health()
	switch {
	case err != nil && !errors.Is(err, queue.ErrClosed):
		return state{State: "failed", Reason: err.Error()}
	case s.stopping.Load() || s.running.Load() && !ready:
		return state{State: "stopping", Reason: "the pipelines are being stopped; what is not delivered stays in the queue"}
	case !ready:
		return state{State: "starting", Reason: "the pipelines are being started"}
	}
	return state{Ready: true, State: "ready"}
}

// pipelines returns the engine once it may be asked, else nil: while it binds its
// addresses and topics, it is not safe to read.
func (s *Server) pipelines() Engine {
	s.state()
	if e := s.engine.Load(); e != nil && s.running.Load() {
		return e.Engine
	}
	return nil
}

// cause leaves out what the sentence around it says already.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func loopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func leafOf(file string) (*x509.Certificate, error) {
	raw, err := firstCertificate(file)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(raw)
}
