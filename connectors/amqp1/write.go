package amqp1

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/Azure/go-amqp"

	"github.com/linkspan/linkspan/message"
)

// jmsText is the value of the annotation x-opt-jms-msg-type that makes a TextMessage.
const (
	jmsType = "x-opt-jms-msg-type"
	jmsText = int8(5)
)

// encoder turns messages into those of the protocol. What it returns is valid until the
// next one.
type encoder struct {
	durable bool
	// asText writes bodies as text.
	asText bool

	out        amqp.Message
	header     amqp.MessageHeader
	properties amqp.MessageProperties
	data       [1][]byte
	times      [2]time.Time
}

// write returns m as it is sent. Why is empty when it can be carried.
func (e *encoder) write(m *message.Message, now time.Time) (out *amqp.Message, why string) {
	e.header = amqp.MessageHeader{Durable: e.durable, Priority: min(m.Priority, 9)}
	e.properties = amqp.MessageProperties{ContentType: ref(m.ContentType), ReplyTo: ref(m.ReplyTo)}
	e.out = amqp.Message{Header: &e.header, Properties: &e.properties}
	if m.ID != "" {
		e.properties.MessageID = writeID(m.ID)
	}
	if m.CorrelationID != "" {
		e.properties.CorrelationID = writeID(m.CorrelationID)
	}
	if !m.Time.IsZero() {
		e.times[0] = m.Time
		e.properties.CreationTime = &e.times[0]
	}
	if !m.Expires.IsZero() {
		e.times[1] = m.Expires
		e.properties.AbsoluteExpiryTime = &e.times[1]
		if left := m.Expires.Sub(now); left.Milliseconds() <= math.MaxUint32 {
			e.header.TTL = max(left, time.Millisecond) // 0 means none
		}
	}
	if why := e.headers(m.Headers); why != "" {
		return nil, why
	}
	if why := e.body(m.Payload); why != "" {
		return nil, why
	}
	return &e.out, e.refused()
}

func ref(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// refused says which property cannot be carried.
func (e *encoder) refused() string {
	p := &e.properties
	for _, s := range []*string{p.ReplyTo, p.Subject, p.GroupID, p.ReplyToGroupID} {
		if s != nil && !text(*s) {
			return "reply-to, subject or group-id has NUL or is not UTF-8"
		}
	}
	for _, id := range []any{p.MessageID, p.CorrelationID} {
		if s, ok := id.(string); ok && !text(s) {
			return "message-id or correlation-id has NUL or is not UTF-8"
		}
	}
	for _, s := range []*string{p.ContentType, p.ContentEncoding} {
		if s != nil && strings.ContainsFunc(*s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return "the content type or encoding is not printable ASCII"
		}
	}
	return ""
}

// headers writes application-properties, and what stands for other sections.
func (e *encoder) headers(headers message.Headers) (why string) {
	for i := range headers {
		name, value := headers[i].Name, headers[i].Value
		field, ok := writeValue(value)
		switch key, isAnnotation := strings.CutPrefix(name, headerAnnotation); {
		case !ok || name == "" || !text(name):
			return "the name or the text of a header has NUL or is not UTF-8, or the name is empty"
		case isAnnotation && key != "":
			if e.out.Annotations == nil {
				e.out.Annotations = amqp.Annotations{}
			}
			e.out.Annotations[key] = field
			continue
		case strings.HasPrefix(name, ownHeaders) && e.own(name, value):
			continue
		}
		if e.out.ApplicationProperties == nil {
			e.out.ApplicationProperties = make(map[string]any, len(headers))
		}
		if _, again := e.out.ApplicationProperties[name]; again {
			return "a header repeats, which application-properties cannot"
		}
		e.out.ApplicationProperties[name] = field
	}
	return ""
}

// own writes a header that stands for a property, and reports whether it does.
func (e *encoder) own(name string, v message.Value) bool {
	if n, isInt := v.Any().(int); name == headerSequence && isInt && n >= 0 && n <= math.MaxUint32 {
		sequence := uint32(n)
		e.properties.GroupSequence = &sequence
		return true
	}
	if v.Kind() != message.KindString {
		return false
	}
	switch name {
	case headerSubject:
		e.properties.Subject = ref(v.Text())
	case headerGroup:
		e.properties.GroupID = ref(v.Text())
	case headerReplyGroup:
		e.properties.ReplyToGroupID = ref(v.Text())
	case headerEncoding:
		e.properties.ContentEncoding = ref(v.Text())
	default:
		return false
	}
	return true
}

func (e *encoder) body(payload []byte) (why string) {
	if !e.asText {
		e.data[0] = payload
		e.out.Data = e.data[:]
		return ""
	}
	if !utf8.Valid(payload) {
		return "the payload is not UTF-8, so it cannot be a text; write body: data"
	}
	e.out.Value = string(payload)
	if e.out.Annotations == nil {
		e.out.Annotations = amqp.Annotations{}
	}
	e.out.Annotations[jmsType] = jmsText
	return ""
}
