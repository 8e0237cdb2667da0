package amqp091

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// The methods that the broker of the tests knows, class and method in one number.
const (
	connStart   = 10<<16 | 10
	connStartOk = 10<<16 | 11
	connTune    = 10<<16 | 30
	connTuneOk  = 10<<16 | 31
	connOpen    = 10<<16 | 40
	connOpenOk  = 10<<16 | 41
	connClose   = 10<<16 | 50
	connCloseOk = 10<<16 | 51
	connBlocked = 10<<16 | 60
	connFree    = 10<<16 | 61

	chanOpen    = 20<<16 | 10
	chanOpenOk  = 20<<16 | 11
	chanClose   = 20<<16 | 40
	chanCloseOk = 20<<16 | 41

	exDeclare   = 40<<16 | 10
	exDeclareOk = 40<<16 | 11

	queueDeclare   = 50<<16 | 10
	queueDeclareOk = 50<<16 | 11
	queueBind      = 50<<16 | 20
	queueBindOk    = 50<<16 | 21

	basicQos       = 60<<16 | 10
	basicQosOk     = 60<<16 | 11
	basicConsume   = 60<<16 | 20
	basicConsumeOk = 60<<16 | 21
	basicCancel    = 60<<16 | 30
	basicCancelOk  = 60<<16 | 31
	basicPublish   = 60<<16 | 40
	basicReturn    = 60<<16 | 50
	basicDeliver   = 60<<16 | 60
	basicAck       = 60<<16 | 80
	basicReject    = 60<<16 | 90
	basicNack      = 60<<16 | 120

	confirmSelect   = 85<<16 | 10
	confirmSelectOk = 85<<16 | 11
)

const (
	frameMethod = 1
	frameHeader = 2
	frameBody   = 3
	frameBeat   = 8
	frameEnd    = 0xce
)

// wireFrame is one frame (AMQP 0-9-1 §4.2.3).
type wireFrame struct {
	kind    byte
	channel uint16
	payload []byte
}

func readWire(r *bufio.Reader) (f wireFrame, err error) {
	var head [7]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	f.kind, f.channel = head[0], binary.BigEndian.Uint16(head[1:])
	size := binary.BigEndian.Uint32(head[3:])
	if size > 1<<20 {
		return f, errors.New("frame too large")
	}
	f.payload = make([]byte, size+1)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	if f.payload[size] != frameEnd {
		return f, errors.New("no frame end")
	}
	f.payload = f.payload[:size]
	return f, nil
}

func (f wireFrame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, f.kind), f.channel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.payload)))
	return append(append(b, f.payload...), frameEnd)
}

// args reads the arguments of a method. After too little it gives zeros.
type args struct{ b []byte }

func (a *args) take(n int) []byte {
	if len(a.b) < n {
		a.b = nil
		return make([]byte, n)
	}
	out := a.b[:n]
	a.b = a.b[n:]
	return out
}

func (a *args) u8() byte      { return a.take(1)[0] }
func (a *args) u16() uint16   { return binary.BigEndian.Uint16(a.take(2)) }
func (a *args) u32() uint32   { return binary.BigEndian.Uint32(a.take(4)) }
func (a *args) u64() uint64   { return binary.BigEndian.Uint64(a.take(8)) }
func (a *args) short() string { return string(a.take(int(a.u8()))) }
func (a *args) long() []byte  { return a.take(int(a.u32())) }

// method builds a method.
type method struct{ b []byte }

func call091(id uint32) *method { return &method{binary.BigEndian.AppendUint32(nil, id)} }

func (m *method) u8(v byte) *method    { m.b = append(m.b, v); return m }
func (m *method) u16(v uint16) *method { m.b = binary.BigEndian.AppendUint16(m.b, v); return m }
func (m *method) u32(v uint32) *method { m.b = binary.BigEndian.AppendUint32(m.b, v); return m }
func (m *method) u64(v uint64) *method { m.b = binary.BigEndian.AppendUint64(m.b, v); return m }
func (m *method) short(s string) *method {
	m.b = append(append(m.b, byte(len(s))), s...)
	return m
}

func (m *method) long(s string) *method {
	m.b = append(binary.BigEndian.AppendUint32(m.b, uint32(len(s))), s...)
	return m
}
