package amqp1

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// The performatives, states and parts that the peer of the tests knows, by descriptor.
const (
	pOpen        = 0x10
	pBegin       = 0x11
	pAttach      = 0x12
	pFlow        = 0x13
	pTransfer    = 0x14
	pDisposition = 0x15
	pDetach      = 0x16
	pEnd         = 0x17
	pClose       = 0x18
	pError       = 0x1d
	pAccepted    = 0x24
	pRejected    = 0x25
	pReleased    = 0x26
	pModified    = 0x27
	pMechanisms  = 0x40
	pInit        = 0x41
	pOutcome     = 0x44
)

// symbol is a text of the type symbol, and described a value with its descriptor.
type (
	symbol    string
	described struct {
		code  uint64
		value any
	}
)

// encode writes a value (AMQP 1.0 part 1 §1.6).
func encode(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 0x40)
	case bool:
		if v {
			return append(b, 0x41)
		}
		return append(b, 0x42)
	case uint8:
		return append(b, 0x50, v)
	case uint16:
		return binary.BigEndian.AppendUint16(append(b, 0x60), v)
	case uint32:
		return binary.BigEndian.AppendUint32(append(b, 0x70), v)
	case uint64:
		return binary.BigEndian.AppendUint64(append(b, 0x80), v)
	case string:
		return append(binary.BigEndian.AppendUint32(append(b, 0xb1), uint32(len(v))), v...)
	case symbol:
		return append(binary.BigEndian.AppendUint32(append(b, 0xb3), uint32(len(v))), v...)
	case []byte:
		return append(binary.BigEndian.AppendUint32(append(b, 0xb0), uint32(len(v))), v...)
	case described:
		return encode(append(b, 0x00, 0x53, byte(v.code)), v.value)
	case []any:
		var items []byte
		for _, item := range v {
			items = encode(items, item)
		}
		b = binary.BigEndian.AppendUint32(append(b, 0xd0), uint32(len(items)+4))
		return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), items...)
	default:
		panic("no such type")
	}
}

// decode reads a value. All whole numbers are uint64. Maps and arrays are passed over.
func decode(b []byte) (v any, rest []byte) {
	code, b := b[0], b[1:]
	wide := func(n int) uint64 {
		var x uint64
		for _, c := range b[:n] {
			x = x<<8 | uint64(c)
		}
		b = b[n:]
		return x
	}
	switch {
	case code == 0x00:
		var d described
		descriptor, rest := decode(b)
		d.code, _ = descriptor.(uint64)
		d.value, rest = decode(rest)
		return d, rest
	case code == 0x40:
		return nil, b
	case code == 0x41, code == 0x42:
		return code == 0x41, b
	case code == 0x56:
		return wide(1) == 1, b
	case code == 0x43, code == 0x44:
		return uint64(0), b
	case code == 0x45:
		return []any{}, b
	case code>>4 == 0x5:
		return wide(1), b
	case code>>4 == 0x6:
		return wide(2), b
	case code>>4 == 0x7:
		return wide(4), b
	case code>>4 == 0x8:
		return wide(8), b
	}
	width := 1
	if code>>4&1 == 1 {
		width = 4
	}
	size := int(wide(width))
	body, rest := b[:size], b[size:]
	switch code >> 4 {
	case 0xa, 0xb:
		if code&0xf == 0 {
			return body, rest
		}
		return string(body), rest
	case 0xc, 0xd:
		if code&0xf == 1 {
			return nil, rest
		}
		list := []any{}
		for body = body[width:]; len(body) > 0; {
			var item any
			item, body = decode(body)
			list = append(list, item)
		}
		return list, rest
	default:
		return nil, rest
	}
}

// fields is the list of a composite. An absent field is nil.
type fields []any

func (f fields) at(i int) any {
	if i < len(f) {
		return f[i]
	}
	return nil
}

func (f fields) number(i int) uint32 { n, _ := f.at(i).(uint64); return uint32(n) }
func (f fields) flag(i int) bool     { b, _ := f.at(i).(bool); return b }

// address returns that of a source or target.
func (f fields) address(i int) string {
	d, _ := f.at(i).(described)
	list, _ := d.value.([]any)
	s, _ := fields(list).at(0).(string)
	return s
}

// wireFrame writes a frame (part 2 §2.3, part 5 §5.3.1).
func wireFrame(kind byte, channel uint16, code uint64, list []any, payload []byte) []byte {
	body := append(encode(nil, described{code, list}), payload...)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+8))
	b = binary.BigEndian.AppendUint16(append(b, 2, kind), channel)
	return append(b, body...)
}

func readWire(r *bufio.Reader) (channel uint16, code uint64, f fields, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, nil, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 8 || size > 1<<20 {
		return 0, 0, nil, nil, errors.New("size of a frame")
	}
	body := make([]byte, size-8)
	if _, err := io.ReadFull(r, body); err != nil || len(body) == 0 {
		return 0, 0, nil, nil, err
	}
	v, rest := decode(body)
	d, ok := v.(described)
	if !ok {
		return 0, 0, nil, nil, errors.New("no performative")
	}
	list, _ := d.value.([]any)
	return binary.BigEndian.Uint16(head[6:]), d.code, list, rest, nil
}
