package keyring

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// The file: magic, format version, length of the body, number of the change, body, CRC
// of all of it. docs/format/journal.md draws it.
const (
	magic      = 0x4b53534c // "LSSK"
	format     = 1
	headerSize = 24
)

var errRing = errors.New("decode keyring: the bytes are cut or wrong")

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func encode(version uint64, entries []entry) []byte {
	b := make([]byte, headerSize, headerSize+128*len(entries))
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for i := range entries {
		e := &entries[i]
		b = binary.LittleEndian.AppendUint32(b, e.ID)
		b = binary.LittleEndian.AppendUint32(b, e.Topic)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Created.UnixNano()))
		active := byte(0)
		if e.Active {
			active = 1
		}
		b = append(b, active)
		b = binary.AppendUvarint(b, uint64(len(e.Master)))
		b = append(b, e.Master...)
		b = binary.AppendUvarint(b, uint64(len(e.wrapped)))
		b = append(b, e.wrapped...)
	}
	binary.LittleEndian.PutUint32(b, magic)
	b[4] = format
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-headerSize))
	binary.LittleEndian.PutUint64(b[16:], version)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

const fixedEntry = 4 + 4 + 8 + 1

func decode(data []byte) (version uint64, entries []entry, err error) {
	n := len(data) - 4
	if n < headerSize || binary.LittleEndian.Uint32(data) != magic || data[4] != format ||
		int(binary.LittleEndian.Uint32(data[8:])) != n-headerSize ||
		checksum(data[:n]) != binary.LittleEndian.Uint32(data[n:]) {
		return 0, nil, errRing
	}
	b := data[headerSize:n]
	count, b, err := uvarint(b)
	if err != nil {
		return 0, nil, err
	}
	for range count {
		if len(b) < fixedEntry {
			return 0, nil, errRing
		}
		var e entry
		e.ID = binary.LittleEndian.Uint32(b)
		e.Topic = binary.LittleEndian.Uint32(b[4:])
		e.Created = time.Unix(0, int64(binary.LittleEndian.Uint64(b[8:]))).UTC()
		e.Active = b[16] == 1
		var name []byte
		if name, b, err = text(b[fixedEntry:]); err != nil {
			return 0, nil, err
		}
		e.Master = string(name)
		if e.wrapped, b, err = text(b); err != nil {
			return 0, nil, err
		}
		entries = append(entries, e)
	}
	if len(b) != 0 {
		return 0, nil, errRing
	}
	return binary.LittleEndian.Uint64(data[16:]), entries, nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > uint64(len(b)) {
		return 0, nil, errRing
	}
	return v, b[n:], nil
}

func text(b []byte) (s, rest []byte, err error) {
	n, b, err := uvarint(b)
	if err != nil || n > uint64(len(b)) {
		return nil, nil, errRing
	}
	return b[:n:n], b[n:], nil
}
