package http

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/linkspan/linkspan/message"
)

// What a body holds.
const (
	batchNone   = ""
	batchNDJSON = "ndjson"
	batchArray  = "array"
)

const (
	// maxBatch bounds the messages of one body.
	maxBatch = 10_000
	// maxListed bounds the refused messages that an answer names.
	maxListed = 100
)

// split makes a message of each element of the body. Each has the id of the request
// with its own index, so that a request that is sent again repeats the same ids.
func (s *source) split(k *work) *answer {
	var parts [][]byte
	var err error
	if s.cfg.Batch == batchNDJSON {
		parts, err = splitLines(k.body)
	} else {
		parts, err = splitArray(k.body)
	}
	switch {
	case err != nil:
		return refuse(http.StatusBadRequest, "bad_batch", err.Error())
	case len(parts) == 0:
		return refuse(http.StatusBadRequest, "bad_batch", "the body has no element")
	}
	whole := k.batch.Messages[0]
	for _, h := range whole.Headers {
		if strings.EqualFold(h.Name, "linkspan-id") {
			return refuse(http.StatusBadRequest, "bad_batch", "linkspan-id would be the id of every element; send Idempotency-Key")
		}
	}
	k.batch.Messages = k.batch.Messages[:0]
	for i, part := range parts {
		m := whole
		m.ID, m.Payload, m.ContentType = whole.ID+"/"+strconv.Itoa(i), part, "application/json"
		k.batch.Messages = append(k.batch.Messages, m)
	}
	return nil
}

var (
	errElements = errors.New("the body has more than " + strconv.Itoa(maxBatch) + " elements")
	errNoArray  = errors.New("the body is not a JSON array")
)

// splitLines cuts NDJSON. Empty lines are nothing.
func splitLines(body []byte) (parts [][]byte, err error) {
	for line := range bytes.SplitSeq(body, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if len(parts) == maxBatch {
			return nil, errElements
		}
		parts = append(parts, line)
	}
	return parts, nil
}

// splitArray cuts a JSON array into the bytes of its elements.
func splitArray(body []byte) (parts [][]byte, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '[' {
		return nil, errNoArray
	}
	for d.PeekKind() != ']' {
		if len(parts) == maxBatch {
			return nil, errElements
		}
		v, err := d.ReadValue()
		if err != nil {
			return nil, errNoArray
		}
		parts = append(parts, bytes.Clone(v))
	}
	if _, err := d.ReadToken(); err != nil || len(bytes.TrimSpace(body[d.InputOffset():])) > 0 {
		return nil, errNoArray
	}
	return parts, nil
}

// answerBatch translates the outcome of a body with several messages. What was refused
// is named by its index; the rest is stored, and sending the request again with its
// Idempotency-Key gives it the same ids.
func answerBatch(w http.ResponseWriter, id string, n int, err error) {
	partial, ok := errors.AsType[*message.PartialError](err)
	switch {
	case err == nil:
		writeBatch(w, http.StatusAccepted, `{"status":"accepted","id":`, id, n, nil)
	case ok && len(partial.Failed) > 0:
		worst := answerTo(partial.Failed[0].Err)
		for _, f := range partial.Failed {
			if a := answerTo(f.Err); a.status >= http.StatusInternalServerError {
				worst = a // what the client may send again counts
			}
		}
		writeBatch(w, worst.status, `{"status":"partial","id":`, id, n-len(partial.Failed), partial.Failed)
	default:
		answerTo(err).write(w)
	}
}

func writeBatch(w http.ResponseWriter, status int, head, id string, accepted int, refused []message.Failed) {
	w.Header().Set("Content-Type", "application/json")
	body := append([]byte(head), quote(id)...)
	body = append(body, `,"accepted":`...)
	body = strconv.AppendInt(body, int64(accepted), 10)
	if len(refused) > 0 {
		body = append(body, `,"refused":`...)
		body = strconv.AppendInt(body, int64(len(refused)), 10)
		body = append(body, `,"errors":[`...)
		for i, f := range refused[:min(len(refused), maxListed)] {
			if i > 0 {
				body = append(body, ',')
			}
			a := answerTo(f.Err)
			body = append(body, `{"index":`...)
			body = strconv.AppendInt(body, int64(f.Index), 10)
			body = append(append(body, `,"error":`...), quote(a.code)...)
			body = append(append(body, `,"message":`...), quote(a.text)...)
			body = append(body, '}')
		}
		body = append(body, ']')
	}
	writeBody(w, status, append(body, "}\n"...))
}

// handOnBatch is handOn for a body with several messages.
func (s *source) handOnBatch(ctx context.Context, next message.Handler, k *work, w http.ResponseWriter, r *http.Request) {
	id := k.batch.Messages[0].ID
	if a := s.split(k); a != nil {
		a.write(w)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Wait)
	defer cancel()
	stop := context.AfterFunc(r.Context(), cancel) //nolint:contextcheck // the request's context ends when its client leaves
	defer stop()
	n := len(k.batch.Messages)
	answerBatch(w, id, n, next.Handle(ctx, &k.batch))
}
