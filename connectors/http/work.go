package http

import (
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/linkspan/linkspan/message"
)

const (
	// keepBody is the largest body buffer that is kept for the next request.
	keepBody = 64 << 10
	// maxID is the longest Idempotency-Key that is taken, in bytes.
	maxID = 255
	// replyTimeout is how long a request waits for its reply unless it is said.
	replyTimeout = 30 * time.Second
)

// work is what one request needs, used again by later ones.
type work struct {
	batch   message.Batch
	headers message.Headers
	body    []byte
}

func (s *source) recycle(k *work) {
	if cap(k.body) > keepBody {
		k.body = nil
	}
	clear(k.headers)
	k.headers, k.body = k.headers[:0], k.body[:0]
	k.batch.Messages = k.batch.Messages[:1]
	k.batch.Messages[0] = message.Message{}
	s.works.Put(k)
}

// read takes the request into k's message.
func (s *source) read(ctx context.Context, k *work, w http.ResponseWriter, r *http.Request) *answer {
	id, ok := idOf(r)
	if !ok {
		return refuse(http.StatusBadRequest, "bad_idempotency_key", "the Idempotency-Key must have 1 to 255 visible ASCII characters")
	}
	control := http.NewResponseController(w)
	// Deadlines can be set on every connection that net/http serves.
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout))
	stop := context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(time.Now()) })
	defer stop()
	if err := s.readBody(k, w, r); err != nil {
		return bodyAnswer(ctx, err)
	}
	k.headers = appendHeaders(k.headers, r.Header)
	k.batch.Messages[0] = message.Message{
		ID: id, Topic: r.URL.Path, Time: time.Now(), ContentType: r.Header.Get("Content-Type"),
		Priority: message.NormalPriority, Source: s.env.Name, Attempt: 1, Headers: k.headers, Payload: k.body,
	}
	return nil
}

var errInflated = errors.New("the body is too large once it is inflated")

func (s *source) readBody(k *work, w http.ResponseWriter, r *http.Request) error {
	body := io.Reader(http.MaxBytesReader(w, r.Body, s.maxBody))
	var err error
	if !strings.EqualFold(r.Header.Get("Content-Encoding"), "gzip") {
		k.body, err = readAll(k.body, body, r.ContentLength)
		return err
	}
	z := s.gzips.Get().(*gzip.Reader)
	defer s.gzips.Put(z)
	if err := z.Reset(body); err != nil {
		return err
	}
	k.body, err = readAll(k.body, io.LimitReader(z, s.maxBody+1), 0)
	if err == nil && int64(len(k.body)) > s.maxBody {
		return errInflated
	}
	return err
}

// readAll reads to the end. The buffer grows as bytes arrive, not by what a client
// claims will come.
func readAll(buf []byte, r io.Reader, hint int64) ([]byte, error) {
	if want := int(min(hint, keepBody-1)) + 1; cap(buf) < max(want, 512) {
		buf = make([]byte, 0, max(want, 512))
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

func bodyAnswer(ctx context.Context, err error) *answer {
	var large *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &large), errors.Is(err, errInflated):
		return tooLarge()
	case ctx.Err() != nil:
		return stopping()
	case errors.As(err, &timeout) && timeout.Timeout():
		return &answer{status: http.StatusRequestTimeout, code: "timeout", text: "the body did not arrive in time", close: true}
	default:
		return &answer{status: http.StatusBadRequest, code: "bad_body", text: "the body cannot be read", close: true}
	}
}

// handOn gives the message to the pipeline and waits for its decision, or for the
// client to leave.
func (s *source) handOn(ctx context.Context, next message.Handler, k *work, r *http.Request) *answer {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Wait)
	defer cancel()
	stop := context.AfterFunc(r.Context(), cancel) //nolint:contextcheck // the request's context ends when its client leaves
	defer stop()
	return answerTo(next.Handle(ctx, &k.batch))
}

// idOf returns the client's Idempotency-Key, without the quotes of a structured
// field, or a new id.
func idOf(r *http.Request) (id string, ok bool) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return newID(time.Now()), true
	}
	id = values[0]
	if len(id) >= 2 && id[0] == '"' && id[len(id)-1] == '"' {
		id = id[1 : len(id)-1]
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return "", false
		}
	}
	return id, len(values) == 1 && id != "" && len(id) <= maxID
}

// newID returns a UUID of version 7 (RFC 9562): ids sort by time.
func newID(now time.Time) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(b[:6], ms[2:])
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], b[0:4])
	hex.Encode(text[9:13], b[4:6])
	hex.Encode(text[14:18], b[6:8])
	hex.Encode(text[19:23], b[8:10])
	hex.Encode(text[24:], b[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
