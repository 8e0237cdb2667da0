package http

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/linkspan/linkspan/message"
)

// statusHeader is the header of a reply that says with which status it is answered.
const statusHeader = "http-status"

// request hands a message on and answers with the pipeline's reply to it.
func (s *source) request(ctx context.Context, next message.Handler, k *work, w http.ResponseWriter, r *http.Request) {
	waiting := s.env.Replies.Expect()
	defer waiting.Close()
	k.batch.Messages[0].CorrelationID = waiting.CorrelationID
	if a := s.handOn(ctx, next, k, r); a != nil {
		a.write(w)
		return
	}
	limit := s.cfg.Reply.Timeout
	if limit == 0 {
		limit = replyTimeout
	}
	waits, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(r.Context(), cancel) //nolint:contextcheck // the request's context ends when its client leaves
	defer stop()
	reply, err := waiting.Wait(waits)
	reason, failed := errors.AsType[*message.Reason](err)
	switch {
	case err == nil:
		respond(w, &reply)
	case failed:
		refuse(http.StatusBadGateway, reason.Code, reason.Text).write(w)
	case ctx.Err() != nil:
		stopping().write(w)
	default:
		refuse(http.StatusGatewayTimeout, "no_reply", "the request was taken; no reply to it came in time").write(w)
	}
}

// respond writes a reply. Headers that frame the response, and those that HTTP cannot
// carry, are left out: the message is with its receiver, so it cannot be refused.
func respond(w http.ResponseWriter, m *message.Message) {
	h := w.Header()
	status := http.StatusOK
	for _, x := range m.Headers {
		value := x.Value.Text()
		switch {
		case x.Name == statusHeader:
			if n, err := strconv.Atoi(value); err == nil && n >= 200 && n <= 599 {
				status = n
			}
		case validName(x.Name) && validValue(value) && !reserved(x.Name):
			h.Add(x.Name, value)
		}
	}
	contentType := m.ContentType
	if contentType == "" || !validValue(contentType) {
		contentType = "application/octet-stream"
	}
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusNoContent || status == http.StatusNotModified {
		limitWrite(w)
		w.WriteHeader(status)
		return
	}
	writeBody(w, status, m.Payload)
}
