package kafka

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/message"
)

// The headers that a source adds. A record's own headers of these names are left out,
// so that no sender can pretend.
const (
	headerPartition = "kafka-partition"
	headerOffset    = "kafka-offset"
	headerTombstone = "kafka-tombstone"
	headerSchemaID  = "kafka-schema-id"
)

// schemaIDBytes is a zero byte and a schema id in front of a payload, as the
// serializers of schema registries write them.
const schemaIDBytes = 5

// converter makes messages of records. It reuses its memory, so what it returns is good
// until the next call.
type converter struct {
	source string
	strip  bool

	batch   message.Batch
	headers message.Headers
	text    []byte
}

// convert makes a batch of records. The payloads and keys are those of the records.
func (c *converter) convert(records []*kgo.Record, key []byte) *message.Batch {
	clear(c.batch.Messages)
	c.batch.Messages = c.batch.Messages[:0]
	c.reserve(records)
	text := string(c.text) // one copy for all values of the batch
	for _, r := range records {
		c.batch.Messages = append(c.batch.Messages, message.Message{
			Key: key, Topic: r.Topic, Time: r.Timestamp, Priority: message.NormalPriority, Source: c.source, Attempt: 1, Payload: r.Value,
		})
		m := &c.batch.Messages[len(c.batch.Messages)-1]
		if len(r.Key) > 0 {
			m.Key = r.Key
		}
		at := len(c.headers)
		c.describe(r, m)
		for i := range r.Headers {
			text = c.header(&r.Headers[i], text)
		}
		m.Headers = c.headers[at:len(c.headers):len(c.headers)]
	}
	return &c.batch
}

// reserve makes room for all headers of the batch and gathers their values, so that
// they cost one allocation together.
func (c *converter) reserve(records []*kgo.Record) {
	clear(c.headers)
	c.headers, c.text = c.headers[:0], c.text[:0]
	n := 0
	for _, r := range records {
		n += 4 + len(r.Headers)
		for i := range r.Headers {
			c.text = append(c.text, r.Headers[i].Value...)
		}
	}
	if cap(c.headers) < n {
		c.headers = make(message.Headers, 0, n)
	}
}

// describe adds what Kafka knows of the record.
func (c *converter) describe(r *kgo.Record, m *message.Message) {
	c.headers = append(c.headers,
		message.Header{Name: headerPartition, Value: message.Int(int64(r.Partition))},
		message.Header{Name: headerOffset, Value: message.Int(r.Offset)})
	if r.Value == nil {
		c.headers = append(c.headers, message.Header{Name: headerTombstone, Value: message.String("true")})
	}
	if len(r.Value) >= schemaIDBytes && r.Value[0] == 0 {
		id := binary.BigEndian.Uint32(r.Value[1:])
		c.headers = append(c.headers, message.Header{Name: headerSchemaID, Value: message.Int(int64(id))})
		if c.strip {
			m.Payload = r.Value[schemaIDBytes:]
		}
	}
}

// header adds a header, whose value text begins with, and returns the rest of text.
func (c *converter) header(h *kgo.RecordHeader, text string) (rest string) {
	value, rest := text[:len(h.Value)], text[len(h.Value):]
	if reserved(h.Key) {
		return rest
	}
	out := message.Header{Name: h.Key}
	switch {
	case h.Value == nil: // null
	case utf8.ValidString(value):
		out.Value = message.String(value)
	default:
		out.Value = message.FromRaw(message.KindBytes, value, 0)
	}
	c.headers = append(c.headers, out)
	return rest
}

func reserved(name string) bool {
	switch name {
	case headerPartition, headerOffset, headerTombstone, headerSchemaID:
		return true
	default:
		return false
	}
}
