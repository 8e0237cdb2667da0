package journal

import (
	"bytes"
	"testing"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

func sampleFrame(epoch uint64) []byte {
	body := []byte{}
	for i := range 3 {
		var at int
		body, at = beginRecord(body, recordPublish, 1, uint64(i))
		body = appendMessage(body, &message.Message{ID: "x", Key: []byte("k"), Headers: message.Headers{{Name: "n", Value: message.Int(7)}}, Payload: []byte("payload")})
		endRecord(body, at)
	}
	sealRecords(body, seed(epoch))
	h := frameHeader{epoch: epoch, number: 1, body: uint32(len(body)), count: 3, bodyCRC: checksum(body)}
	frame := make([]byte, headerSize)
	h.encode(frame)
	frame = append(frame, body...)
	return append(frame, make([]byte, int(h.size())-len(frame))...)
}

func FuzzBlock(f *testing.F) {
	good := sampleFrame(5)
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	flipped := bytes.Clone(good)
	flipped[headerSize+3] ^= 1
	f.Add(append(flipped, good...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		b, bad := parseBlock(0, data, 5, nil)
		size := 0
		for _, d := range bad {
			size += len(d.data)
		}
		if size > len(data) {
			t.Errorf("%d damaged bytes in %d", size, len(data))
		}
		for _, r := range b.runs {
			for i := range r.spots {
				if s, ok := r.find(r.first + uint64(i)); ok {
					var m message.Message
					_ = decodeMessage(parseRecord(b.frames[s.record:]).body, &m)
				}
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range []message.Message{{}, {ID: "i", Topic: "t", Key: []byte{}}, {Headers: message.Headers{{Name: "a", Value: message.Bool(true)}}}} {
		f.Add(appendMessage(nil, &m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m, again message.Message
		if decodeMessage(data, &m) != nil {
			return
		}
		if err := decodeMessage(appendMessage(nil, &m), &again); err != nil {
			t.Errorf("a decoded message does not survive: %v", err)
		}
		if !bytes.Equal(m.Payload, again.Payload) || m.ID != again.ID || len(m.Headers) != len(again.Headers) {
			t.Errorf("%+v became %+v", m, again)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	e := &Engine{index: index{topics: map[uint32]*topic{}, cache: newCache(1)}, topics: map[string]*topic{}}
	f.Add(e.encodeCheckpoint(1)[checkpointHeader:])
	t1 := &topic{e: e, id: 1, name: "t"}
	t1.log = topicLog{end: 9, bytes: 90, entries: []entry{{first: 0, at: placeOf(1, 64)}, {first: 5, at: placeOf(1, 128), bytes: 50}}}
	e.adopt(t1)
	set := delivery.NewSet(2)
	set.AddRange(4, 6)
	e.register(&subscriber{id: 1, name: "s", topic: t1, win: delivery.New(set, 9, nil)})
	e.index.segments = []*segment{{number: 1, epoch: 3, end: 200, blocks: []uint32{8, 16}}}
	full := e.encodeCheckpoint(2)
	f.Add(full[checkpointHeader : len(full)-4])
	f.Fuzz(func(_ *testing.T, body []byte) {
		// The checksum is right, as it would be for a writer with a fault.
		data := make([]byte, checkpointHeader, checkpointHeader+len(body)+4)
		copy(data, full[:checkpointHeader])
		data = append(data, body...)
		sum := checksum(data)
		_, _ = decodeCheckpoint(append(data, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)), time.Now)
	})
}

func TestCheckpointRoundTrip(t *testing.T) {
	e := &Engine{index: index{topics: map[uint32]*topic{}, cache: newCache(1)}, topics: map[string]*topic{}, lastTopic: 4, lastSub: 5}
	e.committer = committer{number: 77, prev: 88}
	tp := &topic{e: e, id: 1, name: "t", gone: goneSet{}}
	tp.log = topicLog{end: 9, bytes: 90, entries: []entry{{first: 0, at: placeOf(1, 64)}, {first: 5, at: placeOf(1, 128), bytes: 50}}}
	e.adopt(tp)
	set := delivery.NewSet(2)
	set.AddRange(4, 6)
	e.register(&subscriber{id: 1, name: "s", topic: tp, win: delivery.New(set, 9, nil)})
	e.index.segments = []*segment{{number: 1, epoch: 3, end: 200, blocks: []uint32{8, 16}}}
	data := e.encodeCheckpoint(2)
	cp, err := decodeCheckpoint(data, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if cp.mark != placeOf(1, 200) || cp.number != 77 || cp.prev != 88 || cp.lastTopic != 4 || cp.lastSub != 5 || len(cp.segments) != 1 {
		t.Errorf("checkpoint %+v", cp)
	}
	if got := cp.topics[0].log; got.end != 9 || len(got.entries) != 2 || got.entries[1] != tp.log.entries[1] {
		t.Errorf("topic %+v", got)
	}
	cp.subs[0].win.View(func(s *delivery.Set) {
		if s.Floor() != 2 || !s.Has(5) || s.Has(6) || s.Above() != 2 {
			t.Errorf("settled %+v", s)
		}
	})
	for i := range data {
		data[i] ^= 1
		if _, err := decodeCheckpoint(data, time.Now); err == nil && i >= 4 {
			t.Errorf("byte %d is not covered by a checksum", i)
		}
		data[i] ^= 1
	}
}

func TestAckRanges(t *testing.T) {
	for _, offsets := range [][]uint64{{0}, {5, 6, 7}, {1, 3, 4, 9}, {0, 1 << 40}} {
		b := appendAck(nil, 3, offsets)
		r := parseRecord(b)
		var got []uint64
		decodeAck(&r, func(first, end uint64) bool {
			for o := first; o < end; o++ {
				got = append(got, o)
			}
			return true
		})
		if len(got) != len(offsets) {
			t.Errorf("%v became %v", offsets, got)
		}
		for i := range got {
			if got[i] != offsets[i] {
				t.Errorf("%v became %v", offsets, got)
			}
		}
	}
}
