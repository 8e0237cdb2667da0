package journal

import (
	"encoding/binary"
	"time"

	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// decodeCheckpoint is the inverse of encodeCheckpoint.
func decodeCheckpoint(data []byte, now func() time.Time) (*checkpoint, error) {
	n := len(data) - 4
	if n < checkpointHeader || binary.LittleEndian.Uint32(data) != checkpointMagic || data[4] != version ||
		checksum(data[:n]) != binary.LittleEndian.Uint32(data[n:]) {
		return nil, errCheckpoint
	}
	d := &decoder{metaReader: metaReader{b: data[checkpointHeader:n]}, now: now}
	d.text = string(d.b)
	cp := &checkpoint{mark: place(d.uvarint()), number: d.uvarint(), prev: d.u32(), lastTopic: d.u32(), lastSub: d.u32(), nextStaged: d.uvarint()}
	for range d.count() {
		cp.segments = append(cp.segments, d.segment())
	}
	topics := map[uint32]*topic{}
	for range d.count() {
		t := d.topic()
		topics[t.id] = t
		cp.topics = append(cp.topics, t)
	}
	for range d.count() {
		id, first := d.u32(), d.offset(0)
		s := d.segment()
		if s.first, s.topic = first, topics[id]; s.topic == nil {
			return nil, errCheckpoint
		}
		cp.staged = append(cp.staged, s)
	}
	for range d.count() {
		s, topicID := d.subscriber(topics)
		if s.topic = topics[topicID]; s.topic == nil {
			return nil, errCheckpoint
		}
		cp.subs = append(cp.subs, s)
	}
	if d.failed || d.at != len(d.b) {
		return nil, errCheckpoint
	}
	return cp, nil
}

// decoder reads the parts of a checkpoint. After a failure it yields zero values.
type decoder struct {
	metaReader
	now func() time.Time
}

func newDecoder(b []byte) *decoder {
	return &decoder{metaReader: metaReader{b: b, text: string(b)}}
}

func (d *decoder) u32() uint32 {
	v := d.uvarint()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

// count reads the number of things that follow, each of which takes a byte at least.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.b)-d.at) {
		d.fail()
		return 0
	}
	return n
}

// offset reads an offset or a place, which grows from one to the next.
func (d *decoder) offset(prev uint64) uint64 {
	v := d.uvarint()
	if v > maxOffset-min(prev, maxOffset) {
		d.fail()
		return 0
	}
	return prev + v
}

func (d *decoder) set(limit uint64) delivery.Set {
	s, rest, err := delivery.DecodeSet(d.b[d.at:], limit)
	if err != nil {
		d.fail()
		return delivery.Set{}
	}
	d.at = len(d.b) - len(rest)
	return s
}

func (d *decoder) segment() *segment {
	s := &segment{number: d.uvarint(), epoch: d.uvarint(), key: d.u32(), end: int64(d.uvarint())}
	if s.number >= maxSegments || s.end < headerSize || s.end >= 1<<positionLow {
		d.fail()
	}
	n := d.count()
	s.blocks = make([]uint32, 0, n)
	prev := uint32(0)
	for range n {
		at := d.offset(uint64(prev))
		if int64(at)*frameAlign >= s.end {
			d.fail()
			break
		}
		prev = uint32(at)
		s.blocks = append(s.blocks, prev)
	}
	return s
}

func (d *decoder) topic() *topic {
	t := &topic{id: d.u32(), name: d.string()}
	var held bool
	t.o, held = d.options()
	t.held.Store(held)
	t.known = d.known()
	t.log.end = d.offset(0)
	t.log.bytes = d.uvarint()
	t.gone.set = d.set(t.log.end)
	t.next = t.log.end
	n := d.count()
	t.log.entries = make([]entry, 0, n/6)
	var x entry
	for range n {
		x = entry{
			first: d.offset(x.first), at: x.at + place(d.varint()), bytes: x.bytes + d.uvarint(),
			digest: digest{newest: uint32(int64(x.newest) + d.varint()), due: d.u32(), lanes: uint16(d.u32())},
		}
		if x.due != 0 {
			t.delays.Store(true)
		}
		t.log.entries = append(t.log.entries, x)
	}
	return t
}

func (d *decoder) subscriber(topics map[uint32]*topic) (s *subscriber, topicID uint32) {
	s = &subscriber{id: d.u32()}
	topicID = d.u32()
	s.name = d.string()
	end := uint64(0)
	if t := topics[topicID]; t != nil {
		end = t.log.end
	}
	s.win = delivery.New(d.set(end), end, d.now)
	f := delivery.Failed{}
	for range d.count() {
		f = d.failure(d.offset(f.Offset))
		s.win.Fail(f)
	}
	return s, topicID
}

// failure reads what is noted of a message that failed.
func (d *decoder) failure(offset uint64) delivery.Failed {
	return delivery.Failed{Offset: offset, Attempts: d.u32(), Due: d.varint()}
}
