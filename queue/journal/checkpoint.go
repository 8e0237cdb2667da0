package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/internal/delivery"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// A checkpoint is everything that is not in the messages: where replay starts, which
// segments are live and where the topics' messages are in them, the topics, the
// subscriptions and what they have settled.
const (
	checkpointMagic  = 0x434a534c // "LSJC"
	checkpointHeader = 24
	checkpointPrefix = "checkpoint-"
	tmpExt           = ".tmp"
	keptCheckpoints  = 2
)

var errCheckpoint = errors.New("decode checkpoint: the bytes are cut or wrong")

// checkpoint is the decoded form.
type checkpoint struct {
	mark      place  // where replay starts
	number    uint64 // of the frame at the mark
	prev      uint32 // header CRC of the frame before
	lastTopic uint32
	lastSub   uint32
	// nextStaged is the number of the next topic segment.
	nextStaged uint64
	segments   []*segment
	staged     []*segment // of topics
	topics     []*topic
	subs       []*subscriber
}

// snapshot is an encoded checkpoint on its way to disk.
type snapshot struct {
	seq     uint64
	data    []byte
	retired []*segment // that it does not need any more
}

func checkpointName(seq uint64) string { return fmt.Sprintf("%s%016x", checkpointPrefix, seq) }

func parseCheckpointName(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, checkpointPrefix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 16, 64)
	return seq, err == nil
}

// checkpointIfDue begins a checkpoint when there was enough work or time since the
// last one. It returns the earlier of due and of when the next one is due.
func (e *Engine) checkpointIfDue(due time.Time) time.Time {
	c := &e.committer
	e.mu.Lock()
	want, busy := e.wantCheckpoint, e.pending != nil
	e.mu.Unlock()
	if busy {
		return due // the keeper wakes us when it is done
	}
	if c.dirty.IsZero() && !want {
		return due
	}
	at := c.dirty.Add(e.o.CheckpointInterval)
	if c.since >= e.o.CheckpointBytes || want || !time.Now().Before(at) {
		s := e.snapshot()
		e.mu.Lock()
		e.pending, e.wantCheckpoint = s, false
		e.mu.Unlock()
		signal(e.work)
		return due
	}
	if due.IsZero() || at.Before(due) {
		return at
	}
	return due
}

// snapshot encodes the state after the last commit. Only the committer calls it, so
// that the state cannot run ahead of the mark. Segments that nobody needs leave the
// index here; their files are used again when this checkpoint is the older of two.
func (e *Engine) snapshot() *snapshot {
	c := &e.committer
	s := &snapshot{}
	e.mu.Lock()
	defer e.mu.Unlock()
	// Under the lock, so that no subscription begins between the look and the drop.
	for _, seg := range e.index.closed() {
		if e.index.settled(seg) {
			e.index.drop(seg)
			s.retired = append(s.retired, seg)
		}
	}
	s.retired = append(s.retired, e.replaced...)
	e.replaced = nil
	e.lastCheckpoint++
	s.seq = e.lastCheckpoint
	s.data = e.encodeCheckpoint(s.seq)
	c.since, c.dirty = 0, time.Time{}
	return s
}

// encodeCheckpoint encodes the state. The engine's lock is held.
func (e *Engine) encodeCheckpoint(seq uint64) []byte {
	x := &e.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	b := make([]byte, checkpointHeader, 4*kib)
	binary.LittleEndian.PutUint32(b, checkpointMagic)
	b[4] = version
	binary.LittleEndian.PutUint64(b[8:], seq)
	mark := place(0)
	if n := len(x.segments); n > 0 {
		mark = placeOf(x.segments[n-1].number, x.segments[n-1].end)
	}
	b = binary.AppendUvarint(b, uint64(mark))
	b = binary.AppendUvarint(b, e.committer.number)
	b = binary.AppendUvarint(b, uint64(e.committer.prev))
	b = binary.AppendUvarint(b, uint64(e.lastTopic))
	b = binary.AppendUvarint(b, uint64(e.lastSub))
	b = binary.AppendUvarint(b, e.nextStaged)
	b = binary.AppendUvarint(b, uint64(len(x.segments)))
	for _, s := range x.segments {
		b = s.append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(x.topics)))
	for _, id := range slices.Sorted(maps.Keys(x.topics)) {
		b = x.topics[id].append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(x.staged)))
	for _, number := range slices.Sorted(maps.Keys(x.staged)) {
		s := x.staged[number]
		b = binary.AppendUvarint(b, uint64(s.topic.id))
		b = binary.AppendUvarint(b, s.first)
		b = s.append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(e.subs)))
	for _, s := range e.subs {
		b = s.append(b)
	}
	binary.LittleEndian.PutUint32(b[16:], uint32(len(b)-checkpointHeader))
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

func (s *segment) append(b []byte) []byte {
	b = binary.AppendUvarint(b, s.number)
	b = binary.AppendUvarint(b, s.epoch)
	b = binary.AppendUvarint(b, uint64(s.key))
	b = binary.AppendUvarint(b, uint64(s.end))
	b = binary.AppendUvarint(b, uint64(len(s.blocks)))
	prev := uint32(0)
	for _, at := range s.blocks {
		b = binary.AppendUvarint(b, uint64(at-prev))
		prev = at
	}
	return b
}

func (t *topic) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(t.id))
	b = appendString(b, t.name)
	b = appendOptions(b, t.o, t.held.Load())
	b = t.known.append(b)
	b = binary.AppendUvarint(b, t.log.end)
	b = binary.AppendUvarint(b, t.log.bytes)
	b = t.gone.append(b)
	b = binary.AppendUvarint(b, uint64(len(t.log.entries)))
	var prev entry
	for _, x := range t.log.entries {
		b = binary.AppendUvarint(b, x.first-prev.first)
		b = binary.AppendVarint(b, int64(x.at-prev.at))
		b = binary.AppendUvarint(b, x.bytes-prev.bytes)
		b = binary.AppendVarint(b, int64(x.newest)-int64(prev.newest))
		b = binary.AppendUvarint(b, uint64(x.due))
		b = binary.AppendUvarint(b, uint64(x.lanes))
		prev = x
	}
	return b
}

func (s *subscriber) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.id))
	b = binary.AppendUvarint(b, uint64(s.topic.id))
	b = appendString(b, s.name)
	s.win.View(func(set *delivery.Set) { b = set.Append(b) })
	failures := s.win.Failures()
	b = binary.AppendUvarint(b, uint64(len(failures)))
	prev := uint64(0)
	for _, f := range failures {
		b = binary.AppendUvarint(b, f.Offset-prev)
		b = appendFailed(b, f)
		prev = f.Offset
	}
	return b
}

// writeCheckpoint makes a snapshot stable under its name.
func writeCheckpoint(fs vfs.FS, dir string, s *snapshot) error {
	dir = path.Join(dir, stateDir)
	name := path.Join(dir, checkpointName(s.seq))
	f, err := fs.Create(name + tmpExt)
	if err != nil {
		return fmt.Errorf("create checkpoint: %w", err)
	}
	if _, err := f.WriteAt(s.data, 0); err != nil {
		return errors.Join(fmt.Errorf("write checkpoint: %w", err), f.Close())
	}
	if plant.On(plant.UnsyncedState) {
	} else if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync checkpoint: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close checkpoint: %w", err)
	}
	if err := fs.Rename(name+tmpExt, name); err != nil {
		return fmt.Errorf("rename checkpoint: %w", err)
	}
	if err := fs.SyncDir(dir); err != nil {
		return fmt.Errorf("sync folder of checkpoints: %w", err)
	}
	return nil
}

// removeOldCheckpoints keeps the newest, and removes what was left half-written. It
// returns how many checkpoints it removed.
func removeOldCheckpoints(fs vfs.FS, dir string, keep int) (removed int, err error) {
	dir = path.Join(dir, stateDir)
	names, err := fs.List(dir)
	if err != nil {
		return 0, fmt.Errorf("list checkpoints: %w", err)
	}
	kept := 0
	for _, name := range slices.Backward(names) {
		_, whole := parseCheckpointName(name)
		if whole && kept < keep {
			kept++
			continue
		}
		if !strings.HasPrefix(name, checkpointPrefix) {
			continue
		}
		if err := fs.Remove(path.Join(dir, name)); err != nil {
			return removed, fmt.Errorf("remove checkpoint: %w", err)
		}
		if whole {
			removed++
		}
	}
	return removed, nil
}

// loadCheckpoint returns the newest checkpoint that is intact, or nil when there is
// none. damaged names those that were passed over; seq is the highest number seen.
func loadCheckpoint(fs vfs.FS, dir string, now func() time.Time) (cp *checkpoint, seq uint64, damaged []string, err error) {
	dir = path.Join(dir, stateDir)
	names, err := fs.List(dir)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("list checkpoints: %w", err)
	}
	for _, name := range slices.Backward(names) {
		n, ok := parseCheckpointName(name)
		if !ok {
			continue
		}
		seq = max(seq, n)
		if cp != nil {
			continue
		}
		data, err := readFile(fs, path.Join(dir, name))
		if err != nil {
			return nil, 0, nil, fmt.Errorf("read checkpoint: %w", err)
		}
		if cp, err = decodeCheckpoint(data, now); err != nil {
			damaged = append(damaged, name)
		}
	}
	return cp, seq, damaged, nil
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.OpenRead(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); int64(n) < size {
		return nil, errors.Join(err, f.Close())
	}
	return data, f.Close()
}
