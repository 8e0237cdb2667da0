package console

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"time"
	"unicode/utf8"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
)

// MessageView is a message as JSON. Key, headers and payload are data: they are
// filled on request only.
type MessageView struct {
	ID            string     `json:"id,omitempty"`
	Topic         string     `json:"topic,omitempty"`
	Source        string     `json:"source,omitempty"`
	Time          time.Time  `json:"time,omitzero"`
	ContentType   string     `json:"content_type,omitempty"`
	CorrelationID string     `json:"correlation_id,omitempty"`
	ReplyTo       string     `json:"reply_to,omitempty"`
	Priority      uint8      `json:"priority"`
	Expires       *time.Time `json:"expires,omitempty"`
	NotBefore     *time.Time `json:"not_before,omitempty"`
	Size          int        `json:"size"`
	// Key is text, or base64 when it is not UTF-8.
	Key       string `json:"key,omitempty"`
	KeyBase64 string `json:"key_base64,omitempty"`
	// Headers are the values by name: text, numbers, truth values, RFC 3339 for
	// instants, base64 for bytes. A name that repeats has a list.
	Headers map[string]any `json:"headers,omitempty"`
	// Payload is text, PayloadBase64 what is not UTF-8.
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 string  `json:"payload_base64,omitempty"`
}

// View returns a message as it is shown. Content adds key, headers and payload.
func View(m *message.Message, content bool) MessageView {
	v := MessageView{
		ID: m.ID, Topic: m.Topic, Source: m.Source, Time: m.Time, ContentType: m.ContentType,
		CorrelationID: m.CorrelationID, ReplyTo: m.ReplyTo, Priority: m.Priority, Size: len(m.Payload),
	}
	if !m.Expires.IsZero() {
		v.Expires = &m.Expires
	}
	if !m.NotBefore.IsZero() {
		v.NotBefore = &m.NotBefore
	}
	if !content {
		return v
	}
	if utf8.Valid(m.Key) {
		v.Key = string(m.Key)
	} else {
		v.KeyBase64 = base64.StdEncoding.EncodeToString(m.Key)
	}
	if utf8.Valid(m.Payload) {
		text := string(m.Payload)
		v.Payload = &text
	} else {
		v.PayloadBase64 = base64.StdEncoding.EncodeToString(m.Payload)
	}
	v.Headers = viewHeaders(m.Headers)
	return v
}

func viewHeaders(headers message.Headers) map[string]any {
	if len(headers) == 0 {
		return nil
	}
	out := make(map[string]any, len(headers))
	for _, h := range headers {
		value := h.Value.Any()
		switch before := out[h.Name].(type) {
		case nil:
			if _, repeated := out[h.Name]; !repeated {
				out[h.Name] = value
				continue
			}
			out[h.Name] = []any{before, value}
		case []any:
			out[h.Name] = append(before, value)
		default:
			out[h.Name] = []any{before, value}
		}
	}
	return out
}

// Bytes returns the payload as it was received.
func (v *MessageView) Bytes() ([]byte, error) {
	if v.Payload != nil {
		return []byte(*v.Payload), nil
	}
	return base64.StdEncoding.DecodeString(v.PayloadBase64)
}

// QueuedMessage is a message with its place in the queue.
type QueuedMessage struct {
	// Queue is the topic of the queue, Offset the place in it.
	Queue    string    `json:"queue"`
	Offset   uint64    `json:"offset"`
	Appended time.Time `json:"appended"`
	MessageView
}

// DeadLetterView is a dead letter with the message that it is about.
type DeadLetterView struct {
	pipelines.DeadLetter
	Message MessageView `json:"message"`
}

// NewEncoder returns an encoder for output that is read by people too: nothing is
// escaped for HTML.
func NewEncoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}
