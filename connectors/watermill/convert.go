package watermill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/message"
)

// build makes the batch from the messages that were taken.
func (r *receiver) build(now time.Time) {
	s := r.source
	r.batch.Messages = slices.Grow(r.batch.Messages[:0], len(r.taken))
	r.headers = r.headers[:0]
	for _, m := range r.taken {
		r.batch.Messages = append(r.batch.Messages, message.Message{
			ID: m.UUID, Key: s.key, Topic: s.in.Topic, Time: now, Priority: message.NormalPriority,
			Source: s.env.Name, Attempt: 1, Payload: m.Payload,
		})
		to := &r.batch.Messages[len(r.batch.Messages)-1]
		r.readMetadata(m.Metadata, to)
		if s.read != nil {
			s.read(m, to)
		}
	}
}

// readMetadata turns metadata into headers, sorted, so that a message is the same each
// time that it comes.
func (r *receiver) readMetadata(from wm.Metadata, to *message.Message) {
	r.names = r.names[:0]
	for name, value := range from {
		if name == metadataCorrelation {
			to.CorrelationID = value
			continue
		}
		r.names = append(r.names, name)
	}
	if len(r.names) == 0 {
		return
	}
	slices.Sort(r.names)
	start := len(r.headers)
	for _, name := range r.names {
		r.headers = append(r.headers, message.Header{Name: name, Value: message.String(from[name])})
	}
	to.Headers = r.headers[start:len(r.headers):len(r.headers)]
}

// slab is a batch as Watermill has it. A publisher may keep what it is given, so that
// nothing in it is used twice, and the payloads are copies.
type slab struct {
	messages []wm.Message
	payloads []byte
}

func newSlab(b *message.Batch) *slab {
	size := 0
	for i := range b.Messages {
		size += len(b.Messages[i].Payload)
	}
	return &slab{messages: make([]wm.Message, 0, b.Len()), payloads: make([]byte, 0, size)}
}

// add returns the message as Watermill has it. Its metadata is never nil, because
// publishers and their decorators write into it.
func (s *slab) add(ctx context.Context, m *message.Message) *wm.Message {
	s.messages = append(s.messages, wm.Message{UUID: m.ID})
	w := &s.messages[len(s.messages)-1]
	if w.UUID == "" {
		w.UUID = newUUID()
	}
	w.SetContext(ctx)
	start := len(s.payloads)
	s.payloads = append(s.payloads, m.Payload...)
	w.Payload = s.payloads[start:len(s.payloads):len(s.payloads)]
	w.Metadata = make(wm.Metadata, len(m.Headers)+min(len(m.CorrelationID), 1))
	for i := range m.Headers {
		h := &m.Headers[i]
		if _, isSet := w.Metadata[h.Name]; !isSet { // the first of a name, as Headers.Get
			w.Metadata[h.Name] = h.Value.Text()
		}
	}
	if m.CorrelationID != "" {
		w.Metadata[metadataCorrelation] = m.CorrelationID
	}
	return w
}

// newUUID returns a random UUID of version 4 (RFC 9562, section 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var out [36]byte
	at := 0
	for i := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			out[at] = '-'
			at++
		}
		hex.Encode(out[at:], b[i:i+1])
		at += 2
	}
	return string(out[:])
}
