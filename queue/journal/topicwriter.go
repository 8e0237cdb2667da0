package journal

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path"

	"github.com/linkspan/linkspan/internal/vfs"
)

// topicWriter writes a topic segment. It holds the open block and what was not written
// yet in memory, at most one chunk and one block.
type topicWriter struct {
	e    *Engine
	s    *segment
	aead cipher.AEAD
	tmp  string
	file vfs.File // made when there is a chunk to write

	seed    uint32
	frames  []byte // of the open block
	frame   int    // where the open frame begins in frames, if head.count > 0
	head    frameHeader
	source  uint64      // number of the frame that it is of
	count   uint64      // frames in the open block
	block   blockHeader // what is known of the open block
	out     []byte      // packed and not written
	written int64
	synced  int64

	list    []footerBlock
	entries []entry // of the blocks; bytes counts from the segment's first message
	bytes   uint64
	end     uint64 // the offset after the last message
	holes   []gap  // offsets from first to end that were left out
}

// newTopicWriter begins a topic segment whose messages are at first or later.
func (e *Engine) newTopicWriter(t *topic, number, first uint64, key uint32) (*topicWriter, error) {
	s := &segment{number: number, epoch: newEpoch(), key: key, topic: t, first: first}
	aead, err := e.index.cipher(s)
	if err != nil {
		return nil, err
	}
	return &topicWriter{e: e, s: s, aead: aead, seed: seed(s.epoch), end: first}, nil
}

func (w *topicWriter) header() topicHeader {
	return topicHeader{
		file:  topicFile{topic: w.s.topic.id, first: w.s.first, number: w.s.number},
		epoch: w.s.epoch, key: w.s.key, name: w.s.topic.name,
	}
}

// add appends a message, the record at the start of b, from a frame that has this number
// and time.
func (w *topicWriter) add(b []byte, frame uint64, time int64) error {
	r := parseRecord(b)
	w.skip(r.offset)
	if len(w.entries) == 0 {
		w.s.first = r.offset
		h := w.header()
		w.out = append(w.out, h.encode()...)
	}
	if n := len(w.frames); n > 0 && n+headerSize+recordHeader+len(r.body) > blockSize {
		if err := w.endBlock(); err != nil {
			return err
		}
	}
	if w.head.count > 0 && (w.source != frame || w.head.time != time) {
		w.endFrame()
	}
	if w.block.count == 0 {
		w.block = blockHeader{epoch: w.s.epoch, first: r.offset, from: time, to: time}
		w.entries = append(w.entries, entry{first: r.offset, bytes: w.bytes})
	}
	if w.head.count == 0 {
		w.frame = len(w.frames)
		w.count++ // they count from 1, so that one that is missing is seen
		w.source, w.head = frame, frameHeader{epoch: w.s.epoch, number: w.count, time: time}
		w.frames = append(w.frames, make([]byte, headerSize)...)
	}
	at := len(w.frames)
	// The CRC of the body stays the one that the publisher's call computed.
	w.frames = append(w.frames, b[:recordHeader+len(r.body)]...)
	h := w.frames[at:]
	binary.LittleEndian.PutUint32(h[24:], crc32.Update(w.seed, castagnoli(), h[:24]))
	w.entries[len(w.entries)-1].note(&r, time)
	w.head.count++
	w.block.count++
	w.block.from, w.block.to = min(w.block.from, time), max(w.block.to, time)
	w.block.end, w.end = r.offset+1, r.offset+1
	w.bytes += uint64(len(r.body))
	return nil
}

// errTooLong cannot happen: a copy is of one journal segment, which is shorter.
var errTooLong = errors.New("the file is too long")

// skip says that nothing is there up to an offset.
func (w *topicWriter) skip(end uint64) {
	if end > w.end {
		w.holes = append(w.holes, gap{topic: w.s.topic, first: w.end, end: end})
		w.end = end
	}
}

func (w *topicWriter) endFrame() {
	body := w.frames[w.frame+headerSize:]
	w.head.body, w.head.bodyCRC = uint32(len(body)), checksum(body)
	w.head.encode(w.frames[w.frame:])
	for len(w.frames)%frameAlign != 0 {
		w.frames = append(w.frames, 0)
	}
	w.head = frameHeader{}
}

func (w *topicWriter) endBlock() error {
	if w.block.count == 0 {
		return nil
	}
	w.endFrame()
	last := &w.entries[len(w.entries)-1]
	w.block.due, w.block.lanes = last.due, last.lanes
	pos := w.written + int64(len(w.out))
	if pos >= 1<<positionLow {
		return fmt.Errorf("write topic segment: %w", errTooLong)
	}
	var err error
	if w.out, err = w.e.index.codec.pack(w.out, &w.block, w.frames, pos, w.aead); err != nil {
		return err
	}
	w.s.blocks = append(w.s.blocks, uint32(pos/frameAlign))
	last.at = w.s.at(pos)
	w.list = append(w.list, footerBlock{blockHeader: w.block, pos: pos})
	w.block, w.frames, w.count = blockHeader{}, w.frames[:0], 0
	if len(w.out) >= writeChunk {
		return w.flush()
	}
	return nil
}

// flush writes what is packed.
func (w *topicWriter) flush() error {
	if w.file == nil {
		if err := w.create(); err != nil {
			return err
		}
	}
	for at := 0; at < len(w.out); at += writeChunk {
		if _, err := w.file.WriteAt(w.out[at:min(at+writeChunk, len(w.out))], w.written+int64(at)); err != nil {
			return fmt.Errorf("write topic segment: %w", err)
		}
	}
	w.written += int64(len(w.out))
	w.out = w.out[:0]
	if w.written-w.synced >= syncEvery {
		if err := w.file.Datasync(); err != nil {
			return fmt.Errorf("sync topic segment: %w", err)
		}
		w.synced = w.written
	}
	return nil
}

// create makes the file under a temporary name, and its folder.
func (w *topicWriter) create() error {
	e := w.e
	folder := path.Join(e.dir, topicFolder(w.s.topic.id))
	if err := e.makeFolder(folder); err != nil {
		return err
	}
	w.tmp = path.Join(e.dir, w.s.path()) + tmpExt
	f, err := e.fs.Create(w.tmp)
	if err != nil {
		return fmt.Errorf("create topic segment: %w", err)
	}
	w.file = f
	return nil
}

// makeFolder makes the folder of a topic, and the one above it, and their names stable.
func (e *Engine) makeFolder(folder string) error {
	if e.folders[folder] {
		return nil
	}
	above := path.Dir(folder)
	if err := e.fs.Mkdir(folder); err != nil {
		return fmt.Errorf("make folder of a topic: %w", err)
	}
	if err := e.fs.SyncDir(above); err != nil {
		return fmt.Errorf("sync folder of topics: %w", err)
	}
	if err := e.fs.SyncDir(path.Dir(above)); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	e.folders[folder] = true
	return nil
}

// finish makes the segment stable under its name. It returns nil when no message is in
// it.
func (w *topicWriter) finish() (*segment, error) {
	if err := w.endBlock(); err != nil {
		return nil, err
	}
	if len(w.list) == 0 {
		return nil, nil //nolint:nilnil // nothing to keep
	}
	w.s.end = w.written + int64(len(w.out))
	f := footer{topicHeader: w.header(), blocks: w.list}
	w.out = append(w.out, f.encode(w.s.end)...)
	w.s.size = w.written + int64(len(w.out))
	if err := w.flush(); err != nil {
		return nil, err
	}
	if err := w.file.Sync(); err != nil {
		return nil, fmt.Errorf("sync topic segment: %w", err)
	}
	file := w.file
	w.file = nil
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("close topic segment: %w", err)
	}
	name := path.Join(w.e.dir, w.s.path())
	if err := w.e.fs.Rename(w.tmp, name); err != nil {
		return nil, fmt.Errorf("rename topic segment: %w", err)
	}
	if err := w.e.fs.SyncDir(path.Dir(name)); err != nil {
		return nil, fmt.Errorf("sync folder of a topic: %w", err)
	}
	return w.s, nil
}

// abandon removes what was written.
func (w *topicWriter) abandon() error {
	if w.file == nil {
		return nil
	}
	file := w.file
	w.file = nil
	if err := errors.Join(file.Close(), w.e.fs.Remove(w.tmp)); err != nil {
		return fmt.Errorf("remove unfinished topic segment: %w", err)
	}
	return nil
}
