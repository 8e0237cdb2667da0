package journal_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/linkspan/linkspan/internal/vfs"
)

// harm is a change that a disk, or a hand, made to a file.
type harm struct {
	kind string
	file stored
	what string
	from int64 // of the bytes that are not what they were
	to   int64
	// Of a missing file, or one cut before its end.
	gone bool
}

// kinds lists the kinds of damage.
func kinds() map[string]func(rng *rand.Rand, all []stored, f stored, h *harm) []byte {
	return map[string]func(rng *rand.Rand, all []stored, f stored, h *harm) []byte{
		"flip":    flipBit,
		"header":  flipHeader,
		"record":  flipRecord,
		"zero":    zeroSector,
		"garbage": writeGarbage,
		"cut":     cutFile,
		"swap":    swapFrames,
		"stale":   staleFrame,
		"foreign": foreignPage,
		"missing": func(_ *rand.Rand, _ []stored, _ stored, h *harm) []byte { h.gone = true; return nil },
	}
}

func flipBit(rng *rand.Rand, _ []stored, f stored, h *harm) []byte {
	at := rng.IntN(len(f.data))
	if fr := framesOf(f.data); len(fr) > 0 && rng.IntN(8) > 0 { // where something is
		x := fr[rng.IntN(len(fr))]
		at = int(x.pos + rng.Int64N(x.size))
	}
	return flipAt(rng, f, at, h)
}

func flipAt(rng *rand.Rand, f stored, at int, h *harm) []byte {
	bit := rng.IntN(8)
	f.data[at] ^= 1 << bit
	h.what, h.from, h.to = fmt.Sprintf("byte %d bit %d", at, bit), int64(at), int64(at)+1
	return f.data
}

// flipHeader inverts a bit in the header of a segment, a frame or a frame's first record.
func flipHeader(rng *rand.Rand, _ []stored, f stored, h *harm) []byte {
	fr := framesOf(f.data)
	if len(fr) == 0 || rng.IntN(20) == 0 {
		return flipAt(rng, f, rng.IntN(min(64, len(f.data))), h)
	}
	x := fr[rng.IntN(len(fr))]
	return flipAt(rng, f, int(x.pos)+rng.IntN(min(64+28, int(x.size))), h)
}

// flipRecord inverts a low bit of what the header of a record says: its length, type, id
// or offset.
func flipRecord(rng *rand.Rand, all []stored, f stored, h *harm) []byte {
	fr := framesOf(f.data)
	if len(fr) == 0 {
		return flipBit(rng, all, f, h)
	}
	x := fr[rng.IntN(len(fr))]
	at := int(x.pos) + 64
	for range rng.IntN(max(x.records, 1)) {
		at += 28 + int(binary.LittleEndian.Uint32(f.data[at:]))
	}
	if x.records == 0 || at+28 > len(f.data) {
		return flipBit(rng, all, f, h)
	}
	at += []int{0, 1, 4, 8, 12, 12, 12}[rng.IntN(7)]
	bit := rng.IntN(4)
	f.data[at] ^= 1 << bit
	h.what, h.from, h.to = fmt.Sprintf("byte %d bit %d", at, bit), int64(at), int64(at)+1
	return f.data
}

func zeroSector(rng *rand.Rand, _ []stored, f stored, h *harm) []byte {
	size := []int{512, 4096}[rng.IntN(2)]
	at := rng.IntN(len(f.data)) / size * size
	end := min(at+size, len(f.data))
	clear(f.data[at:end])
	h.what, h.from, h.to = fmt.Sprintf("%d bytes at %d", size, at), int64(at), int64(end)
	return f.data
}

func writeGarbage(rng *rand.Rand, _ []stored, f stored, h *harm) []byte {
	at := rng.IntN(len(f.data))
	end := min(at+1+rng.IntN(600), len(f.data))
	for i := at; i < end; i++ {
		f.data[i] = byte(rng.Uint32())
	}
	h.what, h.from, h.to = fmt.Sprintf("bytes %d to %d", at, end), int64(at), int64(end)
	return f.data
}

func cutFile(rng *rand.Rand, _ []stored, f stored, h *harm) []byte {
	n := rng.IntN(len(f.data))
	if fr := framesOf(f.data); len(fr) > 0 && rng.IntN(2) == 0 { // near the end of what is there
		x := fr[len(fr)-1-rng.IntN(min(3, len(fr)))]
		n = int(x.pos + rng.Int64N(x.size))
	} else if rng.IntN(8) == 0 {
		n = rng.IntN(min(200, len(f.data)))
	}
	h.what, h.from, h.to = fmt.Sprintf("to %d bytes", n), int64(n), int64(len(f.data))
	return f.data[:n]
}

// swapFrames exchanges two frames of the same size, or puts them in each other's order.
func swapFrames(rng *rand.Rand, all []stored, f stored, h *harm) []byte {
	fr := framesOf(f.data)
	if len(fr) < 2 {
		return flipBit(rng, all, f, h)
	}
	i := rng.IntN(len(fr) - 1)
	a, b := fr[i], fr[i+1]
	if a.pos+a.size != b.pos {
		return flipBit(rng, all, f, h)
	}
	both := append(append([]byte(nil), f.data[b.pos:b.pos+b.size]...), f.data[a.pos:a.pos+a.size]...)
	copy(f.data[a.pos:], both)
	h.what, h.from, h.to = fmt.Sprintf("frames at %d and %d", a.pos, b.pos), a.pos, b.pos+b.size
	return f.data
}

// staleFrame writes an earlier frame over a later one, as a disk does that wrote to the
// wrong place.
func staleFrame(rng *rand.Rand, all []stored, f stored, h *harm) []byte {
	fr := framesOf(f.data)
	if len(fr) < 2 {
		return flipBit(rng, all, f, h)
	}
	i := rng.IntN(len(fr) - 1)
	if rng.IntN(3) == 0 {
		i = len(fr) - 2
	}
	a, b := fr[rng.IntN(i+1)], fr[i+1]
	end := copy(f.data[b.pos:], append([]byte(nil), f.data[a.pos:a.pos+a.size]...))
	h.what, h.from, h.to = fmt.Sprintf("frame at %d over that at %d", a.pos, b.pos), b.pos, b.pos+max(int64(end), b.size)
	return f.data
}

// foreignPage writes a page of another file, as it is, or as it was in a former life.
func foreignPage(rng *rand.Rand, all []stored, f stored, h *harm) []byte {
	other := all[rng.IntN(len(all))]
	at := rng.IntN(len(f.data)) / 512 * 512
	end := min(at+4096, len(f.data))
	n := 0
	if at < len(other.data) {
		n = copy(f.data[at:end], append([]byte(nil), other.data[at:]...))
	}
	h.what, h.from, h.to = fmt.Sprintf("%d bytes of %s at %d", n, other.name, at), int64(at), int64(at+n)
	return f.data
}

// inflict damages a file of the disk.
func inflict(rng *rand.Rand, disk *vfs.Mem, kind string, all []stored) (*harm, error) {
	f := all[rng.IntN(len(all))]
	h := &harm{kind: kind, file: stored{f.name, f.data}}
	data := kinds()[kind](rng, all, stored{f.name, append([]byte(nil), f.data...)}, h)
	if h.gone {
		h.to = int64(len(f.data))
		return h, disk.Remove(f.name)
	}
	file, err := disk.Create(f.name)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteAt(data, 0); err != nil {
		return nil, err
	}
	return h, file.Sync()
}

// reach returns how many messages the damage can cost at most: those whose frames it
// touches.
func (h *harm) reach() (n int) {
	if !h.file.segment() {
		return 0
	}
	for _, x := range framesOf(h.file.data) {
		if x.pos < h.to && h.from < x.pos+x.size {
			n += x.records
		}
	}
	return n
}
