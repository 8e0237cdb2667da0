package mqtt

import (
	"encoding/binary"

	"github.com/linkspan/linkspan/message"
)

// The properties of MQTT 5 (§2.2.2.2) by identifier.
const (
	propFormat           = 0x01
	propExpiry           = 0x02
	propContentType      = 0x03
	propResponseTopic    = 0x08
	propCorrelation      = 0x09
	propSubscriptionID   = 0x0b
	propSessionExpiry    = 0x11
	propAssignedID       = 0x12
	propServerKeepAlive  = 0x13
	propAuthMethod       = 0x15
	propAuthData         = 0x16
	propProblemInfo      = 0x17
	propWillDelay        = 0x18
	propResponseRequest  = 0x19
	propResponseInfo     = 0x1a
	propServerReference  = 0x1c
	propReasonString     = 0x1f
	propReceiveMaximum   = 0x21
	propTopicAliasMax    = 0x22
	propTopicAlias       = 0x23
	propMaximumQoS       = 0x24
	propRetainAvailable  = 0x25
	propUser             = 0x26
	propMaximumPacket    = 0x27
	propWildcardSub      = 0x28
	propSubscriptionIDOK = 0x29
	propSharedSub        = 0x2a
)

// What each packet may carry, as a set of bits.
const (
	allowedPublish = 1<<propFormat | 1<<propExpiry | 1<<propContentType | 1<<propResponseTopic | 1<<propCorrelation |
		1<<propSubscriptionID | 1<<propTopicAlias | 1<<propUser
	allowedWill = 1<<propFormat | 1<<propExpiry | 1<<propContentType | 1<<propResponseTopic | 1<<propCorrelation |
		1<<propWillDelay | 1<<propUser
	allowedConnect = 1<<propSessionExpiry | 1<<propAuthMethod | 1<<propAuthData | 1<<propProblemInfo | 1<<propResponseRequest |
		1<<propReceiveMaximum | 1<<propTopicAliasMax | 1<<propUser | 1<<propMaximumPacket
	allowedConnack = 1<<propSessionExpiry | 1<<propAssignedID | 1<<propServerKeepAlive | 1<<propAuthMethod | 1<<propAuthData |
		1<<propResponseInfo | 1<<propServerReference | 1<<propReasonString | 1<<propReceiveMaximum | 1<<propTopicAliasMax |
		1<<propMaximumQoS | 1<<propRetainAvailable | 1<<propUser | 1<<propMaximumPacket | 1<<propWildcardSub |
		1<<propSubscriptionIDOK | 1<<propSharedSub
	allowedSubscribe   = 1<<propSubscriptionID | 1<<propUser
	allowedUnsubscribe = 1 << propUser
	allowedAck         = 1<<propReasonString | 1<<propUser
	allowedDisconnect  = 1<<propSessionExpiry | 1<<propServerReference | 1<<propReasonString | 1<<propUser
)

// maxUserProperties bounds what one packet may make of its bytes: a property of
// five bytes takes ten times as much in memory.
const maxUserProperties = 1024

// properties are those of any packet. Strings are copies.
type properties struct {
	// set tells which are there, as a set of bits.
	set uint64
	// num holds the numeric ones that matter.
	sessionExpiry, expiry, willDelay, maximumPacket        uint32
	receiveMaximum, topicAliasMax, topicAlias, serverAlive uint16
	maximumQoS, retainAvailable                            byte
	contentType, responseTopic, correlation, assignedID    string
	// user holds the user properties.
	user message.Headers
}

func (p *properties) has(id int) bool { return p.set&(1<<id) != 0 }

// decode reads a property list. Anything that the packet may not carry, or carries
// twice, makes r bad. Before version 5 there is none.
func (p *properties) decode(r *reader, allowed uint64, version byte) {
	p.set, p.user = 0, p.user[:0]
	if version < version5 {
		return
	}
	block := r.take(r.varint())
	if r.bad || len(block) == 0 {
		return
	}
	list := propertyReader{reader: reader{b: block}, text: string(block)}
	for len(list.b) > 0 {
		id := list.varint()
		repeats := id == propUser || id == propSubscriptionID && allowed&(1<<propTopicAlias) != 0
		if list.bad || id > propSharedSub || allowed&(1<<id) == 0 || p.has(id) && !repeats {
			r.fail()
			return
		}
		p.set |= 1 << id
		p.value(&list, id)
		if list.bad {
			r.fail()
			return
		}
	}
}

// propertyReader makes all strings of one list out of a single copy.
type propertyReader struct {
	reader

	text string
}

func (r *propertyReader) binary() string {
	b := r.bytes()
	end := len(r.text) - len(r.b)
	if r.bad {
		return ""
	}
	return r.text[end-len(b) : end]
}

func (r *propertyReader) string() string {
	s := r.binary()
	if !validText([]byte(s)) {
		r.fail()
	}
	return s
}

func (p *properties) value(r *propertyReader, id int) {
	switch id {
	case propUser:
		name := r.string()
		p.user = append(p.user, message.Header{Name: name, Value: message.String(r.string())})
		if len(p.user) > maxUserProperties {
			r.fail()
		}
	case propContentType:
		p.contentType = r.string()
	case propResponseTopic:
		p.responseTopic = r.string()
	case propCorrelation:
		p.correlation = r.binary()
	case propAssignedID:
		p.assignedID = r.string()
	case propAuthMethod, propResponseInfo, propServerReference, propReasonString:
		r.string()
	case propAuthData:
		r.binary()
	case propSubscriptionID:
		if r.varint() == 0 {
			r.fail()
		}
	default:
		p.number(r, id)
	}
}

func (p *properties) number(r *propertyReader, id int) {
	zeroIsWrong := false
	var v uint32
	switch id {
	case propExpiry, propSessionExpiry, propWillDelay, propMaximumPacket:
		v, zeroIsWrong = r.u32(), id == propMaximumPacket
	case propServerKeepAlive, propReceiveMaximum, propTopicAliasMax, propTopicAlias:
		v, zeroIsWrong = uint32(r.u16()), id == propReceiveMaximum
	default: // a truth value
		if v = uint32(r.u8()); v > 1 {
			r.fail()
		}
	}
	if zeroIsWrong && v == 0 {
		r.fail()
	}
	switch id {
	case propExpiry:
		p.expiry = v
	case propSessionExpiry:
		p.sessionExpiry = v
	case propWillDelay:
		p.willDelay = v
	case propMaximumPacket:
		p.maximumPacket = v
	case propServerKeepAlive:
		p.serverAlive = uint16(v)
	case propReceiveMaximum:
		p.receiveMaximum = uint16(v)
	case propTopicAliasMax:
		p.topicAliasMax = uint16(v)
	case propTopicAlias:
		p.topicAlias = uint16(v)
	case propMaximumQoS:
		p.maximumQoS = byte(v)
	case propRetainAvailable:
		p.retainAvailable = byte(v)
	}
}

func appendU32(b []byte, id byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, id), v)
}

func appendU16(b []byte, id byte, v uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, id), v)
}

// appendList writes a property list with its length.
func appendList(b, list []byte) []byte {
	return append(appendVarint(b, len(list)), list...)
}
