package delivery

import (
	"encoding/binary"
	"errors"
	"iter"
	"maps"
	"math/bits"
	"slices"
)

// Set is a set of settled offsets: everything below the floor, and a bitmap above
// it. Memory is one bit for each offset between the floor and the highest settled
// one, in pages; a page that is full costs nothing. The zero value is empty. It is
// not safe for concurrent use.
type Set struct {
	floor uint64
	pages map[uint64]*page // by offset / pageBits; nil is a full page
	above uint64           // settled offsets at or above the floor
}

const pageBits = 4096

type page struct {
	words [pageBits / 64]uint64
	n     int
}

// NewSet returns a set of everything below floor.
func NewSet(floor uint64) Set { return Set{floor: floor} }

// Floor returns the lowest offset that is not in the set.
func (s *Set) Floor() uint64 { return s.floor }

// Above returns how many offsets above the floor are in the set.
func (s *Set) Above() uint64 { return s.above }

// Has reports whether the offset is settled.
func (s *Set) Has(offset uint64) bool {
	if offset < s.floor {
		return true
	}
	p, ok := s.pages[offset/pageBits]
	if !ok {
		return false
	}
	return p == nil || p.words[offset%pageBits/64]&(1<<(offset%64)) != 0
}

// Add settles one offset and reports whether it was not settled before.
func (s *Set) Add(offset uint64) bool {
	if s.Has(offset) {
		return false
	}
	if offset == s.floor {
		s.floor++
		if len(s.pages) > 0 {
			s.raise()
		}
		return true
	}
	if s.pages == nil {
		s.pages = map[uint64]*page{}
	}
	key := offset / pageBits
	p := s.pages[key]
	if p == nil {
		p = &page{}
		s.pages[key] = p
	}
	p.words[offset%pageBits/64] |= 1 << (offset % 64)
	p.n++
	s.above++
	if p.n == pageBits {
		s.pages[key] = nil
	}
	return true
}

// AddRange settles the offsets from first up to, but not including, end.
func (s *Set) AddRange(first, end uint64) {
	if first <= s.floor {
		s.SetFloor(end)
		return
	}
	for o := first; o < end; o++ {
		s.Add(o)
	}
}

// SetFloor settles everything below floor.
func (s *Set) SetFloor(floor uint64) {
	if floor <= s.floor {
		return
	}
	for key, p := range s.pages {
		s.above -= s.countBelow(key, p, floor)
		if (key+1)*pageBits <= floor {
			delete(s.pages, key)
		}
	}
	s.floor = floor
	s.raise()
}

// countBelow counts what a page holds between the present floor and the new one.
func (s *Set) countBelow(key uint64, p *page, floor uint64) (n uint64) {
	for o := max(key*pageBits, s.floor); o < min((key+1)*pageBits, floor); o++ {
		if p == nil || p.words[o%pageBits/64]&(1<<(o%64)) != 0 {
			n++
		}
	}
	return n
}

// raise moves the floor over the offsets that are settled already.
func (s *Set) raise() {
	for {
		key := s.floor / pageBits
		p, ok := s.pages[key]
		if !ok {
			return
		}
		end := (key + 1) * pageBits
		if p == nil {
			s.above -= end - s.floor
			s.floor = end
			delete(s.pages, key)
			continue
		}
		word := p.words[s.floor%pageBits/64] >> (s.floor % 64)
		run := uint64(bits.TrailingZeros64(^word))
		run = min(run, 64-s.floor%64)
		s.floor += run
		s.above -= run
		if s.floor == end {
			delete(s.pages, key)
		}
		if run == 0 {
			return
		}
	}
}

// Covers reports whether every offset from first up to end is settled.
func (s *Set) Covers(first, end uint64) bool {
	for o := max(first, s.floor); o < end; {
		p, ok := s.pages[o/pageBits]
		if ok && p == nil {
			o = (o/pageBits + 1) * pageBits
			continue
		}
		if !s.Has(o) {
			return false
		}
		o++
	}
	return true
}

// Ranges yields the settled ranges above the floor, in order, as [first, end).
func (s *Set) Ranges() iter.Seq2[uint64, uint64] {
	return func(yield func(first, end uint64) bool) {
		var first, end uint64
		for o := range s.settled() {
			if o != end && end > first && !yield(first, end) {
				return
			}
			if o != end {
				first = o
			}
			end = o + 1
		}
		if end > first {
			yield(first, end)
		}
	}
}

// settled yields the settled offsets above the floor, in order.
func (s *Set) settled() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, key := range slices.Sorted(maps.Keys(s.pages)) {
			for o := max(key*pageBits, s.floor); o < (key+1)*pageBits; o++ {
				if s.Has(o) && !yield(o) {
					return
				}
			}
		}
	}
}

// Clone returns a copy.
func (s *Set) Clone() Set {
	c := NewSet(s.floor)
	for first, end := range s.Ranges() {
		c.AddRange(first, end)
	}
	return c
}

// Intersect returns what is settled in both.
func Intersect(a, b *Set) Set {
	if a.floor > b.floor {
		a, b = b, a
	}
	out := NewSet(a.floor)
	for first, end := range a.Ranges() {
		for o := first; o < end; o++ {
			if b.Has(o) {
				out.Add(o)
			}
		}
	}
	return out
}

// errSet says that bytes are not a set.
var errSet = errors.New("decode settled offsets: the bytes are cut or wrong")

// Append encodes the set: floor, number of ranges, and for each the distance to
// the end of the one before and the length, all as varints.
func (s *Set) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, s.floor)
	var ranges []byte
	n, prev := uint64(0), s.floor
	for first, end := range s.Ranges() {
		ranges = binary.AppendUvarint(ranges, first-prev)
		ranges = binary.AppendUvarint(ranges, end-first)
		n, prev = n+1, end
	}
	b = binary.AppendUvarint(b, n)
	return append(b, ranges...)
}

// DecodeSet is the inverse of Append. It returns what follows. Offsets at or above
// limit are refused, which bounds the memory that damaged input can ask for.
func DecodeSet(b []byte, limit uint64) (Set, []byte, error) {
	floor, b, err := uvarint(b)
	if err != nil || floor > limit {
		return Set{}, nil, errSet
	}
	n, b, err := uvarint(b)
	if err != nil || n > uint64(len(b)) {
		return Set{}, nil, errSet
	}
	s, prev := NewSet(floor), floor
	for range n {
		var gap, length uint64
		if gap, b, err = uvarint(b); err != nil {
			return Set{}, nil, err
		}
		if length, b, err = uvarint(b); err != nil {
			return Set{}, nil, err
		}
		if gap > limit-prev || length > limit-prev-gap {
			return Set{}, nil, errSet
		}
		s.AddRange(prev+gap, prev+gap+length)
		prev += gap + length
	}
	return s, b, nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errSet
	}
	return v, b[n:], nil
}
