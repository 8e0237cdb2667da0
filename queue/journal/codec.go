package journal

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/linkspan/linkspan/message"
)

// Bits of what a message has. Absent properties take no space.
const (
	hasID = 1 << iota
	hasTopic
	hasContentType
	hasCorrelationID
	hasReplyTo
	hasSource
	hasTime
	hasExpires
	hasHeaders
	hasKey
	hasNotBefore

	hasText = hasID | hasTopic | hasContentType | hasCorrelationID | hasReplyTo | hasSource | hasHeaders
)

// metaSize is the length field in front of the properties.
const metaSize = 4

var errMessage = errors.New("decode message: the bytes are cut or wrong")

// appendMessage encodes a message: the length of the properties, the properties, the
// key, and the payload to the end.
func appendMessage(b []byte, m *message.Message) []byte {
	start := len(b)
	b = append(b, make([]byte, metaSize)...)
	b = binary.AppendUvarint(b, presence(m))
	b = append(b, m.Priority)
	b = binary.AppendVarint(b, int64(m.Attempt))
	for _, s := range []string{m.ID, m.Topic, m.ContentType, m.CorrelationID, m.ReplyTo, m.Source} {
		if s != "" {
			b = appendString(b, s)
		}
	}
	b = appendTime(b, m.Time)
	b = appendTime(b, m.Expires)
	b = appendTime(b, m.NotBefore)
	if len(m.Headers) > 0 {
		b = binary.AppendUvarint(b, uint64(len(m.Headers)))
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		b = appendString(b, h.Name)
		str, num := h.Value.Raw()
		b = append(b, byte(h.Value.Kind()))
		b = appendString(b, str)
		b = binary.AppendUvarint(b, num)
	}
	if m.Key != nil {
		b = binary.AppendUvarint(b, uint64(len(m.Key)))
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-metaSize))
	b = append(b, m.Key...)
	return append(b, m.Payload...)
}

func presence(m *message.Message) (bits uint64) {
	set := func(have bool, bit uint64) {
		if have {
			bits |= bit
		}
	}
	set(m.ID != "", hasID)
	set(m.Topic != "", hasTopic)
	set(m.ContentType != "", hasContentType)
	set(m.CorrelationID != "", hasCorrelationID)
	set(m.ReplyTo != "", hasReplyTo)
	set(m.Source != "", hasSource)
	set(!m.Time.IsZero(), hasTime)
	set(!m.Expires.IsZero(), hasExpires)
	set(len(m.Headers) > 0, hasHeaders)
	set(m.Key != nil, hasKey)
	set(!m.NotBefore.IsZero(), hasNotBefore)
	return bits
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// decodeMessage reads a message. Key and Payload alias b; text is copied once.
func decodeMessage(b []byte, m *message.Message) error {
	if len(b) < metaSize {
		return errMessage
	}
	n := binary.LittleEndian.Uint32(b)
	b = b[metaSize:]
	if uint64(n) > uint64(len(b)) {
		return errMessage
	}
	meta, rest := metaReader{b: b[:n]}, b[n:]
	bits := meta.uvarint()
	if bits&hasText != 0 {
		meta.text = string(meta.b)
	}
	m.Priority = meta.byte()
	m.Attempt = int(meta.varint())
	for i, s := range []*string{&m.ID, &m.Topic, &m.ContentType, &m.CorrelationID, &m.ReplyTo, &m.Source} {
		if bits&(1<<i) != 0 {
			*s = meta.string()
		}
	}
	if bits&hasTime != 0 {
		m.Time = meta.time()
	}
	if bits&hasExpires != 0 {
		m.Expires = meta.time()
	}
	if bits&hasNotBefore != 0 {
		m.NotBefore = meta.time()
	}
	if bits&hasHeaders != 0 {
		m.Headers = meta.headers()
	}
	if bits&hasKey != 0 {
		key := meta.uvarint()
		if key > uint64(len(rest)) {
			return errMessage
		}
		m.Key, rest = rest[:key:key], rest[key:]
	}
	if meta.failed || meta.at != len(meta.b) {
		return errMessage
	}
	m.Payload = slices.Clip(rest)
	return nil
}

// metaReader reads properties. After a failure it yields zero values.
type metaReader struct {
	b      []byte
	text   string // the same bytes, so that strings need no copy of their own
	at     int
	failed bool
}

func (r *metaReader) fail() { r.failed, r.at = true, len(r.b) }

func (r *metaReader) byte() byte {
	if r.at >= len(r.b) {
		r.fail()
		return 0
	}
	r.at++
	return r.b[r.at-1]
}

func (r *metaReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 {
		r.fail()
		return 0
	}
	r.at += n
	return v
}

func (r *metaReader) varint() int64 {
	v, n := binary.Varint(r.b[r.at:])
	if n <= 0 {
		r.fail()
		return 0
	}
	r.at += n
	return v
}

func (r *metaReader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)-r.at) {
		r.fail()
		return ""
	}
	r.at += int(n)
	return r.text[r.at-int(n) : r.at]
}

func (r *metaReader) time() time.Time {
	sec, nsec := r.varint(), r.uvarint()
	if nsec >= uint64(time.Second) {
		r.fail()
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

// minHeader is the least that a header takes: two empty strings, kind and number.
const minHeader = 4

func (r *metaReader) headers() message.Headers {
	n := r.uvarint()
	if n > uint64(len(r.b)-r.at)/minHeader {
		r.fail()
		return nil
	}
	headers := make(message.Headers, n)
	for i := range headers {
		headers[i].Name = r.string()
		kind := message.Kind(r.byte())
		str := r.string()
		headers[i].Value = message.FromRaw(kind, str, r.uvarint())
	}
	return headers
}

// notBefore returns when a message may be delivered, or the zero time.
func notBefore(b []byte) time.Time {
	var m message.Message
	if decodeMessage(b, &m) != nil {
		return time.Time{}
	}
	return m.NotBefore
}
