package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/linkspan/linkspan/pipelines"
)

const (
	// chunkEntries and chunkBytes bound what one unit of a retry holds in memory.
	chunkEntries = 1000
	chunkBytes   = 16 << 20
)

// Decision is the body of retry and drop.
type Decision struct {
	// Numbers name the entries. All takes every entry that is there at the moment, with
	// Code those of one code. Exactly one of Numbers and All is given.
	Numbers []uint64 `json:"numbers,omitempty"`
	All     bool     `json:"all,omitempty"`
	Code    string   `json:"code,omitempty"`
}

func (d *Decision) check() error {
	switch {
	case d.All == (len(d.Numbers) > 0):
		return errors.New(`exactly one of numbers and all is needed: {"numbers":[1,2]} or {"all":true}`)
	case d.Code != "" && !d.All:
		return errors.New(`code goes with all: {"all":true,"code":"LS2401"}`)
	}
	return nil
}

// Decided is the answer of retry and drop: how many entries were there.
type Decided struct {
	Count int `json:"count"`
}

func (s *Server) retry(w http.ResponseWriter, r *http.Request) {
	s.decide(w, r, func(e Engine) decider { return e.RetryDeadLetters })
}

func (s *Server) drop(w http.ResponseWriter, r *http.Request) {
	s.decide(w, r, func(e Engine) decider { return e.DropDeadLetters })
}

type decider func(ctx context.Context, pipeline string, numbers []uint64) (int, error)

func (s *Server) decide(w http.ResponseWriter, r *http.Request, by func(Engine) decider) {
	var d Decision
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			fail(w, http.StatusRequestEntityTooLarge, "the body is too large; use several requests, or all")
			return
		}
		fail(w, http.StatusBadRequest, `the body must be {"numbers":[1,2]} or {"all":true}`)
		return
	}
	if err := d.check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	e := s.pipelines()
	if e == nil {
		fail(w, http.StatusServiceUnavailable, "the pipelines have not started yet; try again in a moment")
		return
	}
	decide := by(e)
	count, err := s.apply(r.Context(), r.PathValue("pipeline"), d, func(ctx context.Context, pipeline string, numbers []uint64) (int, error) {
		// Many entries may take longer than one answer may.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		return decide(ctx, pipeline, numbers)
	})
	if err != nil {
		failWith(w, err)
		return
	}
	answer(w, http.StatusOK, Decided{count})
}

// apply decides in chunks, oldest first. The entries of all are fixed before the
// first is touched: one that fails again right away is not taken twice.
func (s *Server) apply(ctx context.Context, pipeline string, d Decision, decide decider) (int, error) {
	if !d.All {
		return decide(ctx, pipeline, d.Numbers)
	}
	var chunks [][]uint64
	size := chunkBytes
	q := DeadLetterQuery{Pipeline: pipeline, Code: d.Code}
	err := s.reader.DeadLetters(ctx, q, func(l pipelines.DeadLetter) error {
		if n := len(chunks); n == 0 || len(chunks[n-1]) == chunkEntries || size+l.Size > chunkBytes {
			chunks, size = append(chunks, nil), 0
		}
		last := len(chunks) - 1
		chunks[last] = append(chunks[last], l.Number)
		size += l.Size
		return nil
	})
	if err != nil {
		return 0, err
	}
	total := 0
	for _, numbers := range chunks {
		n, err := decide(ctx, pipeline, numbers)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
