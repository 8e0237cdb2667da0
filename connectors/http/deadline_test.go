package http

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/message"
)

// timed is a response whose connection has deadlines.
type timed struct {
	*httptest.ResponseRecorder

	events []string
}

// SetWriteDeadline is what http.ResponseController looks for.
func (w *timed) SetWriteDeadline(at time.Time) error {
	if at.IsZero() {
		w.events = append(w.events, "no limit")
	} else {
		w.events = append(w.events, "limit")
	}
	return nil
}

// WriteHeader implements http.ResponseWriter.
func (w *timed) WriteHeader(status int) {
	w.events = append(w.events, "answer")
	w.ResponseRecorder.WriteHeader(status)
}

// TestAnswerHasItsOwnTime: a body that takes longer than the write timeout, or a reply
// that does, must not leave the answer without time to be written. The message would be
// stored, and its sender be told nothing.
func TestAnswerHasItsOwnTime(t *testing.T) {
	r := newRig(t)
	w := &timed{ResponseRecorder: httptest.NewRecorder()}
	next := message.HandlerFunc(func(context.Context, *message.Batch) error {
		w.events = append(w.events, "hand over")
		return nil
	})
	r.start(t, next, nil)
	r.server().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader("x")))
	if want := []string{"no limit", "hand over", "limit", "answer"}; !slices.Equal(w.events, want) {
		t.Errorf("the order is %v, not %v", w.events, want)
	}
}

// TestNoSuchHost: only a certain answer that a host does not exist refuses a message.
func TestNoSuchHost(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&net.DNSError{IsNotFound: true}, true},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, true},
		{&net.DNSError{IsNotFound: true, IsTemporary: true}, false},
		{&net.DNSError{IsTimeout: true}, false},
		{&net.DNSError{}, false},
		{errors.New("refused"), false},
	} {
		if got := noSuchHost(c.err); got != c.want {
			t.Errorf("noSuchHost(%#v) = %t", c.err, got)
		}
	}
}
