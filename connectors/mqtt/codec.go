package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// The kinds of packets (MQTT 5 §2.1.2).
const (
	kindConnect     = 1
	kindConnack     = 2
	kindPublish     = 3
	kindPuback      = 4
	kindPubrec      = 5
	kindPubrel      = 6
	kindPubcomp     = 7
	kindSubscribe   = 8
	kindSuback      = 9
	kindUnsubscribe = 10
	kindUnsuback    = 11
	kindPingreq     = 12
	kindPingresp    = 13
	kindDisconnect  = 14
)

// The protocol versions as they stand in CONNECT.
const (
	version31  = 3
	version311 = 4
	version5   = 5
)

// Reason codes of MQTT 5 that are used here.
const (
	reasonSuccess           = 0x00
	reasonWithWill          = 0x04
	reasonNoSubscription    = 0x11
	reasonUnspecified       = 0x80
	reasonMalformed         = 0x81
	reasonProtocol          = 0x82
	reasonImplementation    = 0x83
	reasonVersion           = 0x84
	reasonClientID          = 0x85
	reasonCredentials       = 0x86
	reasonNotAuthorized     = 0x87
	reasonStopping          = 0x8b
	reasonAuthMethod        = 0x8c
	reasonKeepAlive         = 0x8d
	reasonTakenOver         = 0x8e
	reasonTopicName         = 0x90
	reasonUnknownID         = 0x92
	reasonReceiveMaximum    = 0x93
	reasonTopicAlias        = 0x94
	reasonPacketTooLarge    = 0x95
	reasonQuota             = 0x97
	reasonPayloadFormat     = 0x99
	reasonQoSNotSupported   = 0x9b
	connackVersion311       = 1
	connackClientID311      = 2
	connackUnavailable311   = 3
	connackCredentials311   = 4
	connackNotAuthorized311 = 5
	subackFailure311        = 0x80
)

// protocolError is a peer that broke the protocol. Code is what MQTT 5 calls it.
type protocolError struct {
	code byte
	text string
}

// Error implements error.
func (e *protocolError) Error() string { return e.text }

func malformed(what string) error {
	return &protocolError{reasonMalformed, "malformed packet: " + what}
}

func violation(what string) error {
	return &protocolError{reasonProtocol, "protocol error: " + what}
}

// packet is one control packet. The body is borrowed from the stream and valid
// until it reads again.
type packet struct {
	first byte
	body  []byte
}

func (p packet) kind() byte { return p.first >> 4 }

// checkFlags verifies the reserved bits of the first byte (MQTT 5 §2.1.3).
func (p packet) checkFlags() error {
	want := byte(0)
	switch p.kind() {
	case kindPublish:
		return nil
	case kindPubrel, kindSubscribe, kindUnsubscribe:
		want = 2
	default:
	}
	if p.first&0x0f != want {
		return malformed("reserved flags")
	}
	return nil
}

// reader takes values off a packet's body. After the first value that does not fit
// it returns zeros and bad is set, so callers check once at the end.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.b, r.bad = nil, true }

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a variable byte integer of at most four bytes.
func (r *reader) varint() int {
	v, n := varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads binary data with a two-byte length.
func (r *reader) bytes() []byte { return r.take(int(r.u16())) }

// text reads a string: valid UTF-8 without NUL.
func (r *reader) text() []byte {
	b := r.bytes()
	if !validText(b) {
		r.fail()
		return nil
	}
	return b
}

func validText(b []byte) bool { return bytes.IndexByte(b, 0) < 0 && utf8.Valid(b) }

// varint decodes a variable byte integer. N is its length, 0 when more bytes are
// needed and -1 when it is longer than four bytes or than it needs to be.
func varint(b []byte) (v, n int) {
	for i := range 4 {
		if i >= len(b) {
			return 0, 0
		}
		v |= int(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			if i > 0 && b[i] == 0 {
				return 0, -1
			}
			return v, i + 1
		}
	}
	return 0, -1
}

func appendVarint(b []byte, v int) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func varintLen(v int) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	default:
		return 4
	}
}

func appendText[T string | []byte](b []byte, s T) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// validField reports whether this side may send s as a string: it fits, and has none of
// the code points for which a peer may end the connection (MQTT 5 §1.5.4), and brokers
// do. A message with one of them would otherwise come back for ever.
func validField(s string) bool {
	if len(s) > 0xffff || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if c < ' ' || c >= 0x7f && c <= 0x9f || c >= 0xfdd0 && c <= 0xfdef || c&0xfffe == 0xfffe {
			return false
		}
	}
	return true
}

// appendAck writes PUBACK, PUBREC, PUBREL or PUBCOMP.
func appendAck(b []byte, version, kind byte, id uint16, reason byte) []byte {
	first := kind << 4
	if kind == kindPubrel {
		first |= 2
	}
	if version < version5 || reason == reasonSuccess {
		return append(b, first, 2, byte(id>>8), byte(id))
	}
	return append(b, first, 3, byte(id>>8), byte(id), reason)
}

// decodeAck reads PUBACK, PUBREC, PUBREL or PUBCOMP.
func decodeAck(p packet, version byte) (id uint16, reason byte, err error) {
	r := reader{b: p.body}
	id = r.u16()
	if version == version5 && len(r.b) > 0 {
		reason = r.u8()
		if len(r.b) > 0 {
			var props properties
			props.decode(&r, allowedAck, version)
		}
	}
	if r.bad || len(r.b) > 0 || id == 0 {
		return 0, 0, malformed("acknowledgement")
	}
	return id, reason, nil
}

// encodeDisconnect writes DISCONNECT; before version 5 it has no reason.
func encodeDisconnect(version, reason byte) []byte {
	if version < version5 || reason == reasonSuccess {
		return []byte{kindDisconnect << 4, 0}
	}
	return []byte{kindDisconnect << 4, 1, reason}
}
