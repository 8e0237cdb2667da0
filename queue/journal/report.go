package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// Status is the state of a data directory. Its numbers are the exit codes of
// `linkspan queue verify`.
type Status int

// The states.
const (
	// Clean: everything verifies.
	Clean Status = 0
	// Torn: the last frame was never finished, as after a power cut. Nothing that was
	// acknowledged is missing.
	Torn Status = 1
	// Damaged: something that was stable does not verify any more.
	Damaged Status = 2
)

// String returns the word for people.
func (s Status) String() string {
	switch s {
	case Clean:
		return "clean"
	case Torn:
		return "torn tail"
	default:
		return "damaged"
	}
}

// Report says what a data directory holds and what is wrong with it.
type Report struct {
	Status   Status `json:"status"`
	Frames   uint64 `json:"frames"`
	Records  uint64 `json:"records"`
	Messages uint64 `json:"messages"`
	Bytes    int64  `json:"bytes"`
	Segments int    `json:"segments"`
	// TopicSegments counts the files of topics, Segments those of the journal.
	TopicSegments int `json:"topic_segments"`
	Topics        int `json:"topics"`
	Subscriptions int `json:"subscriptions"`
	// Checkpoints that did not verify; the state came from an older one and the journal.
	Checkpoints int `json:"damaged_checkpoints,omitempty"`
	// Tail is where the torn tail begins.
	Tail   *Position    `json:"torn_at,omitempty"`
	Damage []DamageNote `json:"damage,omitempty"`
	Lost   []Lost       `json:"lost,omitempty"`
}

// Position is a byte of a segment file.
type Position struct {
	Segment string `json:"segment"`
	Pos     int64  `json:"position"`
}

// DamageNote is a range of a segment that does not verify. It is what the note in
// the quarantine folder says.
type DamageNote struct {
	Position
	Length int64 `json:"length"`
	// Frames is how many frames are missing, if that is known.
	Frames uint64    `json:"frames,omitempty"`
	Lost   []Lost    `json:"lost,omitempty"`
	Found  time.Time `json:"found"`
}

// Lost is a range of messages that cannot be delivered any more.
type Lost struct {
	Topic string `json:"topic"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Report returns what was found wrong when the engine was opened and since.
func (e *Engine) Report() Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.found
	r.Damage, r.Lost = slices.Clone(r.Damage), slices.Clone(r.Lost)
	return r
}

func (e *Engine) positionOf(p place) Position {
	if p.inTopic() {
		e.index.mu.RLock()
		defer e.index.mu.RUnlock()
		if s := e.index.live(p); s != nil {
			return Position{Segment: s.path(), Pos: p.pos()}
		}
		return Position{Segment: path.Join(topicsDir, strconv.FormatUint(p.segment(), 16)), Pos: p.pos()}
	}
	return Position{Segment: path.Join(journalDir, segmentName(p.segment())), Pos: p.pos()}
}

// report takes note of damage that was met: it is counted, logged and copied to the
// quarantine folder, once.
func (e *Engine) report(bad []damage) {
	for _, d := range bad {
		note := DamageNote{Position: e.positionOf(d.at), Length: int64(len(d.data)), Frames: d.frames, Found: time.Now().UTC()}
		for _, r := range d.lost {
			if t := e.index.topic(r.id); t != nil && r.kind == recordPublish {
				note.Lost = appendLost(note.Lost, Lost{Topic: t.name, First: r.offset, Last: r.offset})
			}
		}
		e.mu.Lock()
		known := slices.ContainsFunc(e.found.Damage, func(n DamageNote) bool { return n.Position == note.Position })
		if !known {
			e.found.Status = Damaged
			e.found.Damage = append(e.found.Damage, note)
		}
		e.mu.Unlock()
		if known {
			continue
		}
		e.log.Error("damaged range found", slog.Any("segment", note.Segment), slog.Any("position", note.Pos), slog.Any("length", note.Length))
		if e.o.ReadOnly {
			continue
		}
		if err := e.quarantine(&note, d.data); err != nil {
			e.log.Error("damaged range could not be copied", slog.Any("segment", note.Segment), slog.Any("error", err.Error()))
		}
	}
}

// lose settles messages that are not there any more, for everybody, and says which of
// them somebody still needed.
func (e *Engine) lose(g gap) {
	t := g.topic
	e.mu.Lock()
	lost := t.needed(g.first, g.end)
	for _, l := range lost {
		t.gone.add(l.first, l.end)
		t.held.Store(t.held.Load() || t.o.OnDamage == queue.Hold)
		e.found.Status = Damaged
		e.found.Lost = appendLost(e.found.Lost, Lost{Topic: t.name, First: l.first, Last: l.end - 1})
	}
	e.mu.Unlock()
	for _, s := range t.subscribers() {
		s.win.SettleRange(g.first, g.end)
	}
	for _, l := range lost {
		e.log.Error("messages lost to damage", slog.Any("topic", t.name), slog.Any("first", l.first), slog.Any("last", l.end-1))
		e.touch()
	}
}

// needed returns which of the offsets somebody may still need. The engine's lock is
// held.
func (t *topic) needed(first, end uint64) (need []gap) {
	if t.deleted || t.covered(first, end) {
		return nil
	}
	released, gone := t.releasedLocked(), t.gone.clone()
	for o := first; o < end; o++ {
		if !released.Has(o) && !gone.Has(o) {
			need = appendGap(need, gap{topic: t, first: o, end: o + 1})
		}
	}
	return need
}

// touch makes sure that a checkpoint follows.
func (e *Engine) touch() {
	e.mu.Lock()
	e.wantCheckpoint = true
	e.mu.Unlock()
	signal(e.wake)
}

// appendLost adds a range, joining it to the last one when they touch.
func appendLost(list []Lost, l Lost) []Lost {
	if n := len(list); n > 0 && list[n-1].Topic == l.Topic && list[n-1].Last+1 == l.First {
		list[n-1].Last = l.Last
		return list
	}
	return append(list, l)
}

// quarantine copies damaged bytes, with a note, to where nothing uses or deletes them.
func (e *Engine) quarantine(note *DamageNote, data []byte) error {
	dir := path.Join(e.dir, quarantineDir)
	if err := errors.Join(e.fs.Mkdir(dir), e.fs.SyncDir(e.dir)); err != nil {
		return fmt.Errorf("make quarantine folder: %w", err)
	}
	text, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return fmt.Errorf("write quarantine note: %w", err)
	}
	name := path.Join(dir, fmt.Sprintf("%s-%x", path.Base(note.Segment), note.Pos))
	if err := writeFile(e.fs, name+".bin", data); err != nil {
		return fmt.Errorf("copy damaged range: %w", err)
	}
	if err := writeFile(e.fs, name+".json", append(text, '\n')); err != nil {
		return fmt.Errorf("write quarantine note: %w", err)
	}
	return e.fs.SyncDir(dir)
}

// countHeld counts the topics' messages that nobody has released.
func (x *index) countHeld(released func(t *topic) delivery.Set) (n uint64) {
	for _, t := range x.list() {
		set := released(t)
		if end := x.end(t); end > set.Floor() {
			n += end - set.Floor() - set.Above()
		}
	}
	return n
}
