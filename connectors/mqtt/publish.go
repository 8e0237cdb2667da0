package mqtt

import (
	"encoding/binary"
	"time"

	"github.com/linkspan/linkspan/message"
)

// headerRetain is a header that the connector adds to a message. It stands before the
// sender's user properties, so that a sender cannot forge it.
const headerRetain = "mqtt.retain"

// publication is PUBLISH, or a will. Topic and payload are borrowed when it was
// decoded.
type publication struct {
	dup, retain bool
	qos         byte
	id          uint16
	topic       []byte
	payload     []byte
	props       properties
}

// decode reads PUBLISH. The topic may be empty when there is an alias.
func (p *publication) decode(k packet, version byte) error {
	p.dup, p.retain, p.qos = k.first&8 != 0, k.first&1 != 0, k.first>>1&3
	if p.qos == 3 || p.qos == 0 && p.dup {
		return malformed("publish flags")
	}
	r := reader{b: k.body}
	p.topic = r.text()
	p.id = 0
	if p.qos > 0 {
		if p.id = r.u16(); p.id == 0 {
			return malformed("publish without packet identifier")
		}
	}
	p.props.decode(&r, allowedPublish, version)
	if r.bad {
		return malformed("publish")
	}
	p.payload = r.b
	return nil
}

// size is the number of bytes of the whole packet.
func (p *publication) size(version byte, props int) int {
	n := 2 + len(p.topic) + len(p.payload)
	if p.qos > 0 {
		n += 2
	}
	if version == version5 {
		n += varintLen(props) + props
	}
	return 1 + varintLen(n) + n
}

// append writes PUBLISH with an encoded property list.
func (p *publication) append(b []byte, version byte, props []byte) []byte {
	first := byte(kindPublish<<4) | p.qos<<1
	if p.retain {
		first |= 1
	}
	n := 2 + len(p.topic) + len(p.payload)
	if p.qos > 0 {
		n += 2
	}
	if version == version5 {
		n += varintLen(len(props)) + len(props)
	}
	b = appendVarint(append(b, first), n)
	b = appendText(b, p.topic)
	if p.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, p.id)
	}
	if version == version5 {
		b = appendList(b, props)
	}
	return append(b, p.payload...)
}

// describe fills a message's properties from those of a publication.
func (p *publication) describe(m *message.Message, now time.Time) {
	if p.retain {
		m.Headers = append(m.Headers, message.Header{Name: headerRetain, Value: message.Bool(true)})
	}
	if p.props.set == 0 {
		return
	}
	if p.props.has(propContentType) {
		m.ContentType = p.props.contentType
	}
	if p.props.has(propResponseTopic) {
		m.ReplyTo = p.props.responseTopic
	}
	if p.props.has(propExpiry) {
		m.Expires = now.Add(time.Duration(p.props.expiry) * time.Second)
	}
	if p.props.has(propCorrelation) {
		m.CorrelationID = p.props.correlation // any bytes
	}
	m.Headers = append(m.Headers, p.props.user...)
}

// appendMessageProperties encodes what MQTT 5 can carry of a message. Ok is false
// when something cannot be carried as it is.
func appendMessageProperties(b []byte, m *message.Message, now time.Time) (_ []byte, ok bool) {
	if !m.Expires.IsZero() {
		// A whole second is the smallest unit; zero would mean that it has expired.
		left := min(max(m.Expires.Sub(now)/time.Second, 1), 1<<32-1)
		b = appendU32(b, propExpiry, uint32(left))
	}
	if m.ContentType != "" {
		if !validField(m.ContentType) {
			return b, false
		}
		b = appendText(append(b, propContentType), m.ContentType)
	}
	if m.ReplyTo != "" {
		if !validTopic(m.ReplyTo) {
			return b, false
		}
		b = appendText(append(b, propResponseTopic), m.ReplyTo)
	}
	if m.CorrelationID != "" {
		if len(m.CorrelationID) > 0xffff {
			return b, false
		}
		b = appendText(append(b, propCorrelation), m.CorrelationID)
	}
	for i := range m.Headers {
		name, value := m.Headers[i].Name, m.Headers[i].Value.Text()
		if !validField(name) || !validField(value) {
			return b, false
		}
		b = appendText(appendText(append(b, propUser), name), value)
	}
	return b, true
}
