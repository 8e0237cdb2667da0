package journal

import (
	"bytes"
	"crypto/cipher"
	"fmt"
	"testing"

	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
)

func testMaster(t *testing.T) Master {
	t.Helper()
	src, err := keys.New(make([]byte, keys.Size))
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMaster(src)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sealedSegment returns a journal segment with n frames of one message each, all of
// the same size, and what reads it.
func sealedSegment(t *testing.T, n int) (mem *vfs.Mem, data []byte, epoch uint64, aead cipher.AEAD) {
	t.Helper()
	mem = vfs.NewMem()
	e, err := Open(t.Context(), "/data", Options{FS: mem, Master: testMaster(t)})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := topic.Publish(t.Context(), []message.Message{{Payload: fmt.Appendf(nil, "message %04d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	s := e.index.segments[0]
	epoch, aead = s.epoch, s.aead
	data = make([]byte, s.end)
	if _, err := s.file.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return mem, data, epoch, aead
}

// frames returns where the frames of a segment are.
func framesIn(t *testing.T, data []byte, epoch uint64) (at []int, headers []frameHeader) {
	t.Helper()
	for pos := headerSize; pos < len(data); {
		h, _, ok := decodeFrame(data[pos:])
		if !ok || h.epoch != epoch {
			t.Fatalf("no frame at %d", pos)
		}
		at, headers = append(at, pos), append(headers, h)
		pos += int(h.size())
	}
	return at, headers
}

// forge recomputes the checksums of a frame, as somebody who can write the file would.
func forge(b []byte, h frameHeader) {
	h.bodyCRC = checksum(b[headerSize : headerSize+h.body])
	h.encode(b)
}

// Frames and units that were moved, exchanged, cut or made up are refused, although
// every checksum holds.
func TestForgedFrames(t *testing.T) {
	_, data, epoch, aead := sealedSegment(t, 6)
	at, headers := framesIn(t, data, epoch)
	const victim, other = 3, 4
	size := int(headers[victim].size())
	if headers[other].size() != headers[victim].size() {
		t.Fatal("frames of different size")
	}
	body := func(b []byte) []byte { return b[headerSize : headerSize+headers[victim].body] }
	cases := map[string]func(b []byte){
		"body of another frame": func(b []byte) {
			copy(body(b[at[victim]:]), body(data[at[other]:]))
			forge(b[at[victim]:], headers[victim])
		},
		"whole frame with another number": func(b []byte) {
			copy(b[at[victim]:at[victim]+size], data[at[other]:])
			h := headers[other]
			h.number = headers[victim].number
			forge(b[at[victim]:], h)
		},
		"another time": func(b []byte) {
			h := headers[victim]
			h.time += 1e9
			forge(b[at[victim]:], h)
		},
		"in clear": func(b []byte) {
			h := headers[victim]
			h.flags = 0
			forge(b[at[victim]:], h)
		},
		"one bit of the message": func(b []byte) {
			b[at[victim]+headerSize+int(headers[victim].body)-20] ^= 1
			forge(b[at[victim]:], headers[victim])
		},
		"cut": func(b []byte) {
			h := headers[victim]
			clear(b[at[victim]+headerSize+40 : at[victim]+size])
			forge(b[at[victim]:], h)
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(data)
			change(b)
			parsed, bad := parseBlock(placeOf(1, headerSize), b[headerSize:], epoch, aead)
			if len(bad) != 1 {
				t.Fatalf("%d damaged ranges", len(bad))
			}
			run := parsed.runs[1]
			for offset := range uint64(6) {
				s, ok := run.find(offset)
				if !ok {
					continue
				}
				var m message.Message
				r := parseRecord(parsed.frames[s.record:])
				if err := decodeMessage(r.body, &m); err != nil || string(m.Payload) != fmt.Sprintf("message %04d", offset) {
					t.Errorf("offset %d is %q, %v", offset, m.Payload, err)
				}
			}
		})
	}
}

// Units of one frame cannot change places.
func TestSwappedUnits(t *testing.T) {
	_, _, _, aead := sealedSegment(t, 1)
	var body []byte
	for i := range 4 {
		var at int
		body, at = beginRecord(body, recordPublish, 1, uint64(i))
		body = append(body, bytes.Repeat([]byte{byte(i)}, 40*kib)...)
		endRecord(body, at)
	}
	const epoch = 77
	sealRecords(body, seed(epoch))
	h := frameHeader{epoch: epoch, number: 5, time: 9}
	sealed := sealBody(nil, &h, body, aead)
	if len(sealed) > sealedBound(len(body), 4) {
		t.Errorf("%d bytes, the bound is %d", len(sealed), sealedBound(len(body), 4))
	}
	if plain, ok := openBody(&h, sealed, aead); !ok || !bytes.Equal(plain[headerSize:], body) {
		t.Fatal("what was sealed does not open")
	}
	_, units, start, _ := readDirectory(sealed, seed(epoch))
	if len(units) != 4 {
		t.Fatalf("%d units", len(units))
	}
	size := unitHead + units[0].stored
	swapped := bytes.Clone(sealed)
	copy(swapped[start:], sealed[start+size:start+2*size])
	copy(swapped[start+size:], sealed[start:start+size])
	if _, ok := openBody(&h, swapped, aead); ok {
		t.Error("swapped units are taken")
	}
	good, n, _, lost := recoverBody(swapped, epoch, aead)
	if n != 2 || len(lost) != 2 || lost[0].offset != 0 || lost[1].offset != 1 || len(good) != 2*(recordHeader+40*kib) {
		t.Errorf("%d records saved, lost %+v", n, lost)
	}
}

// A nonce occurs once, also when a crash makes the journal go on where it was, with
// the same frame number and another message.
func TestNoncesNeverRepeat(t *testing.T) {
	mem, _, _, _ := sealedSegment(t, 10)
	seen := map[string]bool{}
	nonces := 0
	for round := range 5 {
		e, err := Open(t.Context(), "/data", Options{FS: mem, Master: testMaster(t)})
		if err != nil {
			t.Fatal(err)
		}
		topic, err := e.Topic(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if _, err := topic.Publish(t.Context(), []message.Message{{Payload: []byte{byte(round), byte(i)}}}); err != nil {
				t.Fatal(err)
			}
		}
		s := e.index.segments[len(e.index.segments)-1]
		data := make([]byte, s.end)
		if _, err := s.file.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
		at, headers := framesIn(t, data, s.epoch)
		for i, h := range headers {
			body := data[at[i]+headerSize : at[i]+headerSize+int(h.body)]
			_, units, start, ok := readDirectory(body, seed(s.epoch))
			if !ok {
				t.Fatal("no directory")
			}
			for _, u := range units {
				nonce := fmt.Sprintf("%x %x", s.epoch, body[start+unitHead:start+unitHead+12])
				if h.number > uint64(11+5*round) && seen[nonce] {
					t.Errorf("nonce of frame %d was seen before", h.number)
				}
				seen[nonce] = true
				nonces++
				start += unitHead + u.stored
			}
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if nonces < 50 {
		t.Errorf("only %d nonces were looked at", nonces)
	}
}

// A bound on decoding: no input makes the decoders of this file panic or read outside.
func FuzzSealed(f *testing.F) {
	aead := &nullAEAD{}
	h := frameHeader{epoch: 1, number: 2, time: 3}
	body, at := beginRecord(nil, recordPublish, 1, 0)
	body = append(body, "message"...)
	endRecord(body, at)
	f.Add(sealBody(nil, &h, body, aead))
	w := blockHeader{epoch: 1, first: 1, end: 2, count: 1}
	var c codec
	packed, err := c.pack(nil, &w, body, 0, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	foot := footer{topicHeader: topicHeader{epoch: 1, name: "n"}, blocks: []footerBlock{{blockHeader: w, pos: 64}}}
	f.Add(foot.encode(144))
	f.Add(foot.topicHeader.encode())
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = openBody(&h, data, aead)
		_, _, _, _ = recoverBody(data, 1, aead)
		_, _ = decodeFooter(data)
		_, _ = decodeTopicHeader(data)
		_, _ = decodeTrailer(data)
		c.parse(&segment{epoch: 1, topic: &topic{id: 1}}, topicPlace, data, nil)
	})
}

// nullAEAD lets a fuzzer get behind the tag.
type nullAEAD struct{}

func (*nullAEAD) NonceSize() int { return 0 }
func (*nullAEAD) Overhead() int  { return gcmExtra }

func (*nullAEAD) Seal(dst, _, plain, _ []byte) []byte {
	return append(append(dst, plain...), make([]byte, gcmExtra)...)
}

func (*nullAEAD) Open(dst, _, sealed, _ []byte) ([]byte, error) {
	if len(sealed) < gcmExtra {
		return nil, errBlock
	}
	return append(dst, sealed[:len(sealed)-gcmExtra]...), nil
}
