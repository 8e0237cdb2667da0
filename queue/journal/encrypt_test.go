package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// secret has options that encrypt and copy to topic segments all the time.
func secret(t testing.TB, disk vfs.FS) journal.Options {
	t.Helper()
	o := staging(disk)
	o.Master = master(t, 1)
	return o
}

// allFiles returns the content of every file of a directory.
func allFiles(t *testing.T, disk vfs.FS, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	names, err := disk.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, name := range names {
		name = path.Join(dir, name)
		if f, err := disk.Open(name); err == nil {
			size, _ := f.Size()
			data := make([]byte, size)
			_, _ = f.ReadAt(data, 0)
			out[name] = data
		}
		if below, err := disk.List(name); err == nil && len(below) > 0 {
			maps.Copy(out, allFiles(t, disk, name))
		}
	}
	return out
}

const marker = "TOPSECRET"

func marked(i int) message.Message {
	text := fmt.Sprintf("%s-%d-%s", marker, i, strings.Repeat("x", i%700))
	return message.Message{
		ID: marker + strconv.Itoa(i), Key: []byte(marker), Payload: []byte(text),
		Headers: message.Headers{{Name: marker, Value: message.String(marker)}},
	}
}

// publishMarked fills a topic.
func publishMarked(t *testing.T, e queue.Engine, topic string, from, n int) {
	t.Helper()
	a, err := e.Topic(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := a.Publish(t.Context(), []message.Message{marked(from + i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func countMarked(t *testing.T, e queue.Engine, topic string) (n int) {
	t.Helper()
	a, err := e.Topic(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range a.Browse(t.Context(), queue.Start{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := marked(int(r.Offset)); r.Message.ID != want.ID || !bytes.Equal(r.Message.Payload, want.Payload) {
			t.Fatalf("offset %d is %q", r.Offset, r.Message.ID)
		}
		n++
	}
	return n
}

func mustOpen(t *testing.T, o journal.Options) *journal.Engine {
	t.Helper()
	e, err := journal.Open(t.Context(), "/data", o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustClose(t *testing.T, e *journal.Engine) {
	t.Helper()
	if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// No part of a message is in clear in any file: of the journal, its spares, the topics,
// the checkpoints or the quarantine.
func TestNothingInClear(t *testing.T) {
	mem := vfs.NewMem()
	o := secret(t, mem)
	e := mustOpen(t, o)
	publishMarked(t, e, "a", 0, 300)
	until(t, "topic segments", func() bool { return len(topicFiles(t, mem)) > 0 && journalFiles(t, mem) < 8 })
	publishMarked(t, e, "a", 300, 20)
	crashed := mem.Crash(rand.New(rand.NewPCG(1, 1)), vfs.KeepAll, true)
	mustClose(t, e)
	rng := rand.New(rand.NewPCG(2, 2))
	for _, disk := range []*vfs.Mem{mem, crashed} {
		for name, data := range allFiles(t, disk, "/data/topics") { // so that there is a quarantine
			disk.Flip(name, int64(len(data))*4)
		}
		for range 20 {
			for name := range allFiles(t, disk, "/data/journal") {
				disk.Flip(name, rng.Int64N(8<<10)*8)
			}
		}
		o.FS = disk
		e := mustOpen(t, o)
		topic, err := e.Topic(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range topic.Browse(t.Context(), queue.Start{}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, e)
		files := allFiles(t, disk, "/data")
		quarantined := 0
		for name, data := range files {
			if bytes.Contains(data, []byte(marker)) || bytes.Contains(data, []byte("xxxxxxxxxx")) {
				t.Errorf("%s has something in clear", name)
			}
			if strings.HasSuffix(name, ".bin") {
				quarantined++
			}
		}
		if quarantined == 0 || len(files) < 6 {
			t.Errorf("too little was looked at: %d files, %d of the quarantine", len(files), quarantined)
		}
	}
}

// A wrong or missing master key is a clear refusal that changes nothing.
func TestWrongMaster(t *testing.T) {
	mem := vfs.NewMem()
	o := secret(t, mem)
	e := mustOpen(t, o)
	publishMarked(t, e, "a", 0, 200)
	mustClose(t, e)
	before := allFiles(t, mem, "/data")
	cases := map[string]struct {
		master journal.Master
		spoil  func(disk *vfs.Mem)
		want   error
	}{
		"none":  {nil, nil, journal.ErrNoMaster},
		"wrong": {master(t, 2), nil, journal.ErrWrongMaster},
		"no keyring": {o.Master, func(disk *vfs.Mem) {
			_, _ = disk.Remove("/data/keyring"), disk.Remove("/data/keyring.2")
		}, journal.ErrNoKey},
		"no keyring, no master": {nil, func(disk *vfs.Mem) {
			_, _ = disk.Remove("/data/keyring"), disk.Remove("/data/keyring.2")
		}, journal.ErrNoKey},
		"damaged keyring": {o.Master, func(disk *vfs.Mem) {
			disk.Flip("/data/keyring", 300)
			disk.Flip("/data/keyring.2", 400)
		}, journal.ErrKeyring},
		"one copy damaged": {o.Master, func(disk *vfs.Mem) { disk.Flip("/data/keyring", 300) }, nil},
		"one copy missing": {o.Master, func(disk *vfs.Mem) { _ = disk.Remove("/data/keyring.2") }, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			disk := mem.Crash(rand.New(rand.NewPCG(1, 1)), vfs.KeepAll, true)
			if c.spoil != nil {
				c.spoil(disk)
			}
			o := o
			o.FS, o.Master = disk, c.master
			spoiled := allFiles(t, disk, "/data")
			e, err := journal.Open(t.Context(), "/data", o)
			if !errors.Is(err, c.want) {
				t.Fatalf("open: %v, want %v", err, c.want)
			}
			if c.want != nil {
				after := allFiles(t, disk, "/data")
				if len(after) != len(spoiled) {
					t.Errorf("%d files before, %d after", len(spoiled), len(after))
				}
				for name, data := range spoiled {
					if !bytes.Equal(after[name], data) {
						t.Errorf("%s was changed", name)
					}
				}
				return
			}
			if n := countMarked(t, e, "a"); n != 200 {
				t.Errorf("%d of 200 messages", n)
			}
			if rep := e.Report(); (name == "one copy damaged") != (rep.Status == journal.Damaged) || len(rep.Lost) > 0 {
				t.Errorf("report %+v", rep)
			}
			mustClose(t, e)
			after := allFiles(t, disk, "/data")
			if !bytes.Equal(after["/data/keyring"], after["/data/keyring.2"]) || len(after["/data/keyring"]) != len(before["/data/keyring"]) {
				t.Error("the copies of the keyring are not repaired")
			}
		})
	}
}

// A directory in clear that gets a key is encrypted from then on, and stays readable.
func TestEncryptLater(t *testing.T) {
	mem := vfs.NewMem()
	o := staging(mem)
	e := mustOpen(t, o)
	publishMarked(t, e, "a", 0, 10)
	mustClose(t, e)
	o.Master = master(t, 1)
	o.DestageSegments, o.DestageAge = 1000, 1<<60
	e = mustOpen(t, o)
	publishMarked(t, e, "a", 10, 10)
	if n := countMarked(t, e, "a"); n != 20 {
		t.Errorf("%d of 20 messages", n)
	}
	mustClose(t, e)
	for name, data := range allFiles(t, mem, "/data/journal") {
		if bytes.Contains(data, []byte(marker+"-15-")) {
			t.Errorf("%s has something in clear that is new", name)
		}
	}
	e = mustOpen(t, o)
	if n := countMarked(t, e, "a"); n != 20 {
		t.Errorf("%d of 20 messages", n)
	}
	mustClose(t, e)
}

// A flip in an encrypted directory costs a block or a unit at most, is named, and never
// makes wrong bytes.
func TestFlipEncrypted(t *testing.T) {
	t.Run("topic segments", func(t *testing.T) { flipTopicSegments(t, "", secret(t, vfs.NewMem())) })
	t.Run("compressed topic segments", func(t *testing.T) {
		flipTopicSegments(t, strings.Repeat("compressible ", 20), secret(t, vfs.NewMem()))
	})
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("journal closed=%v", closed), func(t *testing.T) { flipJournal(t, closed) })
	}
}

func flipJournal(t *testing.T, closed bool) {
	t.Helper()
	ctx, mem := t.Context(), vfs.NewMem()
	o := secret(t, mem)
	o.DestageSegments, o.DestageAge, o.CheckpointBytes = 1<<20, 1<<60, 24<<10
	e := mustOpen(t, o)
	const units, each = 40, 5
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	for u := range units {
		msgs := make([]message.Message, each)
		for k := range msgs {
			msgs[k] = message.Message{Payload: []byte(noise(u*each + k))}
		}
		if _, err := topic.Publish(ctx, msgs); err != nil {
			t.Fatal(err)
		}
	}
	if !closed {
		mem = mem.Crash(rand.New(rand.NewPCG(1, 1)), vfs.KeepAll, true)
	}
	mustClose(t, e)
	rng := rand.New(rand.NewPCG(6, 6))
	flips, hit := 300, 0
	if testing.Short() {
		flips = 120
	}
	names, err := mem.List("/data/journal")
	if err != nil {
		t.Fatal(err)
	}
	for range flips {
		disk := mem.Crash(rng, vfs.KeepAll, true)
		name := "/data/journal/" + names[rng.IntN(len(names))]
		bit := rng.Int64N(int64(len(contents(t, disk, name)) * 8))
		disk.Flip(name, bit)
		o.FS = disk
		e, err := journal.Open(ctx, "/data", o)
		if err != nil {
			t.Fatalf("%s bit %d: %v", name, bit, err)
		}
		topic, err := e.Topic(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		found := map[uint64]bool{}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				t.Fatal(err)
			}
			if string(r.Message.Payload) != noise(int(r.Offset)) {
				t.Fatalf("%s bit %d: wrong bytes at %d", name, bit, r.Offset)
			}
			found[r.Offset] = true
		}
		rep := e.Report()
		named := map[uint64]bool{}
		for _, l := range rep.Lost {
			for o := l.First; o <= l.Last; o++ {
				named[o] = true
			}
		}
		for i := range uint64(units * each) {
			if found[i] == named[i] && rep.Status != journal.Torn {
				t.Errorf("%s bit %d: offset %d found %v, named as lost %v (%+v)", name, bit, i, found[i], named[i], rep.Status)
			}
		}
		if lost := units*each - len(found); lost > each {
			t.Errorf("%s bit %d: %d messages lost", name, bit, lost)
		} else if lost > 0 {
			hit++
		}
		mustClose(t, e)
	}
	t.Logf("%d flips, %d cost a unit", flips, hit)
	if hit == 0 {
		t.Error("nothing was hit")
	}
}
