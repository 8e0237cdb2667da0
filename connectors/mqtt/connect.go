package mqtt

import (
	"encoding/binary"
	"strings"
)

// connectPacket is CONNECT.
type connectPacket struct {
	version     byte
	cleanStart  bool
	keepAlive   uint16
	clientID    string
	hasUser     bool
	user        string
	hasPassword bool
	password    string
	will        *publication
	willDelay   uint32
	props       properties
}

// decodeConnect reads CONNECT. All strings are copies.
func decodeConnect(p packet) (*connectPacket, error) {
	r := reader{b: p.body}
	name := string(r.bytes())
	c := &connectPacket{version: r.u8()}
	switch {
	case r.bad || p.kind() != kindConnect:
		return nil, malformed("the first packet is not CONNECT")
	case name == "MQTT" && (c.version == version311 || c.version == version5), name == "MQIsdp" && c.version == version31:
	case name == "MQTT" || name == "MQIsdp":
		return nil, &protocolError{reasonVersion, "the protocol version is not supported"}
	default:
		return nil, malformed("protocol name")
	}
	flags := r.u8()
	c.cleanStart, c.hasUser, c.hasPassword = flags&0x02 != 0, flags&0x80 != 0, flags&0x40 != 0
	c.keepAlive = r.u16()
	c.props.decode(&r, allowedConnect, c.version)
	c.clientID = string(r.text())
	hasWill, willQoS, willRetain := flags&0x04 != 0, flags>>3&3, flags&0x20 != 0
	if flags&1 != 0 || willQoS > 2 || !hasWill && (willQoS != 0 || willRetain) || c.version < version5 && c.hasPassword && !c.hasUser {
		return nil, malformed("connect flags")
	}
	if hasWill {
		c.decodeWill(&r, willQoS, willRetain)
	}
	if c.hasUser {
		c.user = string(r.text())
	}
	if c.hasPassword {
		c.password = string(r.bytes())
	}
	if r.bad || len(r.b) > 0 {
		return nil, malformed("connect")
	}
	return c, nil
}

func (c *connectPacket) decodeWill(r *reader, qos byte, retain bool) {
	w := &publication{qos: qos, retain: retain}
	w.props.decode(r, allowedWill, c.version)
	c.willDelay = w.props.willDelay
	w.topic = []byte(string(r.text()))
	w.payload = []byte(string(r.bytes()))
	if !validTopic(string(w.topic)) {
		r.fail()
	}
	c.will = w
}

// encode writes CONNECT. A will has no properties.
func (c *connectPacket) encode(props []byte) []byte {
	name := "MQTT"
	body := appendText(make([]byte, 0, 128), name)
	flags := byte(0)
	if c.cleanStart {
		flags |= 0x02
	}
	if w := c.will; w != nil {
		flags |= 0x04 | w.qos<<3
		if w.retain {
			flags |= 0x20
		}
	}
	if c.hasUser {
		flags |= 0x80
	}
	if c.hasPassword {
		flags |= 0x40
	}
	body = append(body, c.version, flags)
	body = binary.BigEndian.AppendUint16(body, c.keepAlive)
	if c.version == version5 {
		body = appendList(body, props)
	}
	body = appendText(body, c.clientID)
	if w := c.will; w != nil {
		if c.version == version5 {
			body = append(body, 0)
		}
		body = appendText(appendText(body, w.topic), w.payload)
	}
	if c.hasUser {
		body = appendText(body, c.user)
	}
	if c.hasPassword {
		body = appendText(body, c.password)
	}
	return append(appendVarint([]byte{kindConnect << 4}, len(body)), body...)
}

func encodeConnack(version byte, present bool, code byte, props []byte) []byte {
	flag := byte(0)
	if present {
		flag = 1
	}
	if version < version5 {
		return []byte{kindConnack << 4, 2, flag, code}
	}
	b := appendVarint([]byte{kindConnack << 4}, 2+varintLen(len(props))+len(props))
	return appendList(append(b, flag, code), props)
}

func decodeConnack(p packet, version byte) (present bool, code byte, props *properties, err error) {
	r := reader{b: p.body}
	flags := r.u8()
	code = r.u8()
	props = &properties{maximumQoS: 2, retainAvailable: 1}
	props.decode(&r, allowedConnack, version)
	if p.kind() != kindConnack || r.bad || len(r.b) > 0 || flags > 1 {
		return false, 0, nil, malformed("connack")
	}
	return flags == 1, code, props, nil
}

// decodeFilters reads the filters of SUBSCRIBE or UNSUBSCRIBE and returns how many
// there are.
func decodeFilters(p packet, version byte) (id uint16, count int, err error) {
	r := reader{b: p.body}
	id = r.u16()
	var props properties
	subscribes := p.kind() == kindSubscribe
	if subscribes {
		props.decode(&r, allowedSubscribe, version)
	} else {
		props.decode(&r, allowedUnsubscribe, version)
	}
	for len(r.b) > 0 {
		count++
		r.text()
		if subscribes {
			r.u8()
		}
	}
	if r.bad || count == 0 || id == 0 {
		return 0, 0, malformed("subscription")
	}
	return id, count, nil
}

// appendSubscribe writes SUBSCRIBE with one QoS for all filters.
func appendSubscribe(b []byte, version byte, id uint16, filters []string, qos byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if version == version5 {
		body = append(body, 0)
	}
	for _, f := range filters {
		body = append(appendText(body, f), qos)
	}
	return append(appendVarint(append(b, kindSubscribe<<4|2), len(body)), body...)
}

// decodeSuback returns the worst reason of SUBACK; below 0x80 all were granted.
func decodeSuback(p packet, version byte, filters int) (worst byte, err error) {
	r := reader{b: p.body}
	id := r.u16()
	var props properties
	props.decode(&r, allowedAck, version)
	if r.bad || id == 0 || len(r.b) != filters {
		return 0, malformed("suback")
	}
	for _, code := range r.b {
		worst = max(worst, code)
	}
	return worst, nil
}

// validTopic reports whether a message can be published to s.
func validTopic(s string) bool {
	return s != "" && validField(s) && !strings.ContainsAny(s, "+#")
}

// validFilter reports whether s can be subscribed to (MQTT 5 §4.7).
func validFilter(s string) bool {
	if s == "" || !validField(s) {
		return false
	}
	levels := strings.Split(s, "/")
	for i, level := range levels {
		switch {
		case level == "#" && i == len(levels)-1, level == "+":
		case strings.ContainsAny(level, "+#"):
			return false
		}
	}
	return true
}

// matches reports whether filter selects topic. Filters that start with a wildcard
// do not select topics that start with $ (MQTT 5 §4.7.2).
func matches(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && (filter == "" || filter[0] != '$') {
		return false
	}
	for {
		f, restF, moreF := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, restT, moreT := strings.Cut(topic, "/")
		switch {
		case f != "+" && f != t:
			return false
		case !moreF && !moreT:
			return true
		case !moreT:
			return restF == "#"
		case !moreF:
			return false
		}
		filter, topic = restF, restT
	}
}
