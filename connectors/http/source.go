// Package http connects linkspan to HTTP.
//
// A source answers 202 only after its message was handed on, so a client that
// repeats what was not answered with 2xx delivers at least once. Requests are
// independent: there is no order among them. A sink takes every 2xx as delivered;
// 408, 425, 429, 5xx and network errors mean that the endpoint is unavailable, any
// other answer that it refused the message. Messages of one batch with equal keys
// are sent one after the other, all others at the same time.
package http

import (
	"compress/gzip"
	"context"
	"fmt"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

type source struct {
	cfg     SourceConfig
	env     connectors.Env
	maxBody int64
	server  *server
	gate    *gatekeeper
	works   sync.Pool
	gzips   sync.Pool
}

func newSource(cfg SourceConfig, env connectors.Env) (connectors.Source, error) {
	limit := int64(cfg.MaxBody)
	if limit == 0 {
		limit = 1 << 20
	}
	if env.MaxMessage > 0 {
		limit = min(limit, env.MaxMessage)
	}
	return &source{
		cfg: cfg, env: env, maxBody: limit,
		works: sync.Pool{New: func() any { return &work{batch: message.Batch{Messages: make([]message.Message, 1)}} }},
		gzips: sync.Pool{New: func() any { return &gzip.Reader{} }},
	}, nil
}

// Bind implements connectors.Binder.
func (s *source) Bind(ctx context.Context) error {
	ln, err := s.env.Listeners.Open(ctx, "http", s.cfg.Listen, func(ln net.Listener) any { return newServer(ln) })
	if err != nil {
		return err
	}
	shared, ok := ln.Shared.(*server)
	if !ok {
		return fmt.Errorf("listen on %s: the address is used by something else", s.cfg.Listen)
	}
	if err := shared.claim(s.cfg.Path, s.owner(), s.cfg.TLS); err != nil {
		return err
	}
	s.server = shared
	return nil
}

func (s *source) owner() string { return s.env.Pipeline + ": in." + s.env.Name }

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	if s.server == nil {
		if err := s.Bind(ctx); err != nil {
			return err
		}
	}
	// Requests under way outlive ctx for a while: their clients wait for an answer.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	gate, err := newGatekeeper(requests, s.cfg.Auth)
	if err != nil {
		return err
	}
	s.gate = gate
	e := &endpoint{owner: s.owner(), gate: newGate(s.cfg.MaxInFlight)}
	e.serve = func(w http.ResponseWriter, r *http.Request) { s.serve(requests, next, w, r) }
	ended, err := s.server.add(ctx, s.cfg.Path, e, s.env.Logger)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	s.server.remove(s.cfg.Path, e)
	idle := e.gate.close()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-idle:
	case <-grace.C:
		cancel()
		<-idle
	}
	if ctx.Err() == nil {
		return fmt.Errorf("receive on %s: %w", s.cfg.Listen, net.ErrClosed)
	}
	return nil
}

// serve answers one request.
func (s *source) serve(ctx context.Context, next message.Handler, w http.ResponseWriter, r *http.Request) {
	if a := s.admit(r); a != nil {
		a.write(w)
		return
	}
	k := s.works.Get().(*work)
	defer s.recycle(k)
	if a := s.read(ctx, k, w, r); a != nil {
		a.write(w)
		return
	}
	if sig := s.signature(); sig != nil && !sig.valid(r.Header, k.body, time.Now()) {
		refuse(http.StatusUnauthorized, "bad_signature", "the signature is missing, wrong or too old").write(w)
		return
	}
	switch {
	case s.cfg.Batch != batchNone:
		s.handOnBatch(ctx, next, k, w, r)
		return
	case s.cfg.Reply != nil:
		s.request(ctx, next, k, w, r)
		return
	}
	if a := s.handOn(ctx, next, k, r); a != nil {
		a.write(w)
		return
	}
	accepted(w, k.batch.Messages[0].ID)
}

func (s *source) signature() *Signature {
	if s.cfg.Auth == nil {
		return nil
	}
	return s.cfg.Auth.Signature
}

// admit refuses what can be refused without the body.
func (s *source) admit(r *http.Request) *answer {
	if !slices.Contains(s.cfg.Methods, r.Method) {
		a := refuse(http.StatusMethodNotAllowed, "method_not_allowed", "this method is not taken here")
		a.header, a.value = "Allow", strings.Join(s.cfg.Methods, ", ")
		return a
	}
	if challenge := s.gate.challenge(r); challenge != "" {
		a := refuse(http.StatusUnauthorized, "unauthorized", "valid credentials are needed")
		a.header, a.value, a.close = "WWW-Authenticate", challenge, true
		return a
	}
	if !validPath(r.URL.Path) {
		return refuse(http.StatusBadRequest, "bad_path", "the path has control characters")
	}
	if !s.takes(r.Header.Get("Content-Type")) {
		a := refuse(http.StatusUnsupportedMediaType, "unsupported_media_type", "this content type is not taken here")
		a.close = true
		return a
	}
	if e := strings.Join(r.Header.Values("Content-Encoding"), ","); e != "" && !strings.EqualFold(e, "gzip") && !strings.EqualFold(e, "identity") {
		a := refuse(http.StatusUnsupportedMediaType, "unsupported_content_encoding", "only gzip and identity are taken")
		a.header, a.value, a.close = "Accept-Encoding", "gzip, identity", true
		return a
	}
	if r.ContentLength > s.maxBody {
		return tooLarge()
	}
	if lengthMissing(r) {
		return refuse(http.StatusLengthRequired, "length_required", "send Content-Length, or a chunked body")
	}
	return nil
}

// lengthMissing reports whether an HTTP/1 request that should have a body does not
// say how long it is, which usually means that the body was lost on the way.
func lengthMissing(r *http.Request) bool {
	if r.ProtoMajor != 1 || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.Header.Get("Content-Length") != "" {
		return false
	}
	return r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch
}

func validPath(p string) bool { return validValue(p) && strings.ToValidUTF8(p, "") == p }

func (s *source) takes(contentType string) bool {
	if len(s.cfg.ContentTypes) == 0 {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(s.cfg.ContentTypes, func(pattern string) bool {
		pattern = strings.ToLower(pattern)
		if class, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(media, class)
		}
		return media == pattern
	})
}
