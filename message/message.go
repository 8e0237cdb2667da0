package message

import (
	"bytes"
	"slices"
	"time"
)

// NormalPriority is the priority of a message whose sender says nothing, as in JMS.
const NormalPriority = 4

// Message is one unit of data with its properties. The zero value is an empty
// message. Property names follow JMS, AMQP and MQTT 5, which agree on them.
//
// A Message handed to a Handler is borrowed: Payload, Key and the bytes behind
// Headers belong to the caller again when Handle returns. Keeping a message means
// keeping its Clone.
type Message struct {
	// ID identifies the message for its sender (JMSMessageID, AMQP message-id,
	// HTTP Idempotency-Key). Empty when the protocol has none.
	ID string
	// Key is the partition or ordering key: messages with equal, non-nil keys keep
	// their order. Nil means unordered.
	Key []byte
	// Topic is the address at which the message arrived: MQTT topic, HTTP path,
	// AMQP routing key, file path.
	Topic string
	// Time is when the message was made, or when linkspan received it if the
	// protocol does not say.
	Time time.Time
	// ContentType is a media type (RFC 9110 §8.3), empty when unknown.
	ContentType string
	// CorrelationID joins a reply to its request. It may be any bytes, where the protocol
	// says so (MQTT 5).
	CorrelationID string
	// ReplyTo is the address that a reply should be sent to.
	ReplyTo string
	// Priority is 0 (lowest) to 9 (highest), 4 being normal, as in JMS. A source whose
	// protocol or sender says nothing sets NormalPriority.
	Priority uint8
	// Expires is when the message loses its worth. Zero means never.
	Expires time.Time
	// NotBefore is the earliest time at which the queue hands the message out. Zero means
	// at once.
	NotBefore time.Time
	// Source is the name of the pipeline input that received the message.
	Source string
	// Attempt counts deliveries of this message: 1 for the first.
	Attempt int
	// Headers are the user's own properties.
	Headers Headers
	// Payload is the body.
	Payload []byte

	// Options are the values of a sink's computed options, in the order of its
	// expressions. The engine fills them before it calls the sink.
	Options []string
}

// Clone returns a deep copy that shares no memory with m.
func (m *Message) Clone() Message {
	c := *m
	c.Key = bytes.Clone(m.Key)
	c.Payload = bytes.Clone(m.Payload)
	c.Headers = m.Headers.Clone()
	c.Options = slices.Clone(m.Options)
	return c
}

// Size is the number of bytes that count against limits: payload, key and headers.
func (m *Message) Size() int {
	n := len(m.Payload) + len(m.Key)
	for i := range m.Headers {
		n += len(m.Headers[i].Name) + m.Headers[i].Value.size()
	}
	return n
}

// Expired reports whether the message has lost its worth at now.
func (m *Message) Expired(now time.Time) bool {
	return !m.Expires.IsZero() && now.After(m.Expires)
}
