package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// scanner reads a segment through a window that grows with the largest frame.
type scanner struct {
	file vfs.File
	size int64
	base int64
	buf  []byte
}

const scanWindow = mib

func newScanner(f vfs.File) (*scanner, error) {
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read segment: %w", err)
	}
	return &scanner{file: f, size: size}, nil
}

// at returns n bytes at pos, or fewer at the end. They are valid until the next call.
func (s *scanner) at(pos, n int64) ([]byte, error) {
	n = min(n, s.size-pos)
	if n <= 0 {
		return nil, nil
	}
	if pos < s.base || pos+n > s.base+int64(len(s.buf)) {
		want := min(max(n, scanWindow), s.size-pos)
		if int64(cap(s.buf)) < want {
			s.buf = make([]byte, want)
		}
		s.buf, s.base = s.buf[:want], pos
		got, err := s.file.ReadAt(s.buf, pos)
		s.buf = s.buf[:got]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read segment: %w", err)
		}
		n = min(n, int64(got))
	}
	return s.buf[pos-s.base : pos-s.base+n], nil
}

// find returns the position of the next intact frame header of this epoch, or -1.
func (s *scanner) find(pos int64, epoch uint64) (int64, error) {
	for pos+headerSize <= s.size {
		data, err := s.at(pos, scanWindow)
		if err != nil {
			return 0, err
		}
		if i := findFrame(data, 0, epoch); i >= 0 {
			return pos + int64(i), nil
		}
		step := int64(len(data)-headerSize) / frameAlign * frameAlign
		if step <= 0 {
			break
		}
		pos += step
	}
	return -1, nil
}

// guessWithin is how much of a segment without a header of its own is searched for
// frames before it is taken for a spare.
const guessWithin = 8 * mib

// guessEpoch finds the epoch of a segment whose header is damaged: that of the first
// intact frame that is not older than expected. It returns 0 when there is none.
func (s *scanner) guessEpoch(expected uint64) (epoch uint64, key uint32, err error) {
	for pos := int64(headerSize); pos+headerSize <= min(s.size, guessWithin); pos += frameAlign {
		data, err := s.at(pos, headerSize)
		if err != nil {
			return 0, 0, err
		}
		if len(data) < headerSize || binary.LittleEndian.Uint32(data) != frameMagic {
			continue
		}
		if h, _, ok := decodeFrame(data); ok && (h.number >= expected || plant.On(plant.OldEpochs)) {
			return h.epoch, h.key, nil
		}
	}
	return 0, 0, nil
}

// epoch returns the epoch and the key of a segment, or 0 when the file is a spare: its header is
// empty or from its former life, and no frame in it is as new as expected. Damaged
// says that frames are there and the header is not.
func (s *scanner) epoch(number, expected uint64) (epoch uint64, key uint32, damaged bool, err error) {
	data, err := s.at(0, headerSize)
	if err != nil {
		return 0, 0, false, err
	}
	if h, ok := decodeSegment(data); ok && h.number == number {
		return h.epoch, h.key, false, nil
	}
	epoch, key, err = s.guessEpoch(expected)
	return epoch, key, epoch != 0, err
}

// cut reports whether the file is shorter than it ever was since it came into use, or
// than any segment that has a name.
func (s *scanner) cut(number uint64) (bool, error) {
	data, err := s.at(0, headerSize)
	if err != nil {
		return false, err
	}
	if h, ok := decodeSegment(data); ok && h.number == number {
		return s.size < h.size, nil
	}
	return s.size < minSegment, nil
}

// looksTorn reports whether b is the beginning of a frame of this epoch, whatever its
// checksum says.
func looksTorn(b []byte, epoch uint64) bool {
	return len(b) >= 16 && binary.LittleEndian.Uint32(b) == frameMagic && binary.LittleEndian.Uint64(b[8:]) == epoch
}
