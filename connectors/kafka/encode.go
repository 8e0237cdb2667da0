package kafka

import (
	"hash/fnv"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/message"
)

// parcel is the records of a batch with their memory, which is not the batch's: a
// record that was given up may still be on its way when Handle has returned.
type parcel struct {
	// call is whose it is for the moment.
	call    *call
	records []kgo.Record
	headers []kgo.RecordHeader
	bytes   []byte
	// promises note the outcomes of the records, each of one place.
	promises []func(*kgo.Record, error)
}

// room makes the parcel large enough for b, so that nothing moves while it is filled.
func (p *parcel) room(b *message.Batch, key func(*message.Message) string) {
	bytes, headers := 0, 0
	for i := range b.Messages {
		m := &b.Messages[i]
		bytes += len(m.Payload) + len(key(m))
		headers += len(m.Headers)
		for j := range m.Headers {
			bytes += textSize(m.Headers[j].Value)
		}
	}
	if cap(p.records) < b.Len() {
		p.records = make([]kgo.Record, 0, b.Len())
	}
	if cap(p.headers) < headers {
		p.headers = make([]kgo.RecordHeader, 0, headers)
	}
	if cap(p.bytes) < bytes {
		p.bytes = make([]byte, 0, bytes)
	}
	p.records, p.headers, p.bytes = p.records[:0], p.headers[:0], p.bytes[:0]
	for n := len(p.promises); n < b.Len(); n++ {
		p.promises = append(p.promises, func(_ *kgo.Record, err error) { p.call.settle(n, err) })
	}
}

// textSize is at least how long the value is as text.
func textSize(v message.Value) int {
	str, _ := v.Raw()
	if v.Kind() == message.KindString || v.Kind() == message.KindBytes {
		return len(str)
	}
	const longest = 40 // of a number or a time
	return longest
}

// keep is how large a parcel may be to be used again.
const keepBytes = 1 << 20

// reset lets go of what the records point to.
func (p *parcel) reset() {
	p.call = nil
	clear(p.records)
	clear(p.headers)
}

// add makes a record of a message. The topic is checked before.
func (p *parcel) add(m *message.Message, topic, key string) *kgo.Record {
	p.records = append(p.records, kgo.Record{Topic: topic, Timestamp: m.Time, Partition: placed(m)})
	r := &p.records[len(p.records)-1]
	if r.Timestamp.IsZero() || r.Timestamp.UnixMilli() < 0 {
		r.Timestamp = time.Now()
	}
	if key != "" {
		r.Key = p.text(key)
	}
	tombstone := false
	at := len(p.headers)
	for i := range m.Headers {
		h := &m.Headers[i]
		if h.Name == headerTombstone {
			tombstone = tombstone || h.Value.Text() == "true"
			continue
		}
		if !reserved(h.Name) {
			p.headers = append(p.headers, kgo.RecordHeader{Key: h.Name, Value: p.value(h.Value)})
		}
	}
	r.Headers = p.headers[at:len(p.headers):len(p.headers)]
	if !tombstone || len(m.Payload) > 0 {
		r.Value = p.copy(m.Payload)
	}
	return r
}

// value is a header value as bytes; null stays null.
func (p *parcel) value(v message.Value) []byte {
	switch v.Kind() {
	case message.KindNull:
		return nil
	case message.KindString, message.KindBytes:
		str, _ := v.Raw()
		return p.text(str)
	default:
		return p.text(v.Text())
	}
}

func (p *parcel) copy(b []byte) []byte {
	at := len(p.bytes)
	p.bytes = append(p.bytes, b...)
	return p.bytes[at:len(p.bytes):len(p.bytes)]
}

func (p *parcel) text(s string) []byte {
	at := len(p.bytes)
	p.bytes = append(p.bytes, s...)
	return p.bytes[at:len(p.bytes):len(p.bytes)]
}

// placed is where a message without a record key goes: those with equal ordering keys
// to one partition, also after a restart, the others anywhere.
func placed(m *message.Message) int32 {
	if m.Key == nil {
		return unplaced
	}
	h := fnv.New32a()
	_, _ = h.Write(m.Key) // never fails
	return int32(h.Sum32() & math.MaxInt32)
}

// wireSize is at least what a record takes of a batch.
func wireSize(m *message.Message, key string) int {
	const overhead = 61 + 30 // of a batch and of a record
	n := overhead + len(m.Payload) + len(key)
	for i := range m.Headers {
		n += len(m.Headers[i].Name) + textSize(m.Headers[i].Value) + 6
	}
	return n
}

// unsendable says why a message cannot be a record, or nil.
func unsendable(m *message.Message, topic, key string, limit int) error {
	if !validTopic(topic) {
		return &message.Reason{Code: codeCannotCarry, Text: "the topic is empty, too long, or has other characters than letters, digits, '.', '_' and '-'", Permanent: true}
	}
	if len(m.Payload) <= limit/2 || wireSize(m, key) <= limit {
		return nil
	}
	return &message.Reason{Code: codeTooLarge, Text: "the message is larger than max_batch", Permanent: true}
}
