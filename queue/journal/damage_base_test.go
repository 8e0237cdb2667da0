package journal_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// base is a data directory whose content is known.
type base struct {
	name string
	mem  *vfs.Mem
	l    *ledger
	// The messages of the last frame, if nothing on disk says that it was stable.
	unmarked map[string]bool
}

// bases makes directories that differ in how the writer ended: closed, killed when it had
// nothing to do, killed right after a promise, and killed after it had gone on behind a
// torn tail. Each has seen more segments than it holds.
func bases(t *testing.T) (all []base) {
	t.Helper()
	for _, name := range []string{"closed", "idle", "busy", "torn"} {
		synctest.Test(t, func(t *testing.T) {
			b := base{name: name, mem: vfs.NewMem(), l: newLedger()}
			rng := rand.New(rand.NewPCG(3, uint64(len(name))))
			if name == "torn" {
				b.tear(t, rng)
			}
			e := b.open(t)
			b.fill(t, e, rng, 70)
			switch name {
			case "closed":
				if err := e.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			case "busy":
				b.busy(t, e, rng)
			default:
				synctest.Wait() // the tail mark is written when nobody has anything to do
				b.kill(t, e, rng)
			}
			all = append(all, b)
		})
	}
	return all
}

func (b *base) open(t *testing.T) *journal.Engine {
	t.Helper()
	e, err := journal.Open(t.Context(), "/data", small(b.mem))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// kill ends the process.
func (b *base) kill(t *testing.T, e *journal.Engine, rng *rand.Rand) {
	t.Helper()
	b.mem = b.mem.Crash(rng, vfs.KeepAll, true)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// busy kills the process between a promise and the tail mark.
func (b *base) busy(t *testing.T, e *journal.Engine, rng *rand.Rand) {
	t.Helper()
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var dead atomic.Pointer[vfs.Mem]
	var armed, written atomic.Bool
	fs := vfs.WithHook(b.mem, func(op vfs.Op, name string) error {
		if path.Ext(name) == ".lj" && op == vfs.OpWrite && armed.Load() && written.Swap(true) && dead.Load() == nil {
			dead.Store(b.mem.Crash(rng, vfs.KeepAll, true)) // before the second write: the mark
		}
		return nil
	})
	e, err := journal.Open(t.Context(), "/data", small(fs))
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	if err := b.l.publish(t.Context(), topic, "last-1", "last-2", "last-3"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.mem = dead.Load(); b.mem == nil {
		t.Fatal("the process was not killed")
	}
	b.unmarked = map[string]bool{"last-1": true, "last-2": true, "last-3": true}
}

// tear leaves a torn tail of many records.
func (b *base) tear(t *testing.T, rng *rand.Rand) {
	t.Helper()
	e := b.open(t)
	b.fill(t, e, rng, 10)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var dead []*vfs.Mem
	var armed atomic.Bool
	e, err := journal.Open(t.Context(), "/data", small(vfs.WithHook(b.mem, func(op vfs.Op, name string) error {
		if op == vfs.OpDatasync && path.Ext(name) == ".lj" && armed.Load() && dead == nil {
			for range 20 {
				dead = append(dead, b.mem.Crash(rng, vfs.TearLast, true))
			}
		}
		return nil
	})))
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 12 {
		ids = append(ids, fmt.Sprintf("torn-%d", i))
	}
	armed.Store(true)
	if _, err := topic.Publish(t.Context(), b.l.offer(ids...)); err != nil { // promised to nobody: the power went
		t.Fatal(err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b.mem = range dead {
		rep, err := journal.Verify(t.Context(), b.mem, "/data")
		if err != nil {
			t.Fatal(err)
		}
		if rep.Status == journal.Torn {
			return
		}
	}
	t.Fatal("no torn tail")
}

// fill publishes to two topics and consumes most of one.
func (b *base) fill(t *testing.T, e *journal.Engine, rng *rand.Rand, units int) {
	t.Helper()
	ctx := t.Context()
	var topics []queue.Topic
	for _, name := range []string{"a", "b"} {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, topic)
	}
	sub, err := topics[0].Subscribe(ctx, "s", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	round := len(b.l.units)
	for u := range units {
		topic := topics[0]
		if rng.IntN(4) == 0 {
			topic = topics[1]
		}
		var ids []string
		for k := range 1 + rng.IntN(6) {
			ids = append(ids, fmt.Sprintf("%s-%d-%d-%d", topic.Name(), round, u, k))
		}
		if err := b.l.publish(ctx, topic, ids...); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(4) == 0 || sub.Stats().Backlog < 8 {
			continue
		}
		records, err := sub.Receive(ctx, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			b.l.settled[r.Message.ID] = true
			if err := sub.Ack(r.Offset); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait() // checkpoints and segments keep up
	}
}

// onDisk is a frame of a file.
type onDisk struct {
	pos, size int64
	records   int
}

// framesOf finds the frames in the bytes of a segment.
func framesOf(data []byte) (all []onDisk) {
	for at := 64; at+64 <= len(data); {
		n := int(binary.LittleEndian.Uint32(data[at+24:]))
		size := 64 + (n+7)/8*8
		if string(data[at:at+4]) != "LSJ1" || crc32.Checksum(data[at:at+60], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(data[at+60:]) || at+size > len(data) {
			at += 8
			continue
		}
		all = append(all, onDisk{int64(at), int64(size), int(binary.LittleEndian.Uint32(data[at+28:]))})
		at += size
	}
	return all
}

// stored is a file with its content.
type stored struct {
	name string
	data []byte
}

// segment reports whether the file is one of the journal.
func (s *stored) segment() bool { return strings.HasSuffix(s.name, ".lj") }

// files reads the whole directory.
func files(t *testing.T, disk vfs.FS) (all []stored) {
	t.Helper()
	for _, dir := range []string{"/data", "/data/journal", "/data/state"} {
		names, err := disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			name = path.Join(dir, name)
			f, err := disk.OpenRead(name)
			if err != nil {
				t.Fatal(err)
			}
			size, err := f.Size()
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, size)
			if n, err := f.ReadAt(data, 0); n < len(data) {
				t.Fatal(err)
			}
			if size > 0 {
				all = append(all, stored{name, data})
			}
		}
	}
	return all
}
