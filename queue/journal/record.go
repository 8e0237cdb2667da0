package journal

import (
	"encoding/binary"
	"hash/crc32"
	"iter"

	"github.com/linkspan/linkspan/queue/internal/plant"
)

// recordType says what a record does.
type recordType uint8

const (
	// recordPublish: id is the topic, offset the message's, the body the message.
	recordPublish recordType = 1
	// recordAck: id is the subscription, offset the first one, the body ranges.
	recordAck recordType = 2
	// recordTopic: id is a topic that is new or has new options, the body its name and
	// its options.
	recordTopic recordType = 3
	// recordSubscription: id is the new subscription, the body its topic, name and what
	// is settled from the start.
	recordSubscription recordType = 4
	// recordFailed: id is the subscription, offset the message's, the body how many
	// attempts failed and when it may come again.
	recordFailed recordType = 5
	// recordSeek: id is the subscription, offset where it goes on.
	recordSeek recordType = 6
	// recordPurge: id is the topic, offset the first message that stays.
	recordPurge recordType = 7
	// recordDropTopic: id is the topic that ends.
	recordDropTopic recordType = 8
	// recordDropSubscription: id is the subscription that ends.
	recordDropSubscription recordType = 9
	// recordMark says nothing: it makes a frame where one is needed.
	recordMark recordType = 10
)

const recordHeader = 28

// record is one entry of a frame.
type record struct {
	kind   recordType
	id     uint32
	offset uint64
	body   []byte
	crc    uint32 // of the body

	priority uint8 // of a published message
	later    bool  // it has a NotBefore
}

// What a record header says of a published message, so that the index need not look
// into it.
const (
	recordPriority = 5 // the byte
	recordFlags    = 6 // the byte
	flagLater      = 1
)

func (r *record) intact() bool { return checksum(r.body) == r.crc || plant.On(plant.BodyCRC) }

// beginRecord appends room for a header and returns where it is.
func beginRecord(b []byte, kind recordType, id uint32, offset uint64) (grown []byte, at int) {
	at = len(b)
	var h [recordHeader]byte
	h[4] = byte(kind)
	binary.LittleEndian.PutUint32(h[8:], id)
	binary.LittleEndian.PutUint64(h[12:], offset)
	return append(b, h[:]...), at
}

// endRecord completes the record that began at at with what was appended since.
func endRecord(b []byte, at int) {
	body := b[at+recordHeader:]
	binary.LittleEndian.PutUint32(b[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[at+20:], checksum(body))
}

// seed makes the CRC of record headers depend on the segment's epoch. Bytes within a
// payload can therefore never pass for a record.
func seed(epoch uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], epoch)
	return checksum(b[:])
}

// sealRecords completes the headers of the records in body for the segment.
func sealRecords(body []byte, seed uint32) {
	table := castagnoli()
	for at := 0; at < len(body); {
		h := body[at : at+recordHeader]
		binary.LittleEndian.PutUint32(h[24:], crc32.Update(seed, table, h[:24]))
		at += recordHeader + int(binary.LittleEndian.Uint32(h))
	}
}

// decodeRecord reads the record at the start of b. ok is false when its header is
// damaged; the body may be damaged all the same.
func decodeRecord(b []byte, seed uint32) (r record, size int, ok bool) {
	if len(b) < recordHeader {
		return r, 0, false
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n > int64(len(b)-recordHeader) ||
		crc32.Update(seed, castagnoli(), b[:24]) != binary.LittleEndian.Uint32(b[24:]) && !plant.On(plant.RecordHeaderCRC) {
		return r, 0, false
	}
	return parseRecord(b), recordHeader + int(n), true
}

// parseRecord reads a record of a frame whose checksum holds.
func parseRecord(b []byte) record {
	n := int(binary.LittleEndian.Uint32(b))
	return record{
		kind:   recordType(b[4]),
		id:     binary.LittleEndian.Uint32(b[8:]),
		offset: binary.LittleEndian.Uint64(b[12:]),
		crc:    binary.LittleEndian.Uint32(b[20:]),
		body:   b[recordHeader : recordHeader+n : recordHeader+n],

		priority: b[recordPriority],
		later:    b[recordFlags]&flagLater != 0,
	}
}

// records yields the records of a body whose checksum holds, with their positions.
// It stops where the bytes make no sense, which only a faulty writer could cause.
func records(body []byte) iter.Seq2[int, record] {
	return func(yield func(int, record) bool) {
		for at := 0; at+recordHeader <= len(body); {
			n := int64(binary.LittleEndian.Uint32(body[at:]))
			if n > int64(len(body)-at-recordHeader) {
				return
			}
			r := parseRecord(body[at:])
			if !yield(at, r) {
				return
			}
			at += recordHeader + len(r.body)
		}
	}
}

// salvage finds the records in damaged bytes. good is a body of those that are
// intact; lost has the headers of those whose body is not. What has lost its header
// is found by nobody, and shows as a gap in the topic's offsets.
func salvage(b []byte, seed uint32) (good []byte, count uint32, lost []record) {
	for at := 0; at < len(b); {
		r, size, ok := decodeRecord(b[at:], seed)
		switch {
		case !ok:
			at++
			continue
		case r.intact():
			good = append(good, b[at:at+size]...)
			count++
		default:
			r.body = nil
			lost = append(lost, r)
		}
		at += size
	}
	return good, count, lost
}
