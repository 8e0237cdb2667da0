package journal

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/linkspan/linkspan/queue/internal/plant"
)

// blockSize is how much of a segment one entry of the index covers, at least; a block
// ends with the frame that fills it. It is the unit of reading.
const blockSize = 64 * kib

// block is a part of a segment in memory: whole frames that were verified, and where
// each topic's records are in them.
type block struct {
	at      place
	covered int64 // bytes on disk that it stands for
	frames  []byte
	runs    map[uint32]*track
}

// track is where the consecutive records of a topic are. A spot that is zero has no
// record: it was damaged.
type track struct {
	first uint64
	spots []spot
}

type spot struct {
	frame  uint32
	record uint32
}

func (r *track) find(offset uint64) (spot, bool) {
	if r == nil || offset < r.first || offset-r.first >= uint64(len(r.spots)) {
		return spot{}, false
	}
	s := r.spots[offset-r.first]
	return s, s.record != 0
}

// clip leaves only the offsets from first up to end. A frame that a disk wrote to the
// wrong place must not answer for offsets that are somewhere else.
func (r *track) clip(first, end uint64) {
	skip := min(max(first, r.first)-r.first, uint64(len(r.spots)))
	r.first, r.spots = r.first+skip, r.spots[skip:]
	if end < r.first+uint64(len(r.spots)) {
		r.spots = r.spots[:max(end, r.first)-r.first]
	}
}

// append adds an intact frame that takes size bytes on disk. What readers hold of the
// block stays as it is.
func (b *block) append(frame []byte, size int64) {
	if b.frames == nil {
		b.frames = make([]byte, 0, max(len(frame), min(blockSize+16*kib, 4*len(frame))))
	}
	base := len(b.frames)
	b.frames = append(b.frames, frame...)
	b.note(frame, base, size)
}

// take is append for a frame whose memory may be kept. The only frame of a block, as
// after a large batch, needs no copy.
func (b *block) take(frame []byte, size int64, only bool) {
	if !only {
		b.append(frame, size)
		return
	}
	b.frames = frame
	b.note(frame, 0, size)
}

// note says that an intact frame is at base in the block.
func (b *block) note(frame []byte, base int, size int64) {
	b.covered += size
	body := frame[headerSize : headerSize+frameBody(frame)]
	var last *track
	var lastID uint32
	for at, r := range records(body) {
		if r.kind != recordPublish {
			continue
		}
		if last == nil || r.id != lastID {
			if last = b.runs[r.id]; last == nil {
				last = &track{first: r.offset}
				b.runs[r.id] = last
			}
			lastID = r.id
		}
		last.put(r.offset, spot{frame: uint32(base), record: uint32(base + headerSize + at)})
	}
}

// put records where an offset is. Offsets that repeat are ignored.
func (r *track) put(offset uint64, s spot) {
	next := r.first + uint64(len(r.spots))
	if offset < next || offset-next > maxUnit {
		return
	}
	for ; next < offset; next++ {
		r.spots = append(r.spots, spot{})
	}
	r.spots = append(r.spots, s)
}

// damage is a range of a segment that did not verify.
type damage struct {
	at   place
	data []byte
	lost []record // headers of records that are known to be lost

	frames uint64 // how many are missing, if known
}

// parseBlock verifies what was read at a place. Damaged ranges are replaced by what
// could be saved of them, so that readers meet intact frames only.
// aead is the segment's cipher, or nil. The block may keep data.
func parseBlock(at place, data []byte, epoch uint64, aead cipher.AEAD) (*block, []damage) {
	b := &block{at: at, runs: map[uint32]*track{}}
	var bad []damage
	var last frameHeader
	followed := 0 // damaged ranges that the gaps so far are explained by
	for pos := 0; pos < len(data); {
		h, _, ok := decodeFrame(data[pos:])
		ok = ok && h.epoch == epoch && int64(pos)+h.size() <= int64(len(data))
		// A frame that is older than the one before it was written to the wrong place.
		if ok && (h.number > last.number || plant.On(plant.NoOrder)) {
			stored := data[pos : pos+int(h.size())]
			if frame, ok := verifyFrame(h, stored, aead); ok {
				if last.number > 0 && h.number > last.number+1 && followed == len(bad) && !plant.On(plant.NoOrder) {
					bad = append(bad, damage{at: at + place(pos)}) // what was here is gone
				}
				followed = len(bad)
				b.take(frame, h.size(), len(stored) == len(data))
				pos, last = pos+len(stored), h
				continue
			}
			last = h
		}
		end := len(data)
		if ok {
			end = pos + int(h.size())
		} else if next := findFrame(data, pos+frameAlign, epoch); next >= 0 {
			end = next
		}
		frame, lost := repair(data[pos:end], last, epoch, aead)
		bad = append(bad, damage{at: at + place(pos), data: data[pos:end], lost: lost})
		b.append(frame, int64(end-pos))
		pos = end
	}
	return b, bad
}

// verifyFrame returns a stored frame in clear if its body is what was written.
func verifyFrame(h frameHeader, stored []byte, aead cipher.AEAD) (frame []byte, ok bool) {
	if checksum(stored[headerSize:headerSize+h.body]) != h.bodyCRC && !plant.On(plant.BodyCRC) {
		return nil, false
	}
	return plainFrame(h, stored, aead)
}

// findFrame returns the position of the next intact header of this epoch, or -1.
func findFrame(data []byte, from int, epoch uint64) int {
	var pattern [8]byte
	binary.LittleEndian.PutUint64(pattern[:], epoch)
	for from+headerSize <= len(data) {
		i := bytes.Index(data[from+8:], pattern[:])
		if i < 0 {
			return -1
		}
		from += i
		if h, _, ok := decodeFrame(data[from:]); ok && from%frameAlign == 0 && h.epoch == epoch {
			return from
		}
		from++
	}
	return -1
}

// repair makes an intact frame of the records in damaged bytes that verify. like is
// the header of the damaged frame, or of the one before it, for the time.
func repair(damaged []byte, like frameHeader, epoch uint64, aead cipher.AEAD) (frame []byte, lost []record) {
	var good []byte
	var count uint32
	if aead == nil {
		good, count, lost = salvage(damaged, seed(epoch))
	} else {
		var at int64
		if good, count, at, lost = recoverBody(damaged, epoch, aead); at != 0 {
			like.time = at
		}
	}
	like.flags, like.key = 0, 0
	like.epoch, like.body, like.count, like.bodyCRC = epoch, uint32(len(good)), count, checksum(good)
	frame = make([]byte, headerSize, like.size())
	like.encode(frame)
	frame = append(frame, good...)
	return frame[:like.size()], lost
}
