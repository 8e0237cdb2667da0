package journal

import (
	"crypto/cipher"
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// The body of an encrypted frame is a directory in clear and units. A unit is a run of
// whole records of at most 64 KiB, or a single larger one, so that damage costs no
// more. What a unit's tag covers beside the records says which unit it is: of which
// segment, frame and time, and the how-manieth of how many. Units can therefore not be
// moved, swapped or left out unseen.
//
// The directory says how long the units are and which messages are in them, and the
// head of a unit repeats its length. So damage to one of the two, or to the header of
// the frame, costs nothing, and damage to a unit is a loss that has a name.
const (
	directoryMagic = 0x4453534c // "LSSD"
	directoryHead  = 28
	unitHead       = 32
	gcmExtra       = 12 + 16 // nonce and tag
	// runMax is the most that a run of messages takes in the directory.
	runMax = 20
	// unitMax is the most that a unit takes beside its records and runs.
	unitMax = unitHead + gcmExtra + 10
)

// sealedBound is the most that an encrypted body takes for n bytes in so many records.
func sealedBound(n, records int) int {
	units := min(2*(n/blockSize)+1, max(records, 1))
	return n + directoryHead + 4 + units*unitMax + records*runMax
}

// unitKey says which unit it is.
type unitKey struct {
	number uint64 // of the frame
	time   int64
	index  uint32
	count  uint32 // of units in the frame
}

// bind returns what the tag of a unit covers beside the records.
func (k unitKey) bind(epoch uint64) []byte {
	b := make([]byte, 0, 32)
	b = binary.LittleEndian.AppendUint64(b, epoch)
	b = binary.LittleEndian.AppendUint64(b, k.number)
	b = binary.LittleEndian.AppendUint64(b, uint64(k.time))
	b = binary.LittleEndian.AppendUint32(b, k.index)
	return binary.LittleEndian.AppendUint32(b, k.count)
}

// unitSpan is a unit: its records in the plain body, and the messages in them.
type unitSpan struct {
	end    int // of its records
	stored int // bytes with nonce and tag
	runs   []messageRun
}

type messageRun struct {
	topic uint32
	first uint64
	count uint32
}

// splitUnits cuts records into units.
func splitUnits(records []byte) (units []unitSpan) {
	start := 0
	var u unitSpan
	for at := 0; at < len(records); {
		size := recordHeader + int(binary.LittleEndian.Uint32(records[at:]))
		if at > start && at+size-start > blockSize {
			u.end, u.stored = at, at-start+gcmExtra
			units = append(units, u)
			u, start = unitSpan{}, at
		}
		if recordType(records[at+4]) == recordPublish {
			u.note(binary.LittleEndian.Uint32(records[at+8:]), binary.LittleEndian.Uint64(records[at+12:]))
		}
		at += size
	}
	u.end, u.stored = len(records), len(records)-start+gcmExtra
	return append(units, u)
}

func (u *unitSpan) note(topic uint32, offset uint64) {
	if n := len(u.runs); n > 0 {
		if r := &u.runs[n-1]; r.topic == topic && r.first+uint64(r.count) == offset {
			r.count++
			return
		}
	}
	u.runs = append(u.runs, messageRun{topic: topic, first: offset, count: 1})
}

// sealBody appends the encrypted body of a frame to dst.
func sealBody(dst []byte, h *frameHeader, records []byte, aead cipher.AEAD) []byte {
	seed := seed(h.epoch)
	units := splitUnits(records)
	dst = slices.Grow(dst, len(records)+len(units)*unitMax+directoryHead)
	dst = appendDirectory(dst, h, units, seed)
	start := 0
	for i := range units {
		u := &units[i]
		key := unitKey{number: h.number, time: h.time, index: uint32(i), count: uint32(len(units))}
		at := len(dst)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(u.stored))
		dst = binary.LittleEndian.AppendUint32(dst, key.index)
		dst = binary.LittleEndian.AppendUint32(dst, key.count)
		dst = binary.LittleEndian.AppendUint64(dst, key.number)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(key.time))
		dst = binary.LittleEndian.AppendUint32(dst, crc32.Update(seed, castagnoli(), dst[at:]))
		dst = aead.Seal(dst, nil, records[start:u.end], key.bind(h.epoch))
		start = u.end
	}
	return dst
}

func appendDirectory(dst []byte, h *frameHeader, units []unitSpan, seed uint32) []byte {
	at := len(dst)
	var head [directoryHead]byte
	dst = append(dst, head[:]...)
	for i := range units {
		dst = binary.AppendUvarint(dst, uint64(units[i].stored))
		dst = binary.AppendUvarint(dst, uint64(len(units[i].runs)))
		for _, r := range units[i].runs {
			dst = binary.AppendUvarint(dst, uint64(r.topic))
			dst = binary.AppendUvarint(dst, r.first)
			dst = binary.AppendUvarint(dst, uint64(r.count))
		}
	}
	b := dst[at:]
	binary.LittleEndian.PutUint32(b, directoryMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-directoryHead))
	binary.LittleEndian.PutUint64(b[8:], h.number)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.time))
	binary.LittleEndian.PutUint32(b[24:], uint32(len(units)))
	return binary.LittleEndian.AppendUint32(dst, crc32.Update(seed, castagnoli(), b))
}

// readDirectory reads the directory at the start of a body. size is what it takes.
func readDirectory(b []byte, seed uint32) (key unitKey, units []unitSpan, size int, ok bool) {
	if len(b) < directoryHead+4 || binary.LittleEndian.Uint32(b) != directoryMagic {
		return key, nil, 0, false
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if n > int64(len(b)-directoryHead-4) {
		return key, nil, 0, false
	}
	end := directoryHead + int(n)
	if crc32.Update(seed, castagnoli(), b[:end]) != binary.LittleEndian.Uint32(b[end:]) {
		return key, nil, 0, false
	}
	key.number = binary.LittleEndian.Uint64(b[8:])
	key.time = int64(binary.LittleEndian.Uint64(b[16:]))
	key.count = binary.LittleEndian.Uint32(b[24:])
	d := &decoder{metaReader: metaReader{b: b[directoryHead:end]}}
	for range key.count {
		u := unitSpan{stored: int(d.u32())}
		for range d.count() {
			r := messageRun{topic: d.u32(), first: d.offset(0), count: d.u32()}
			if int64(r.count)*recordHeader > int64(u.stored) {
				d.fail()
			}
			u.runs = append(u.runs, r)
		}
		if d.failed {
			return key, nil, 0, false
		}
		units = append(units, u)
	}
	return key, units, end + 4, true
}

// readUnit reads the head of a unit.
func readUnit(b []byte, seed uint32) (key unitKey, stored int, ok bool) {
	if len(b) < unitHead || crc32.Update(seed, castagnoli(), b[:unitHead-4]) != binary.LittleEndian.Uint32(b[unitHead-4:]) {
		return key, 0, false
	}
	key.index = binary.LittleEndian.Uint32(b[4:])
	key.count = binary.LittleEndian.Uint32(b[8:])
	key.number = binary.LittleEndian.Uint64(b[12:])
	key.time = int64(binary.LittleEndian.Uint64(b[20:]))
	return key, int(binary.LittleEndian.Uint32(b)), true
}

// plainFrame returns a stored frame that verified as it was before encryption. ok is
// false when it is not what was written here; then repair finds what can be saved.
func plainFrame(h frameHeader, stored []byte, aead cipher.AEAD) (frame []byte, ok bool) {
	if aead == nil || h.flags&flagEncrypted == 0 {
		return stored, aead == nil && h.flags == 0
	}
	if frame, ok = openBody(&h, stored[headerSize:headerSize+h.body], aead); !ok {
		return nil, false
	}
	h.body, h.flags, h.key = uint32(len(frame)-headerSize), 0, 0
	for int64(len(frame)) < h.size() {
		frame = append(frame, 0)
	}
	h.encode(frame)
	return frame, true
}

// openBody decrypts a body, behind room for a header.
func openBody(h *frameHeader, body []byte, aead cipher.AEAD) (records []byte, ok bool) {
	key, units, at, ok := readDirectory(body, seed(h.epoch))
	if !ok || key.number != h.number || key.time != h.time {
		return nil, false
	}
	records = make([]byte, headerSize, headerSize+len(body))
	for i := range units {
		end := at + unitHead + units[i].stored
		if end > len(body) {
			return nil, false
		}
		key.index = uint32(i)
		var err error
		if records, err = aead.Open(records, nil, body[at+unitHead:end], key.bind(h.epoch)); err != nil {
			return nil, false
		}
		at = end
	}
	return records, true
}

// recoverBody finds the units in damaged bytes that verify.
func recoverBody(b []byte, epoch uint64, aead cipher.AEAD) (good []byte, count uint32, time int64, lost []record) {
	seed := seed(epoch)
	for at := 0; at < len(b); {
		if key, units, size, ok := readDirectory(b[at:], seed); ok {
			at += size
			for i := range units {
				u := &units[i]
				key.index = uint32(i)
				records, ok := openUnit(b, at, u.stored, key, epoch, aead)
				if ok {
					good = append(good, records...)
					count += countRecords(records)
				} else {
					lost = append(lost, u.lost()...)
				}
				at += unitHead + u.stored
			}
			time = key.time
			continue
		}
		if key, stored, ok := readUnit(b[at:], seed); ok {
			if records, ok := openUnit(b, at, stored, key, epoch, aead); ok {
				good = append(good, records...)
				count += countRecords(records)
				time = key.time
				at += unitHead + stored
				continue
			}
		}
		at++
	}
	return good, count, time, lost
}

func openUnit(b []byte, at, stored int, key unitKey, epoch uint64, aead cipher.AEAD) ([]byte, bool) {
	if at+unitHead > len(b) || stored > len(b)-at-unitHead {
		return nil, false
	}
	records, err := aead.Open(nil, nil, b[at+unitHead:at+unitHead+stored], key.bind(epoch))
	return records, err == nil
}

// lost returns the headers of the messages in a unit.
func (u *unitSpan) lost() (list []record) {
	for _, r := range u.runs {
		for k := range uint64(r.count) {
			list = append(list, record{kind: recordPublish, id: r.topic, offset: r.first + k})
		}
	}
	return list
}

func countRecords(body []byte) (n uint32) {
	for range records(body) {
		n++
	}
	return n
}
