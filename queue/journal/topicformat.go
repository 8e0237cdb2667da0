package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// A topic segment is an immutable file with messages of one topic: a header, blocks, a
// footer that lists the blocks, and a trailer that says where the footer is.
// docs/format/journal.md draws it.
const (
	topicMagic   = 0x5453534c // "LSST"
	blockMagic   = 0x4253534c // "LSSB"
	footerMagic  = 0x4653534c // "LSSF"
	trailerMagic = 0x4553534c // "LSSE"

	topicsDir = "topics"
	topicExt  = ".ls"

	blockHeaderSize = 80
	footerHeader    = 32
	trailerSize     = 32

	flagCompressed = 1 << 0
	flagEncrypted  = 1 << 1
)

// topicFile names a topic segment. Its place in the folder's order is that of its
// first offset; the number tells two files apart that begin with the same message,
// because one was rewritten.
type topicFile struct {
	topic  uint32
	first  uint64
	number uint64
}

func topicFolder(id uint32) string { return path.Join(topicsDir, fmt.Sprintf("%08x", id)) }

// path returns the file's path within the data directory.
func (f topicFile) path() string {
	return path.Join(topicFolder(f.topic), fmt.Sprintf("%020d-%012x%s", f.first, f.number, topicExt))
}

// parseTopicFile is the inverse of path.
func parseTopicFile(folder, name string) (f topicFile, ok bool) {
	id, err := strconv.ParseUint(folder, 16, 32)
	if err != nil || len(folder) != 8 {
		return f, false
	}
	first, number, ok := strings.Cut(strings.TrimSuffix(name, topicExt), "-")
	if !ok || len(first) != 20 || len(number) != 12 || !strings.HasSuffix(name, topicExt) {
		return f, false
	}
	f.topic = uint32(id)
	if f.first, err = strconv.ParseUint(first, 10, 64); err != nil {
		return f, false
	}
	f.number, err = strconv.ParseUint(number, 16, 64)
	return f, err == nil && f.first < maxOffset && f.number < maxSegments
}

// topicHeader starts a topic segment. Everything in it is in the footer too.
type topicHeader struct {
	file  topicFile
	epoch uint64
	key   uint32 // id of the data key, or 0
	name  string // of the topic
}

// size is what the header and the name take.
func (h *topicHeader) size() int64 { return align(headerSize + int64(len(h.name)) + 4) }

func align(n int64) int64 { return (n + frameAlign - 1) / frameAlign * frameAlign }

func (h *topicHeader) encode() []byte {
	b := make([]byte, headerSize, h.size())
	binary.LittleEndian.PutUint32(b, topicMagic)
	b[4] = version
	binary.LittleEndian.PutUint64(b[8:], h.epoch)
	binary.LittleEndian.PutUint64(b[16:], h.file.number)
	binary.LittleEndian.PutUint64(b[24:], h.file.first)
	binary.LittleEndian.PutUint32(b[32:], h.file.topic)
	binary.LittleEndian.PutUint32(b[36:], h.key)
	binary.LittleEndian.PutUint32(b[40:], uint32(len(h.name)))
	binary.LittleEndian.PutUint32(b[headerSize-4:], checksum(b[:headerSize-4]))
	b = append(b, h.name...)
	b = binary.LittleEndian.AppendUint32(b, checksum(b[headerSize:]))
	return b[:h.size()]
}

func decodeTopicHeader(b []byte) (h topicHeader, ok bool) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b) != topicMagic || b[4] != version ||
		checksum(b[:headerSize-4]) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return h, false
	}
	h.epoch = binary.LittleEndian.Uint64(b[8:])
	h.file.number = binary.LittleEndian.Uint64(b[16:])
	h.file.first = binary.LittleEndian.Uint64(b[24:])
	h.file.topic = binary.LittleEndian.Uint32(b[32:])
	h.key = binary.LittleEndian.Uint32(b[36:])
	n := int64(binary.LittleEndian.Uint32(b[40:]))
	name := b[headerSize:]
	if int64(len(name)) < n+4 || checksum(name[:n]) != binary.LittleEndian.Uint32(name[n:]) {
		return h, false
	}
	h.name = string(name[:n])
	return h, true
}

// blockHeader starts a block of a topic segment: frames, perhaps compressed, perhaps
// encrypted.
type blockHeader struct {
	epoch      uint64
	flags      byte
	first, end uint64 // offsets of the first message, and after the last one
	count      uint32 // messages
	stored     uint32 // bytes of the body
	raw        uint32 // bytes of the frames in it
	crc        uint32 // of the body as it is stored
	from, to   int64  // times of the first and last commit, nanoseconds since 1970
	due        uint32 // as in a digest
	lanes      uint16 // as in a digest
}

// size is what the block takes in the file.
func (h *blockHeader) size() int64 { return align(blockHeaderSize + int64(h.stored)) }

func (h *blockHeader) encode(b []byte) {
	clear(b[:blockHeaderSize])
	binary.LittleEndian.PutUint32(b, blockMagic)
	b[4], b[5] = version, h.flags
	binary.LittleEndian.PutUint64(b[8:], h.epoch)
	binary.LittleEndian.PutUint64(b[16:], h.first)
	binary.LittleEndian.PutUint64(b[24:], h.end)
	binary.LittleEndian.PutUint32(b[32:], h.count)
	binary.LittleEndian.PutUint32(b[36:], h.stored)
	binary.LittleEndian.PutUint32(b[40:], h.raw)
	binary.LittleEndian.PutUint32(b[44:], h.crc)
	binary.LittleEndian.PutUint64(b[48:], uint64(h.from))
	binary.LittleEndian.PutUint64(b[56:], uint64(h.to))
	binary.LittleEndian.PutUint32(b[64:], h.due)
	binary.LittleEndian.PutUint16(b[68:], h.lanes)
	binary.LittleEndian.PutUint32(b[blockHeaderSize-4:], checksum(b[:blockHeaderSize-4]))
}

func decodeBlock(b []byte, epoch uint64) (h blockHeader, ok bool) {
	if len(b) < blockHeaderSize || binary.LittleEndian.Uint32(b) != blockMagic || b[4] != version ||
		checksum(b[:blockHeaderSize-4]) != binary.LittleEndian.Uint32(b[blockHeaderSize-4:]) {
		return h, false
	}
	h = blockHeader{
		flags:  b[5],
		epoch:  binary.LittleEndian.Uint64(b[8:]),
		first:  binary.LittleEndian.Uint64(b[16:]),
		end:    binary.LittleEndian.Uint64(b[24:]),
		count:  binary.LittleEndian.Uint32(b[32:]),
		stored: binary.LittleEndian.Uint32(b[36:]),
		raw:    binary.LittleEndian.Uint32(b[40:]),
		crc:    binary.LittleEndian.Uint32(b[44:]),
		from:   int64(binary.LittleEndian.Uint64(b[48:])),
		to:     int64(binary.LittleEndian.Uint64(b[56:])),
		due:    binary.LittleEndian.Uint32(b[64:]),
		lanes:  binary.LittleEndian.Uint16(b[68:]),
	}
	return h, h.epoch == epoch && h.raw <= maxUnit && h.stored <= maxUnit && h.end < maxOffset && h.first < h.end
}

// digest says what the messages of the block are like.
func (h *blockHeader) digest() digest {
	return digest{newest: seconds(time.Unix(0, h.to)), due: h.due, lanes: h.lanes}
}

// footer lists the blocks of a topic segment. It is written behind them and can be made
// again from their headers.
type footer struct {
	topicHeader
	blocks []footerBlock
}

type footerBlock struct {
	blockHeader
	pos int64
}

var errFooter = errors.New("decode footer: the bytes are cut or wrong")

// encode writes the footer and the trailer, for the position at.
func (f *footer) encode(at int64) []byte {
	b := make([]byte, footerHeader, footerHeader+16*len(f.blocks)+trailerSize)
	b = binary.AppendUvarint(b, f.epoch)
	b = binary.AppendUvarint(b, uint64(f.file.topic))
	b = binary.AppendUvarint(b, f.file.number)
	b = binary.AppendUvarint(b, f.file.first)
	b = binary.AppendUvarint(b, uint64(f.key))
	b = appendString(b, f.name)
	b = binary.AppendUvarint(b, uint64(len(f.blocks)))
	var pos int64
	var end uint64
	for i := range f.blocks {
		x := &f.blocks[i]
		one := binary.AppendUvarint(nil, uint64(x.pos-pos)/frameAlign)
		one = binary.AppendUvarint(one, x.first-end)
		one = binary.AppendUvarint(one, x.end-x.first)
		one = binary.AppendUvarint(one, uint64(x.count))
		one = binary.AppendUvarint(one, uint64(x.raw))
		one = binary.AppendVarint(one, x.from)
		one = binary.AppendVarint(one, x.to-x.from)
		one = binary.AppendUvarint(one, uint64(x.due))
		one = binary.AppendUvarint(one, uint64(x.lanes))
		b = binary.AppendUvarint(b, uint64(len(one))) // what a later version adds is skipped
		b = append(b, one...)
		pos, end = x.pos, x.end
	}
	body := b[footerHeader:]
	binary.LittleEndian.PutUint32(b, footerMagic)
	b[4] = version
	binary.LittleEndian.PutUint32(b[8:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[12:], checksum(body))
	binary.LittleEndian.PutUint64(b[16:], f.epoch)
	binary.LittleEndian.PutUint32(b[footerHeader-4:], checksum(b[:footerHeader-4]))
	for len(b)%frameAlign != 0 {
		b = append(b, 0)
	}
	t := make([]byte, trailerSize)
	binary.LittleEndian.PutUint32(t, trailerMagic)
	t[4] = version
	binary.LittleEndian.PutUint64(t[8:], uint64(at))
	binary.LittleEndian.PutUint64(t[16:], uint64(at))
	binary.LittleEndian.PutUint32(t[trailerSize-4:], checksum(t[:trailerSize-4]))
	return append(b, t...)
}

// decodeTrailer returns where the footer is, if the file's last bytes say so.
func decodeTrailer(b []byte) (pos int64, intact bool) {
	if len(b) < trailerSize {
		return 0, false
	}
	p, q := binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	intact = binary.LittleEndian.Uint32(b) == trailerMagic && b[4] == version &&
		checksum(b[:trailerSize-4]) == binary.LittleEndian.Uint32(b[trailerSize-4:])
	if p != q || p >= 1<<positionLow {
		return 0, false
	}
	return int64(p), intact
}

func decodeFooter(b []byte) (*footer, error) {
	if len(b) < footerHeader || binary.LittleEndian.Uint32(b) != footerMagic || b[4] != version ||
		checksum(b[:footerHeader-4]) != binary.LittleEndian.Uint32(b[footerHeader-4:]) {
		return nil, errFooter
	}
	n := int64(binary.LittleEndian.Uint32(b[8:]))
	if n > int64(len(b)-footerHeader) {
		return nil, errFooter
	}
	body := b[footerHeader : footerHeader+n]
	if checksum(body) != binary.LittleEndian.Uint32(b[12:]) {
		return nil, errFooter
	}
	d := newDecoder(body)
	f := &footer{}
	f.epoch = d.uvarint()
	f.file = topicFile{topic: d.u32(), number: d.uvarint(), first: d.uvarint()}
	f.key = d.u32()
	f.name = d.string()
	var pos, end uint64
	for range d.count() {
		next := d.uvarint()
		if next > uint64(len(d.b)-d.at) {
			d.fail()
			break
		}
		next += uint64(d.at)
		x := footerBlock{}
		pos = d.offset(pos/frameAlign) * frameAlign
		x.pos, x.epoch = int64(pos), f.epoch
		x.first = d.offset(end)
		x.end = d.offset(x.first)
		x.count = d.u32()
		x.raw = d.u32()
		x.from = d.varint()
		x.to = x.from + d.varint()
		x.due, x.lanes = d.u32(), uint16(d.u32())
		end = x.end
		if d.failed || x.pos >= 1<<positionLow || uint64(d.at) > next {
			return nil, errFooter
		}
		d.at = int(next)
		f.blocks = append(f.blocks, x)
	}
	if d.failed {
		return nil, errFooter
	}
	return f, nil
}
