package journal

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/linkspan/linkspan/queue/internal/plant"
)

// All integers on disk are little-endian. docs/format/journal.md draws the layouts.
const (
	frameMagic   = 0x314a534c // "LSJ1"
	segmentMagic = 0x534a534c // "LSJS"
	version      = 1

	headerSize  = 64 // of a frame and of a segment
	frameAlign  = 8
	positionLow = 28 // bits of a position within its segment

	maxSegments = 1 << 33 // numbers of segments are below it
)

// castagnoli returns the table of CRC32C, for which processors have an instruction.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli()) }

// place is a position: the segment's number and the byte in it. In the journal its
// order is the order of writing. Topic segments have numbers of their own, and a bit
// that says so.
type place uint64

const topicPlace = place(maxSegments << positionLow)

func placeOf(segment uint64, pos int64) place {
	return place(segment<<positionLow | uint64(pos))
}

func (p place) segment() uint64 { return uint64(p&^topicPlace) >> positionLow }
func (p place) inTopic() bool   { return p&topicPlace != 0 }
func (p place) pos() int64      { return int64(p & (1<<positionLow - 1)) }

// frameHeader describes a frame: the records of one commit, which hold together or
// not at all. A header without records is a tail mark: it promises the frames before
// it and is overwritten by the next frame.
type frameHeader struct {
	epoch   uint64 // of this use of the segment; frames of an earlier use never match
	number  uint64 // counts the frames of the journal, from 1
	body    uint32 // bytes of records
	count   uint32 // records
	stable  uint64 // every frame up to this number was stable before this one was written
	time    int64  // of the commit, nanoseconds since 1970
	prev    uint32 // header CRC of the frame before
	bodyCRC uint32 // as it is stored
	flags   byte
	key     uint32 // id of the data key of an encrypted segment
}

// size is what the frame takes in the segment.
func (h *frameHeader) size() int64 { return frameSize(int(h.body)) }

func frameSize(body int) int64 {
	return headerSize + int64(body+frameAlign-1)/frameAlign*frameAlign
}

// encode writes the header to b and returns its CRC.
func (h *frameHeader) encode(b []byte) uint32 {
	clear(b[:headerSize])
	binary.LittleEndian.PutUint32(b, frameMagic)
	b[4], b[5] = version, h.flags
	binary.LittleEndian.PutUint64(b[8:], h.epoch)
	binary.LittleEndian.PutUint64(b[16:], h.number)
	binary.LittleEndian.PutUint32(b[24:], h.body)
	binary.LittleEndian.PutUint32(b[28:], h.count)
	binary.LittleEndian.PutUint64(b[32:], h.stable)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.time))
	binary.LittleEndian.PutUint32(b[48:], h.prev)
	binary.LittleEndian.PutUint32(b[52:], h.bodyCRC)
	binary.LittleEndian.PutUint32(b[56:], h.key)
	crc := checksum(b[:headerSize-4])
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc)
	return crc
}

// decodeFrame reads a header and its CRC. ok is false when b does not start with a
// header, or with a damaged one.
func decodeFrame(b []byte) (h frameHeader, crc uint32, ok bool) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b) != frameMagic || b[4] != version {
		return h, 0, false
	}
	crc = binary.LittleEndian.Uint32(b[headerSize-4:])
	if checksum(b[:headerSize-4]) != crc && !plant.On(plant.FrameHeaderCRC) {
		return h, 0, false
	}
	h = frameHeader{
		epoch:   binary.LittleEndian.Uint64(b[8:]),
		number:  binary.LittleEndian.Uint64(b[16:]),
		body:    binary.LittleEndian.Uint32(b[24:]),
		count:   binary.LittleEndian.Uint32(b[28:]),
		stable:  binary.LittleEndian.Uint64(b[32:]),
		time:    frameTime(b),
		prev:    binary.LittleEndian.Uint32(b[48:]),
		bodyCRC: binary.LittleEndian.Uint32(b[52:]),
		flags:   b[5],
		key:     binary.LittleEndian.Uint32(b[56:]),
	}
	return h, crc, h.body < 1<<positionLow
}

// frameBody returns the length of the records of a frame that is intact.
func frameBody(b []byte) int { return int(binary.LittleEndian.Uint32(b[24:])) }

// frameTime returns the time in a header that is known to be intact.
func frameTime(b []byte) int64 {
	return int64(binary.LittleEndian.Uint64(b[40:]))
}

// segmentHeader starts a segment that is in use. A file whose header is empty, or
// has another number than the file's name, waits to be used.
type segmentHeader struct {
	number uint64
	epoch  uint64
	frame  uint64 // number of the first frame
	size   int64  // of the file when it came into use; it never gets shorter
	key    uint32 // id of the data key, or 0
}

func (h *segmentHeader) encode(b []byte) {
	clear(b[:headerSize])
	binary.LittleEndian.PutUint32(b, segmentMagic)
	b[4] = version
	binary.LittleEndian.PutUint64(b[8:], h.epoch)
	binary.LittleEndian.PutUint64(b[16:], h.number)
	binary.LittleEndian.PutUint64(b[24:], h.frame)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.size))
	binary.LittleEndian.PutUint32(b[40:], h.key)
	binary.LittleEndian.PutUint32(b[headerSize-4:], checksum(b[:headerSize-4]))
}

func decodeSegment(b []byte) (h segmentHeader, ok bool) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b) != segmentMagic || b[4] != version ||
		checksum(b[:headerSize-4]) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return h, false
	}
	return segmentHeader{
		epoch:  binary.LittleEndian.Uint64(b[8:]),
		number: binary.LittleEndian.Uint64(b[16:]),
		frame:  binary.LittleEndian.Uint64(b[24:]),
		size:   int64(binary.LittleEndian.Uint64(b[32:])),
		key:    binary.LittleEndian.Uint32(b[40:]),
	}, true
}
