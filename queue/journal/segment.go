package journal

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// Folders and files of a data directory.
const (
	journalDir    = "journal"
	stateDir      = "state"
	quarantineDir = "quarantine"
	lockName      = "LOCK"
	formatName    = "FORMAT"
	segmentExt    = ".lj"
	newSegment    = "new" // a segment that is being written, before it has a number
)

// segment is a file with messages: one of the journal, live or a spare that waits for
// its turn, or one of a topic.
type segment struct {
	number uint64
	file   vfs.File // of the journal; those of topics are opened when they are read
	size   int64    // of the journal: pre-written bytes
	// Of a live segment, set when it comes into use.
	epoch uint64
	key   uint32      // id of the data key, or 0
	aead  cipher.AEAD // of an encrypted one of the journal
	// Guarded by the index: where the last frame ends, and where each block begins.
	end    int64
	blocks []uint32
	// Of the journal, guarded by the index: since when it is not written any more, and
	// whether topic segments have what is still needed of it.
	sealed time.Time
	copied bool
	// Of a topic.
	topic *topic
	first uint64 // the offset in its name
}

// at returns the place of a byte of the segment.
func (s *segment) at(pos int64) place {
	if s.topic != nil {
		return topicPlace | placeOf(s.number, pos)
	}
	return placeOf(s.number, pos)
}

// path returns the file's path within the data directory.
func (s *segment) path() string {
	if s.topic != nil {
		return topicFile{topic: s.topic.id, first: s.first, number: s.number}.path()
	}
	return path.Join(journalDir, segmentName(s.number))
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentExt) }

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentExt)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil && n < maxSegments
}

// newEpoch returns a number that no earlier use of any segment had.
func newEpoch() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

const (
	writeChunk = mib
	syncEvery  = 8 * mib // keeps the background's syncs short beside the committer's
)

// makeSegment makes a segment full of zeros and gives it its name when, and only when,
// its blocks are there and stable. In no hurry it writes them: a sync of a file whose
// size and blocks do not change costs half as much as one whose do. In a hurry it only
// allocates them: frames are large then, which hides that cost, and writing everything
// twice would not.
func makeSegment(fs vfs.FS, dir string, number uint64, size int64, hurry bool) (s *segment, err error) {
	tmp := path.Join(dir, journalDir, newSegment)
	f, err := fs.Create(tmp)
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), fs.Remove(tmp))
		}
	}()
	if hurry {
		err = f.Allocate(size)
	}
	if !hurry || errors.Is(err, errors.ErrUnsupported) {
		err = writeZeros(f, size)
	}
	if err != nil {
		return nil, fmt.Errorf("write segment: %w", err)
	}
	if plant.On(plant.UnsyncedSpare) {
	} else if err = f.Sync(); err != nil {
		return nil, fmt.Errorf("sync segment: %w", err)
	}
	s = &segment{number: number, file: f, size: size}
	if err = nameSegment(fs, dir, newSegment, number); err != nil {
		return nil, err
	}
	return s, nil
}

// writeZeros fills a file, with a sync now and then, so that the last one is short.
func writeZeros(f vfs.File, size int64) error {
	zeros := make([]byte, min(size, writeChunk))
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
		if (at+writeChunk)%syncEvery == 0 {
			if err := f.Datasync(); err != nil {
				return err
			}
		}
	}
	return nil
}

// nameSegment renames a file of the journal to a number and makes that stable.
func nameSegment(fs vfs.FS, dir, from string, number uint64) error {
	dir = path.Join(dir, journalDir)
	if err := fs.Rename(path.Join(dir, from), path.Join(dir, segmentName(number))); err != nil {
		return fmt.Errorf("rename segment: %w", err)
	}
	if plant.On(plant.SkipDirSync) {
		return nil
	}
	if err := fs.SyncDir(dir); err != nil {
		return fmt.Errorf("sync folder of segments: %w", err)
	}
	return nil
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
