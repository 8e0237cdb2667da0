package amqp1

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	amqp "github.com/Azure/go-amqp"

	"github.com/linkspan/linkspan/message"
)

// The headers that stand for what the protocol has beside application-properties.
const (
	ownHeaders       = "amqp1."
	headerSubject    = ownHeaders + "subject"
	headerTo         = ownHeaders + "to"
	headerGroup      = ownHeaders + "group_id"
	headerSequence   = ownHeaders + "group_sequence"
	headerReplyGroup = ownHeaders + "reply_to_group_id"
	headerUser       = ownHeaders + "user_id"
	headerEncoding   = ownHeaders + "content_encoding"
	headerAnnotation = ownHeaders + "annotation."

	typeJSON = "application/json"
	typeText = "text/plain"
)

// readMessage fills m from what a peer sent. The payload is that of the library.
func readMessage(m *message.Message, in *amqp.Message, now time.Time) {
	m.Time, m.Priority, m.Attempt = now, message.NormalPriority, 1
	readProperties(m, in.Properties)
	if h := in.Header; h != nil {
		m.Priority = min(h.Priority, 9)
		m.Attempt = int(min(h.DeliveryCount, 1<<31-2)) + 1
		if m.Expires.IsZero() && h.TTL > 0 {
			m.Expires = now.Add(h.TTL)
		}
	}
	first := len(m.Headers)
	for name, value := range in.ApplicationProperties {
		m.Headers = append(m.Headers, message.Header{Name: name, Value: readValue(value)})
	}
	for key, value := range in.Annotations {
		m.Headers = append(m.Headers, message.Header{Name: headerAnnotation + fmt.Sprint(key), Value: readValue(value)})
	}
	// Maps have no order; two messages of one content give one result.
	slices.SortFunc(m.Headers[first:], func(a, b message.Header) int { return strings.Compare(a.Name, b.Name) })
	readBody(m, in)
}

func readProperties(m *message.Message, p *amqp.MessageProperties) {
	if p == nil {
		return
	}
	m.ID, m.CorrelationID = readID(p.MessageID), readID(p.CorrelationID)
	m.ReplyTo, m.ContentType = deref(p.ReplyTo), deref(p.ContentType)
	if p.CreationTime != nil && sane(*p.CreationTime) {
		m.Time = *p.CreationTime
	}
	if p.AbsoluteExpiryTime != nil && sane(*p.AbsoluteExpiryTime) {
		m.Expires = *p.AbsoluteExpiryTime
	}
	for _, own := range []struct {
		name  string
		value *string
	}{
		{headerSubject, p.Subject},
		{headerTo, p.To},
		{headerGroup, p.GroupID},
		{headerReplyGroup, p.ReplyToGroupID},
		{headerEncoding, p.ContentEncoding},
	} {
		if own.value != nil {
			m.Headers.Set(own.name, textOrBytes(*own.value))
		}
	}
	if p.GroupSequence != nil {
		m.Headers.Set(headerSequence, message.Int(int64(*p.GroupSequence)))
	}
	if len(p.UserID) > 0 {
		m.Headers.Set(headerUser, textOrBytes(string(p.UserID)))
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// readBody turns the sections of a body into bytes: data as they are, a text as UTF-8, and
// all else as JSON.
func readBody(m *message.Message, in *amqp.Message) {
	contentType := ""
	switch value := in.Value.(type) {
	case nil, amqp.Null:
		switch {
		case len(in.Data) == 1:
			m.Payload = in.Data[0]
		case len(in.Data) > 1:
			m.Payload = bytes.Join(in.Data, nil)
		case len(in.Sequence) > 0:
			m.Payload, contentType = []byte(jsonText(slices.Concat(in.Sequence...))), typeJSON
		}
	case string:
		m.Payload, contentType = []byte(value), typeText
	case []byte:
		m.Payload = value
	default:
		m.Payload, contentType = []byte(jsonText(value)), typeJSON
	}
	if m.ContentType == "" {
		m.ContentType = contentType
	}
}
