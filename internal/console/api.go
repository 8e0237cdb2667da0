package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

const (
	// defaultMessages is how many messages are listed when nobody says how many.
	defaultMessages = 100
	// extendEvery is how many lines are written between two looks at the deadline.
	extendEvery = 256
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", s.live)
	mux.HandleFunc("GET /ready", s.ready)
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /api/v1/status", s.status)
	mux.HandleFunc("GET /api/v1/queue/topics", s.topics)
	mux.HandleFunc("GET /api/v1/queue/messages", s.messages)
	mux.HandleFunc("POST /api/v1/queue/change", s.change)
	mux.HandleFunc("GET /api/v1/dead-letters", s.deadLetters)
	mux.HandleFunc("GET /api/v1/dead-letters/{pipeline}/{number}", s.deadLetter)
	mux.HandleFunc("POST /api/v1/dead-letters/{pipeline}/retry", s.retry)
	mux.HandleFunc("POST /api/v1/dead-letters/{pipeline}/drop", s.drop)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Sprintf("there is nothing at %s %s", r.Method, r.URL.Path))
	})
	return mux
}

// live answers 200 while a restart would not help.
func (s *Server) live(w http.ResponseWriter, _ *http.Request) {
	if st := s.state(); st.State == "failed" {
		fail(w, http.StatusServiceUnavailable, st.Reason)
		return
	}
	answer(w, http.StatusOK, map[string]bool{"live": true})
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	st := s.state()
	code := http.StatusOK
	if !st.Ready {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, st)
}

// Status is the answer of /api/v1/status.
type Status struct {
	Version  string    `json:"version"`
	Revision string    `json:"revision"`
	Started  time.Time `json:"started"`
	// State is starting, ready, stopping or failed, Reason why it is not ready.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Pipelines is empty until the pipelines have started.
	Pipelines []pipelines.Status `json:"pipelines"`
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	e := s.pipelines()
	st := s.state()
	out := Status{
		Version: s.o.Version, Revision: s.o.Revision, Started: s.started,
		State: st.State, Reason: st.Reason, Pipelines: []pipelines.Status{},
	}
	if e != nil {
		out.Pipelines = e.Status()
	}
	answer(w, http.StatusOK, out)
}

func (s *Server) topics(w http.ResponseWriter, r *http.Request) {
	stats, err := s.reader.Topics(r.Context())
	if err != nil {
		failWith(w, err)
		return
	}
	answer(w, http.StatusOK, stats)
}

func (s *Server) messages(w http.ResponseWriter, r *http.Request) {
	p := params{r: r}
	q := MessageQuery{
		Topic: p.text("topic"), From: p.number("from", 0), Since: p.instant("since"), Limit: p.count("limit", defaultMessages), Content: p.truth("payload"),
		ID: p.text("id"), Key: p.text("key"), Headers: r.URL.Query()["header"],
	}
	if p.err == nil && q.Topic == "" {
		p.err = errors.New("topic is missing; add ?topic=NAME, /api/v1/queue/topics lists the names")
	}
	if p.err != nil {
		fail(w, http.StatusBadRequest, p.err.Error())
		return
	}
	l := newLines(w)
	l.end(s.reader.Messages(r.Context(), q, func(m QueuedMessage) error { return l.write(m) }))
}

func (s *Server) deadLetters(w http.ResponseWriter, r *http.Request) {
	p := params{r: r}
	q := DeadLetterQuery{Pipeline: p.text("pipeline"), Code: p.text("code"), Limit: p.count("limit", 0)}
	if p.err != nil {
		fail(w, http.StatusBadRequest, p.err.Error())
		return
	}
	l := newLines(w)
	l.end(s.reader.DeadLetters(r.Context(), q, func(d pipelines.DeadLetter) error { return l.write(d) }))
}

func (s *Server) deadLetter(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.ParseUint(r.PathValue("number"), 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, "the number of a dead letter is digits")
		return
	}
	d, err := s.reader.DeadLetter(r.Context(), r.PathValue("pipeline"), number)
	if err != nil {
		failWith(w, err)
		return
	}
	answer(w, http.StatusOK, d)
}

// params reads query parameters and keeps the first mistake.
type params struct {
	r   *http.Request
	err error
}

func (p *params) text(name string) string { return p.r.URL.Query().Get(name) }

func (p *params) number(name string, fallback uint64) uint64 {
	text := p.text(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s must be a whole number, such as %s=10", name, name)
	}
	return n
}

func (p *params) count(name string, fallback int) int {
	n := p.number(name, uint64(fallback))
	return int(min(n, 1<<31-1))
}

func (p *params) truth(name string) bool {
	text := p.text(name)
	if text == "" {
		return false
	}
	b, err := strconv.ParseBool(text)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s must be true or false", name)
	}
	return b
}

func (p *params) instant(name string) (t time.Time) {
	if text := p.text(name); text != "" {
		var err error
		if t, err = time.Parse(time.RFC3339, text); err != nil && p.err == nil {
			p.err = fmt.Errorf("%s must be an instant, such as %s=2026-01-31T12:00:00Z", name, name)
		}
	}
	return t
}

// lines writes one JSON object a line. The status is sent with the first one, so
// that an error before it still has its own.
type lines struct {
	w       http.ResponseWriter
	encoder *json.Encoder
	written int
}

func newLines(w http.ResponseWriter) *lines { return &lines{w: w, encoder: NewEncoder(w)} }

func (l *lines) write(v any) error {
	if l.written == 0 {
		l.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	if l.written++; l.written%extendEvery == 0 {
		// A long list may take long, a client that does not read may not.
		_ = http.NewResponseController(l.w).SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	return l.encoder.Encode(v)
}

func (l *lines) end(err error) {
	switch {
	case err != nil && l.written > 0:
		_ = l.encoder.Encode(problem{err.Error()})
	case err != nil:
		failWith(l.w, err)
	case l.written == 0:
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.WriteHeader(http.StatusOK)
	}
}

// problem is the body of every refusal.
type problem struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = NewEncoder(w).Encode(v) // the client is gone
}

func fail(w http.ResponseWriter, code int, text string) { answer(w, code, problem{text}) }

func failWith(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrInUse):
		code = http.StatusConflict
	case errors.Is(err, queue.ErrUnknownSubscription), errors.Is(err, queue.ErrUnknownTopic), errors.Is(err, ErrNoTopic), errors.Is(err, ErrNoDeadLetter), errors.Is(err, pipelines.ErrUnknownPipeline):
		code = http.StatusNotFound
	case errors.Is(err, queue.ErrClosed), errors.Is(err, queue.ErrStorageFailed), errors.Is(err, context.Canceled):
		code = http.StatusServiceUnavailable
	}
	fail(w, code, err.Error())
}
