package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	writeTimeout      = 10 * time.Second
	maxHeaderBytes    = 32 << 10
	// stopGrace is how long requests under way may go on after a source was stopped.
	stopGrace = 5 * time.Second
)

// server is what the sources on one address share. It starts with the first source
// that runs and lives as long as the address, which belongs to the deployment: while
// one source restarts, the others go on, and connections stay open across a reload.
type server struct {
	ln net.Listener

	mu sync.RWMutex
	// paths are served now. Claims are paths that a source has bound and does not
	// serve yet. Known are those that were ever served: they are answered with 503, not
	// 404, while nobody serves them.
	paths  map[string]*endpoint
	claims map[string]string
	known  map[string]bool
	tls    *tlsconf.Server
	bound  bool
	http   *http.Server
	group  *run.Group
	// ended is closed when the accept loop has ended.
	ended chan struct{}
}

// endpoint is one source on the server.
type endpoint struct {
	owner string
	gate  *gate
	serve http.HandlerFunc
}

func newServer(ln net.Listener) *server {
	return &server{ln: ln, paths: map[string]*endpoint{}, claims: map[string]string{}, known: map[string]bool{}}
}

// claim reserves a path for its owner until it runs.
func (s *server) claim(path, owner string, tls *tlsconf.Server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.claims[path]; ok && other != owner {
		return fmt.Errorf("receive %s on %s: %s receives it already; give one of them another path", path, s.ln.Addr(), other)
	}
	if s.bound && !sameTLS(s.tls, tls) {
		return fmt.Errorf("receive %s on %s: another input has other TLS files on this address; make them equal", path, s.ln.Addr())
	}
	s.claims[path], s.tls, s.bound = owner, tls, true
	return nil
}

func sameTLS(a, b *tlsconf.Server) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// add serves an endpoint, and starts the server when it does not run. The channel
// is closed when the server has ended.
func (s *server) add(ctx context.Context, path string, e *endpoint, log *slog.Logger) (ended <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.paths[path]; ok && other.owner != e.owner {
		return nil, fmt.Errorf("receive %s on %s: %s receives it already", path, s.ln.Addr(), other.owner)
	}
	if err := s.start(ctx, log); err != nil {
		return nil, err
	}
	delete(s.claims, path)
	s.paths[path], s.known[path] = e, true
	return s.ended, nil
}

// remove takes an endpoint out, unless its successor is there already.
func (s *server) remove(path string, e *endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paths[path] == e {
		delete(s.paths, path)
	}
}

// start begins to accept. The goroutine belongs to the server and not to the
// source that happened to be first, so its context does not end with that source.
func (s *server) start(ctx context.Context, log *slog.Logger) error {
	if s.http != nil {
		return nil
	}
	s.http = &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            readHeaderTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(quietHandler{log.Handler()}, slog.LevelDebug),
	}
	serve := func() error { return s.http.Serve(s.ln) }
	if s.tls != nil {
		conf, err := s.tls.Config([]string{"h2", "http/1.1"})
		if err != nil {
			s.http = nil
			return err
		}
		s.http.TLSConfig = conf
		serve = func() error { return s.http.ServeTLS(s.ln, "", "") }
	}
	s.group = run.NewGroup(context.WithoutCancel(ctx))
	s.ended = make(chan struct{})
	s.group.Go("http server", func(context.Context) error {
		defer close(s.ended)
		if err := serve(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on %s: %w", s.ln.Addr(), err)
		}
		return nil
	})
	return nil
}

// Close implements io.Closer for connectors.Listeners: it ends the server and
// waits for it.
func (s *server) Close() error {
	s.mu.RLock()
	server, group := s.http, s.group
	s.mu.RUnlock()
	if server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(group.Context()), stopGrace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		// What is still open after the grace is a client that does not read or write.
		_ = server.Close()
	}
	return group.Wait()
}

// find returns the endpoint of a path: the exact one, else that of the longest
// prefix. Known says that the path was served before.
func (s *server) find(path string) (e *endpoint, known bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e, ok := s.paths[path]; ok {
		return e, true
	}
	known = s.known[path]
	for dir := path; ; {
		slash := strings.LastIndexByte(dir, '/')
		if slash < 0 {
			return nil, known
		}
		dir = dir[:slash]
		if e, ok := s.paths[dir+"/*"]; ok {
			return e, true
		}
		known = known || s.known[dir+"/*"]
	}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The connection may still have the deadline of the answer before. How long this one
	// takes is decided by read_timeout, wait and the timeout of a reply. The error means
	// that the connection cannot have deadlines, which only tests bring about.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	e, known := s.find(r.URL.Path)
	switch {
	case e == nil && known:
		stopping().write(w)
	case e == nil:
		refuse(http.StatusNotFound, "not_found", "nothing receives at this path").write(w)
	default:
		switch e.gate.enter() {
		case gateOpen:
			defer e.gate.leave()
			e.serve(w, r)
		case gateFull:
			busy().write(w)
		case gateClosed:
			stopping().write(w)
		}
	}
}

// quietHandler passes on that net/http has something to say, and not what: its
// texts quote what clients sent.
type quietHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	text, level := "http connection ended", slog.LevelDebug
	switch {
	case strings.Contains(r.Message, "TLS handshake error"):
		text = "TLS handshake failed"
	case strings.Contains(r.Message, "Accept error"):
		text, level = "accept failed, trying again", slog.LevelWarn
	case strings.Contains(r.Message, "panic"):
		text, level = "http request ended by an internal error", slog.LevelError
	}
	if !h.Enabled(ctx, level) {
		return nil
	}
	return h.Handler.Handle(ctx, slog.NewRecord(r.Time, level, text, 0))
}
