package journal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// flipped is a store whose content is known.
type flipped struct {
	mem     *vfs.Mem
	units   [][]string // ids by unit, in order; one unit at most is in one frame here
	payload map[string][]byte
	settled map[string]bool
}

// fill makes a store with some hundred messages in several segments.
func fill(t *testing.T, finish bool) *flipped {
	t.Helper()
	ctx := t.Context()
	f := &flipped{mem: vfs.NewMem(), payload: map[string][]byte{}, settled: map[string]bool{}}
	e, err := journal.Open(ctx, "/data", small(f.mem))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for _, name := range []string{"a", "b"} {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for u := range 60 {
			var ids []string
			var msgs []message.Message
			for k := range 1 + rng.IntN(6) {
				id := fmt.Sprintf("%s-%d-%d", name, u, k)
				ids, msgs = append(ids, id), append(msgs, msg(id))
				f.payload[id] = payloadOf(id)
			}
			if _, err := topic.Publish(ctx, msgs); err != nil {
				t.Fatal(err)
			}
			f.units = append(f.units, ids)
		}
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe(ctx, "s", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		records, err := sub.Receive(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			f.settled[r.Message.ID] = true
			if err := sub.Ack(r.Offset); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !finish {
		// The process dies: what it wrote is there, what it would still do is not.
		f.mem = f.mem.Crash(rng, vfs.KeepAll, true)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFlip inverts single bits anywhere. A flip costs one record or one frame at
// most, what is lost is named, and wrong bytes are never handed out.
func TestFlip(t *testing.T) {
	n := 500
	if testing.Short() {
		n = 300
	}
	for _, finish := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", finish), func(t *testing.T) {
			f := fill(t, finish)
			rng := rand.New(rand.NewPCG(4, 4))
			var harmless, records, frames, torn, seen, verified int
			for range n {
				disk := f.mem.Crash(rng, vfs.KeepAll, true)
				name, bit := randomBit(t, disk, rng)
				disk.Flip(name, bit)
				rep, err := journal.Verify(t.Context(), disk, "/data")
				if err != nil {
					t.Fatalf("%s bit %d: verify: %v", name, bit, err)
				}
				if rep.Status == journal.Damaged {
					verified++
				}
				lost, now := f.read(t, disk, fmt.Sprintf("%s bit %d", name, bit))
				if now.Status == journal.Damaged {
					seen++
				}
				switch {
				case lost == 0:
					harmless++
				case lost == 1:
					records++
				case lost <= 6:
					frames++
				default:
					t.Errorf("%s bit %d: %d messages lost, want one frame at most", name, bit, lost)
				}
				if lost > 0 && now.Status == journal.Clean {
					t.Errorf("%s bit %d: %d messages lost silently", name, bit, lost)
				}
				if now.Status == journal.Torn {
					torn++
				}
				if lost > 0 && rep.Status == journal.Clean {
					t.Errorf("%s bit %d: verify does not see the loss", name, bit)
				}
			}
			t.Logf("%d flips: %d without loss, %d cost a record, %d a frame; %d reported as damage, %d as a torn tail, %d seen by verify; 0 wrong bytes", n, harmless, records, frames, seen, torn, verified)
		})
	}
}

// randomBit chooses a bit of a file, files by their size.
func randomBit(t *testing.T, disk *vfs.Mem, rng *rand.Rand) (name string, bit int64) {
	t.Helper()
	type file struct {
		name string
		size int64
	}
	var files []file
	total := int64(0)
	for _, dir := range []string{"/data", "/data/journal", "/data/state"} {
		names, err := disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			h, err := disk.Open(path.Join(dir, n))
			if err != nil {
				t.Fatal(err)
			}
			size, err := h.Size()
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file{path.Join(dir, n), size})
			total += size
		}
	}
	at := rng.Int64N(total)
	for _, f := range files {
		if at < f.size {
			return f.name, at*8 + rng.Int64N(8)
		}
		at -= f.size
	}
	panic("unreachable")
}

// read opens the store and counts what is lost of what was not settled.
func (f *flipped) read(t *testing.T, disk *vfs.Mem, what string) (lost int, rep journal.Report) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	e, err := journal.Open(ctx, "/data", small(disk))
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	found := map[string]bool{}
	for _, name := range e.Topics() {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				t.Fatalf("%s: browse: %v", what, err)
			}
			want, ok := f.payload[r.Message.ID]
			if !ok || string(want) != string(r.Message.Payload) || r.Message.Headers.Text("h") != r.Message.ID {
				t.Errorf("%s: wrong bytes in %q", what, r.Message.ID)
			}
			found[r.Message.ID] = true
		}
	}
	rep = e.Report()
	named := 0
	for _, l := range rep.Lost {
		named += int(l.Last - l.First + 1)
	}
	for id := range f.payload {
		if !found[id] && !f.settled[id] {
			lost++
		}
	}
	if rep.Status == journal.Damaged && named < lost {
		t.Errorf("%s: %d messages lost, %d named: %+v", what, lost, named, rep)
	}
	if err := e.Close(ctx); err != nil {
		t.Errorf("%s: close: %v", what, err)
	}
	return lost, rep
}
