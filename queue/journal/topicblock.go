package journal

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// codec packs and unpacks the blocks of topic segments.
type codec struct {
	once sync.Once
	enc  *zstd.Encoder
	dec  *zstd.Decoder
	temp []byte // the writer's
	err  error
}

// start makes the compressor at its first use: most engines never need it. Nothing is
// closed, because a reader may still be at work while the engine is being closed, and
// without streams neither of the two holds more than memory.
func (c *codec) start() error {
	c.once.Do(func() {
		c.enc, c.err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(2*blockSize))
		if c.err == nil {
			c.dec, c.err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxUnit+blockSize))
		}
	})
	if c.err != nil {
		return fmt.Errorf("start compression: %w", c.err)
	}
	return nil
}

// pack appends a block with these frames to dst. The header has its place in the topic,
// pos is that in the file. Only one goroutine packs.
func (c *codec) pack(dst []byte, h *blockHeader, frames []byte, pos int64, aead cipher.AEAD) ([]byte, error) {
	if err := c.start(); err != nil {
		return dst, err
	}
	h.raw = uint32(len(frames))
	at := len(dst)
	dst = append(dst, make([]byte, blockHeaderSize)...)
	body := len(dst)
	c.temp = c.enc.EncodeAll(frames, c.temp[:0])
	if len(c.temp) <= len(frames)-len(frames)/8 { // it pays
		h.flags |= flagCompressed
		frames = c.temp
	}
	if aead != nil {
		h.flags |= flagEncrypted
		dst = aead.Seal(dst, nil, frames, h.bind(pos))
	} else {
		dst = append(dst, frames...)
	}
	if cap(c.temp) > 4*mib {
		c.temp = nil
	}
	h.stored, h.crc = uint32(len(dst)-body), checksum(dst[body:])
	h.encode(dst[at:])
	for len(dst)%frameAlign != 0 {
		dst = append(dst, 0)
	}
	return dst, nil
}

var errBlock = errors.New("decode block: the bytes are cut or wrong")

// bind returns what the tag of an encrypted block covers beside the frames, so that no
// block can stand in another's place.
func (h *blockHeader) bind(pos int64) []byte {
	b := make([]byte, 0, 48)
	b = binary.LittleEndian.AppendUint64(b, h.epoch)
	b = binary.LittleEndian.AppendUint64(b, uint64(pos))
	b = binary.LittleEndian.AppendUint64(b, h.first)
	b = binary.LittleEndian.AppendUint64(b, h.end)
	b = binary.LittleEndian.AppendUint32(b, h.count)
	b = binary.LittleEndian.AppendUint32(b, h.raw)
	return append(b, h.flags)
}

// unpack returns the frames of a block whose header is intact.
func (c *codec) unpack(h *blockHeader, body []byte, pos int64, aead cipher.AEAD) ([]byte, error) {
	if checksum(body) != h.crc || (h.flags&flagEncrypted != 0) != (aead != nil) {
		return nil, errBlock
	}
	if aead != nil {
		var err error
		if body, err = aead.Open(nil, nil, body, h.bind(pos)); err != nil {
			return nil, errBlock
		}
	}
	if h.flags&flagCompressed == 0 {
		return body, nil
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	frames, err := c.dec.DecodeAll(body, make([]byte, 0, h.raw))
	if err != nil || len(frames) != int(h.raw) {
		return nil, errBlock
	}
	return frames, nil
}

// parse verifies a block of a topic segment that was read at a place. What is damaged
// in frames that are neither compressed nor encrypted costs single records.
func (c *codec) parse(s *segment, at place, data []byte, aead cipher.AEAD) (*block, []damage) {
	frames, intact := c.frames(s, at.pos(), data, aead)
	var bad []damage
	if !intact {
		bad = []damage{{at: at, data: data}}
	}
	b, inside := parseBlock(at+blockHeaderSize, frames, s.epoch, nil)
	b.at, b.covered = at, int64(len(data))
	if len(bad) > 0 && len(inside) > 0 {
		bad = bad[:0] // the smaller ranges say it better
	}
	return b, append(bad, inside...)
}

// frames returns the frames of a block, or what may be frames of one that is damaged.
func (c *codec) frames(s *segment, pos int64, data []byte, aead cipher.AEAD) (frames []byte, intact bool) {
	h, ok := decodeBlock(data, s.epoch)
	if aead != nil && (!ok || h.size() > int64(len(data)) || h.flags&flagEncrypted == 0) {
		return nil, false
	}
	if !ok || h.size() > int64(len(data)) {
		return data[min(blockHeaderSize, len(data)):], false // the frames speak for themselves
	}
	body := data[blockHeaderSize : blockHeaderSize+h.stored]
	frames, err := c.unpack(&h, body, pos, aead)
	if err != nil && h.flags == 0 {
		return body, false
	}
	return frames, err == nil
}
