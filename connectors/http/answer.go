package http

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/message"
)

// answer is a response that refuses. Its texts never quote the request.
type answer struct {
	status     int
	code, text string
	// after is the number of seconds for Retry-After; zero: no header.
	after int
	// close ends the connection, because the request was not read to its end.
	close bool
	// header is one more header, such as Allow.
	header, value string
}

func refuse(status int, code, text string) *answer {
	return &answer{status: status, code: code, text: text}
}

func stopping() *answer {
	return &answer{status: http.StatusServiceUnavailable, code: "stopping", text: "the receiver is restarting", after: 1, close: true}
}

func busy() *answer {
	return &answer{status: http.StatusServiceUnavailable, code: "full", text: "there is no room for the moment", after: 1}
}

func tooLarge() *answer {
	return &answer{status: http.StatusRequestEntityTooLarge, code: "too_large", text: "the body is larger than what is taken here", close: true}
}

func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if a.after > 0 {
		h.Set("Retry-After", strconv.Itoa(a.after))
	}
	if a.close {
		h.Set("Connection", "close")
	}
	if a.header != "" {
		h.Set(a.header, a.value)
	}
	body := append([]byte(`{"error":`), quote(a.code)...)
	body = append(body, `,"message":`...)
	body = append(body, quote(a.text)...)
	writeBody(w, a.status, append(body, "}\n"...))
}

func accepted(w http.ResponseWriter, id string) {
	w.Header().Set("Content-Type", "application/json")
	body := append(make([]byte, 0, 96), `{"status":"accepted","id":`...)
	body = append(body, quote(id)...)
	writeBody(w, http.StatusAccepted, append(body, "}\n"...))
}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	limitWrite(w)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// The client has left when this fails; it will come again without an answer.
	_, _ = w.Write(body)
}

// limitWrite gives an answer that is ready a time by which the client has read it: one
// that does not read must not hold the connection.
func limitWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // see ServeHTTP for the error
}

// quote returns s as a JSON string. Codes and texts are plain ASCII, ids were
// checked to be; anything else becomes a question mark.
func quote(s string) []byte {
	out := append(make([]byte, 0, len(s)+2), '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', byte(c))
		case c < ' ' || c > '~':
			out = append(out, '?')
		default:
			out = append(out, byte(c))
		}
	}
	return append(out, '"')
}

// answerTo translates the error of a hand-over. A nil answer means accepted.
func answerTo(err error) *answer {
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		if len(partial.Failed) == 0 {
			return nil
		}
		err = partial.Failed[0].Err
	}
	var reason *message.Reason
	var unavailable *message.UnavailableError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, message.ErrTooLarge):
		return tooLarge()
	case errors.Is(err, message.ErrDiskFull):
		return &answer{status: http.StatusInsufficientStorage, code: "disk_full", text: "the disk is full", after: 10}
	case errors.Is(err, message.ErrFull), errors.Is(err, context.DeadlineExceeded):
		return busy()
	case errors.As(err, &reason):
		return answerToReason(reason)
	case errors.As(err, &unavailable):
		a := busy()
		a.after = max(1, int(unavailable.After/time.Second))
		return a
	default:
		return &answer{status: http.StatusServiceUnavailable, code: "unavailable", text: "the message was not stored", after: 1}
	}
}

func answerToReason(r *message.Reason) *answer {
	switch {
	case strings.HasPrefix(r.Code, "LS21"):
		return refuse(http.StatusBadRequest, r.Code, r.Text)
	case strings.HasPrefix(r.Code, "LS2"):
		return refuse(http.StatusUnprocessableEntity, r.Code, r.Text)
	default:
		a := busy()
		a.code, a.text = r.Code, "the message was not stored"
		return a
	}
}
