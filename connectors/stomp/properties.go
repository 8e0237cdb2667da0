package stomp

import (
	"bytes"
	"math"
	"mime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// headerBody says how a frame's body came: "bytes" with a content-length, "text"
// without, which is how JMS brokers tell their two kinds of messages apart. It stands
// before the sender's headers, so that a sender cannot forge it. The sink obeys and does
// not send it.
const (
	headerBody = "stomp.body"
	bodyText   = "text"
	bodyBytes  = "bytes"
)

// Headers that are no user's, beside those that the frame package names.
const (
	headerCorrelation = "correlation-id"
	headerReplyTo     = "reply-to"
	headerPriority    = "priority"
	headerExpires     = "expires"    // Unix milliseconds (JMS brokers)
	headerExpiration  = "expiration" // milliseconds from now (RabbitMQ)
	headerTimestamp   = "timestamp"
	headerPersistent  = "persistent"
	headerRedelivered = "redelivered"
	headerDeliveries  = "JMSXDeliveryCount"
	headerDelivered   = "x-delivery-count" // deliveries before this one (RabbitMQ)
	headerAMQPID      = "amqp-message-id"  // the sender's, where message-id is the broker's (RabbitMQ)
	headerClientID    = "client-id"
)

// place is a header that is no user's.
type place uint8

const (
	placeUser place = iota
	placeSilent
	placeLength
	placeContentType
	placeCorrelation
	placeReplyTo
	placePriority
	placeExpires
	placeExpiration
	placeTimestamp
	placeID
	placeAMQPID
	placeRedelivered
	placeDeliveries
	placeDelivered
)

func placeOf(name string) place {
	switch name {
	case frame.Destination, frame.Receipt, frame.Transaction, frame.Subscription, frame.Ack, frame.ReceiptId, headerPersistent:
		return placeSilent
	case frame.ContentLength:
		return placeLength
	case frame.ContentType:
		return placeContentType
	case headerCorrelation:
		return placeCorrelation
	case headerReplyTo:
		return placeReplyTo
	case headerPriority:
		return placePriority
	case headerExpires:
		return placeExpires
	case headerExpiration:
		return placeExpiration
	case headerTimestamp:
		return placeTimestamp
	case frame.MessageId:
		return placeID
	case headerAMQPID:
		return placeAMQPID
	case headerRedelivered:
		return placeRedelivered
	case headerDeliveries:
		return placeDeliveries
	case headerDelivered:
		return placeDelivered
	default:
		return placeUser
	}
}

// properties says where frames have the properties of a message. A message-id is the
// broker's to give, and some refuse a SEND with one, so an identifier that must arrive
// has no place.
func properties() connectors.Properties {
	return connectors.Properties{
		CorrelationID: headerCorrelation, ReplyTo: headerReplyTo, ContentType: frame.ContentType,
		Priority: headerPriority, Expires: "expires, expiration", Time: "timestamp, received only", Kinds: connectors.TextOnly(),
		Notes: []string{
			"`expires` is in Unix milliseconds (JMS brokers), `expiration` in milliseconds from the sending (RabbitMQ, which delivers it unchanged). The output sends both.",
			"A message that is received without `linkspan-id` has the broker's `message-id` as its id, or RabbitMQ's `amqp-message-id`.",
			"STOMP 1.0 has no escapes: a line break or backslash, a colon in a name, and spaces at the ends are refused. 1.1 cannot carry a CR. NUL is refused in all versions.",
			"Names that STOMP uses itself (`destination`, `receipt`, `transaction` and so on) are no user headers: the input leaves them out, the output refuses them.",
			"A header value that is not UTF-8 arrives as bytes.",
		},
	}
}

// describe fills a message's properties from the headers of a frame. The first of a
// repeated one counts. It reports whether all could be read.
func describe(m *message.Message, f *frame.Frame, now time.Time) (ok bool) {
	kind := bodyText
	if _, has := f.Header.Contains(frame.ContentLength); has {
		kind = bodyBytes
	}
	m.Headers = append(m.Headers, message.Header{Name: headerBody, Value: message.String(kind)})
	ok = true
	var seen uint32
	for i := range f.Header.Len() {
		name, value := f.Header.GetAt(i)
		p := placeOf(name)
		switch {
		case p == placeUser:
			m.Headers = append(m.Headers, userHeader(name, value))
		case seen&(1<<p) == 0:
			ok = set(m, p, value, now, seen) && ok
		}
		seen |= 1 << p
	}
	return ok
}

func userHeader(name, value string) message.Header {
	v := message.String(value)
	if !utf8.ValidString(value) {
		v = message.Bytes([]byte(value))
	}
	return message.Header{Name: valid(name), Value: v}
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// set gives a message one property. Seen are the places before it.
func set(m *message.Message, p place, value string, now time.Time, seen uint32) (ok bool) {
	switch p {
	case placeContentType:
		m.ContentType = valid(value)
	case placeCorrelation:
		m.CorrelationID = valid(value)
	case placeReplyTo:
		m.ReplyTo = valid(value)
	case placeAMQPID:
		m.ID = valid(value)
	case placeID:
		if seen&(1<<placeAMQPID) == 0 {
			m.ID = valid(value)
		}
	case placeRedelivered:
		if value == "true" {
			m.Attempt = max(m.Attempt, 2)
		}
	case placeSilent, placeLength, placeUser:
	default:
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil || n < 0 {
			return false
		}
		setNumber(m, p, n, now, seen)
	}
	return true
}

func setNumber(m *message.Message, p place, n int64, now time.Time, seen uint32) {
	switch p {
	case placePriority:
		m.Priority = uint8(min(n, 9))
	case placeExpires:
		if n > 0 { // zero: never
			m.Expires = time.UnixMilli(n)
		}
	case placeExpiration:
		if seen&(1<<placeExpires) == 0 {
			m.Expires = now.Add(time.Duration(min(n, math.MaxInt64/int64(2*time.Millisecond))) * time.Millisecond)
		}
	case placeTimestamp:
		m.Time = instant(n)
	case placeDeliveries:
		m.Attempt = max(m.Attempt, int(min(n, math.MaxInt32)))
	case placeDelivered:
		m.Attempt = max(m.Attempt, int(min(n, math.MaxInt32))+1)
	default:
	}
}

// instant reads a timestamp: milliseconds from JMS brokers, seconds in AMQP. The two
// meet in the year 5138 and in 1973.
func instant(n int64) time.Time {
	if n > 1e11 {
		return time.UnixMilli(n)
	}
	return time.Unix(n, 0)
}

// appendProperties writes what a message has beside its destination and body. Ok is
// false when something cannot be carried as it is.
func appendProperties(b []byte, v version, m *message.Message, now time.Time) (_ []byte, ok bool) {
	ok = true
	text := func(name, value string) {
		switch {
		case value == "":
		case !carries(v, name, value):
			ok = false
		default:
			b = appendHeader(b, v, name, value)
		}
	}
	text(frame.ContentType, m.ContentType)
	text(headerCorrelation, m.CorrelationID)
	text(headerReplyTo, m.ReplyTo)
	b = appendNumber(b, headerPriority, int64(m.Priority))
	if !m.Expires.IsZero() {
		b = appendNumber(b, headerExpires, m.Expires.UnixMilli())
		b = appendNumber(b, headerExpiration, max(m.Expires.Sub(now).Milliseconds(), 1))
	}
	return b, ok
}

// reserved reports whether a header's name has a meaning of its own, so that content
// must not choose its value.
func reserved(name string) bool {
	switch name {
	case frame.Id, frame.Login, frame.Passcode, headerClientID, "selector":
		return true
	default:
		return placeOf(name) != placeUser
	}
}

// isText decides, for type auto, whether a payload is sent as text: what came as text
// or bytes stays so; else it is text when it can be and its content type does not say
// otherwise.
func isText(m *message.Message) bool {
	if !textual(m.Payload) {
		return false
	}
	switch m.Headers.Text(headerBody) {
	case bodyText:
		return true
	case bodyBytes:
		return false
	}
	if m.ContentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(m.ContentType)
	return err == nil && (strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml") ||
		kind == "application/json" || kind == "application/xml" || kind == "application/x-ndjson" || kind == "application/yaml")
}

// textual reports whether bytes can be the body of a text message: UTF-8 without NUL.
func textual(payload []byte) bool {
	return bytes.IndexByte(payload, 0) < 0 && utf8.Valid(payload)
}
