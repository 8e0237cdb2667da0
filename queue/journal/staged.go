package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
)

// removeStaged deletes a topic segment that no checkpoint names any more.
func (e *Engine) removeStaged(s *segment) error {
	err := e.fs.Remove(path.Join(e.dir, s.path()))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(e.index.files.forget(s.number), err); err != nil {
		return fmt.Errorf("remove topic segment: %w", err)
	}
	return nil
}

// listStaged returns the topic segments that are there, by number, and the files that
// were never finished.
func (e *Engine) listStaged() (found map[uint64]topicFile, unfinished []string, err error) {
	found = map[uint64]topicFile{}
	folders, err := e.fs.List(path.Join(e.dir, topicsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("list topic segments: %w", err)
	}
	for _, folder := range folders {
		if id, err := strconv.ParseUint(folder, 16, 32); err != nil || folder != path.Base(topicFolder(uint32(id))) {
			continue // not ours
		}
		names, err := e.fs.List(path.Join(e.dir, topicsDir, folder))
		if err != nil {
			return nil, nil, fmt.Errorf("list topic segments: %w", err)
		}
		for _, name := range names {
			if f, ok := parseTopicFile(folder, name); ok {
				found[f.number] = f
			} else if whole, ok := strings.CutSuffix(name, tmpExt); ok {
				if _, ok := parseTopicFile(folder, whole); ok {
					unfinished = append(unfinished, path.Join(topicsDir, folder, name))
				}
			}
		}
	}
	return found, unfinished, nil
}

// installStaged puts the topic segments of the checkpoint in place. Those that are not
// there any more are losses.
func (r *recovery) installStaged(cp *checkpoint) {
	e := r.e
	for _, s := range cp.staged {
		e.index.staged[s.number] = s
		if r.staged[s.number] == (topicFile{topic: s.topic.id, first: s.first, number: s.number}) {
			delete(r.staged, s.number)
			continue
		}
		e.report([]damage{{at: s.at(0)}})
		r.lost = append(r.lost, e.index.lose(s)...)
	}
}

// discardStaged removes what a crash left of topic segments: those that no checkpoint
// names wait for the next one, because the one before may still name them.
func (r *recovery) discardStaged() error {
	e := r.e
	for _, f := range r.staged {
		e.retired = append(e.retired, &segment{number: f.number, topic: &topic{id: f.topic}, first: f.first})
	}
	for _, name := range r.unfinished {
		if err := e.fs.Remove(path.Join(e.dir, name)); err != nil {
			return fmt.Errorf("remove unfinished topic segment: %w", err)
		}
	}
	if len(r.staged) > 0 {
		e.wantCheckpoint = true
	}
	return nil
}

// restore finds topics and their messages in topic segments when no checkpoint does,
// unless the journal goes back to its beginning and has everything. What subscriptions
// had settled is not known any more.
func (r *recovery) restore() error {
	if len(r.staged) == 0 || r.complete() {
		return nil
	}
	e := r.e
	e.found.Status = Damaged
	e.log.Error("no checkpoint verifies: messages are found again by their files, and are delivered again", slog.Any("dir", e.dir))
	files := make([]topicFile, 0, len(r.staged))
	for _, f := range r.staged {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b topicFile) int {
		if a.first != b.first {
			return order(a.first > b.first, a.first < b.first)
		}
		return order(a.number < b.number, a.number > b.number)
	})
	for _, f := range files {
		if err := r.restoreFile(f); err != nil {
			return err
		}
	}
	return nil
}

// complete reports whether the journal has its first frame.
func (r *recovery) complete() bool {
	lowest := uint64(maxSegments)
	for number := range r.files {
		lowest = min(lowest, number)
	}
	if lowest == maxSegments {
		return false
	}
	f, err := r.e.openSegment(lowest)
	if err != nil {
		return false
	}
	b := make([]byte, headerSize)
	_, err = f.ReadAt(b, 0)
	h, ok := decodeSegment(b)
	return errors.Join(err, f.Close()) == nil && ok && h.number == lowest && h.frame == 1
}

// restoreFile takes in a topic segment by its footer, or by its blocks.
func (r *recovery) restoreFile(f topicFile) error {
	e := r.e
	foot, end, err := e.readFooter(f)
	if err != nil {
		return err
	}
	if foot == nil {
		s := &segment{number: f.number, topic: &topic{id: f.topic}, first: f.first}
		e.index.staged[s.number] = s
		e.report([]damage{{at: s.at(0)}})
		delete(e.index.staged, s.number)
		return nil
	}
	if foot.key != 0 && !e.ring.Has(foot.key) {
		return nil // it was shredded
	}
	t := e.index.topic(f.topic)
	if t == nil {
		t = &topic{id: f.topic, name: foot.name}
		e.adopt(t)
	}
	s := &segment{number: f.number, epoch: foot.epoch, key: foot.key, topic: t, first: f.first, end: end}
	for _, b := range foot.blocks {
		s.blocks = append(s.blocks, uint32(b.pos/frameAlign))
		if b.end <= t.log.end {
			continue // another file has them
		}
		first := max(b.first, t.log.end)
		t.gone.add(t.log.end, first)
		t.log.entries = append(t.log.entries, entry{first: first, at: s.at(b.pos), bytes: t.log.bytes, digest: b.digest()})
		t.log.end = b.end
		t.log.bytes += uint64(b.raw)
	}
	if n := len(t.log.entries); n > 0 && e.index.live(t.log.entries[n-1].at) == nil {
		e.index.staged[s.number] = s
		delete(r.staged, f.number)
	}
	return nil
}

// readFooter reads a topic segment's footer, or makes it again. end is where the
// blocks end. It returns nil when nothing in the file verifies.
func (e *Engine) readFooter(f topicFile) (foot *footer, end int64, err error) {
	file, err := e.fs.OpenRead(path.Join(e.dir, f.path()))
	if err != nil {
		return nil, 0, fmt.Errorf("open topic segment: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sc, err := newScanner(file)
	if err != nil {
		return nil, 0, err
	}
	tail, err := sc.at(max(sc.size-trailerSize, 0), trailerSize)
	if err != nil {
		return nil, 0, err
	}
	if pos, _ := decodeTrailer(tail); pos > 0 && pos < sc.size {
		b, err := sc.at(pos, sc.size-pos)
		if err != nil {
			return nil, 0, err
		}
		if foot, err := decodeFooter(b); err == nil && foot.file == f {
			return foot, pos, nil
		}
	}
	return sc.footer(f)
}

// footer makes a footer of the headers of the file and its blocks.
func (s *scanner) footer(f topicFile) (foot *footer, end int64, err error) {
	b, err := s.at(0, s.size)
	if err != nil {
		return nil, 0, err
	}
	h, ok := decodeTopicHeader(b)
	if !ok || h.file != f {
		return nil, 0, nil
	}
	foot = &footer{topicHeader: h}
	for pos := h.size(); pos < s.size; {
		if b, err = s.at(pos, blockHeaderSize); err != nil {
			return nil, 0, err
		}
		x, ok := decodeBlock(b, h.epoch)
		if !ok {
			pos += frameAlign
			continue
		}
		foot.blocks = append(foot.blocks, footerBlock{blockHeader: x, pos: pos})
		pos += x.size()
		end = pos
	}
	return foot, end, nil
}
