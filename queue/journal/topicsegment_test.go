package journal_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// Every bit of a topic segment: what a flip costs is one record, or a block, and it is
// named; nothing wrong is ever handed out.
func TestFlipTopicSegments(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("compressible ", 20)} {
		t.Run(fmt.Sprintf("compressed=%v", text != ""), func(t *testing.T) {
			flipTopicSegments(t, text, staging(vfs.NewMem()))
		})
	}
}

func flipTopicSegments(t *testing.T, text string, o journal.Options) {
	t.Helper()
	ctx, mem := t.Context(), o.FS.(*vfs.Mem)
	body := func(i int) string {
		if text != "" {
			return fmt.Sprint(i, text)
		}
		return noise(i)
	}
	e, err := journal.Open(ctx, "/data", o)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	const n = 400
	for i := range n {
		if _, err := topic.Publish(ctx, []message.Message{{Payload: []byte(body(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "topic segments", func() bool { return len(topicFiles(t, mem)) > 0 && journalFiles(t, mem) < 8 })
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(11, 11))
	var costs [3]int
	flips := 400
	if testing.Short() {
		flips = 150
	}
	for range flips {
		disk := mem.Crash(rng, vfs.KeepAll, true)
		names := topicFiles(t, disk)
		name := names[rng.IntN(len(names))]
		bit := spoil(t, disk, name, rng, text == "" && o.Master == nil)
		o.FS = disk
		rep, err := journal.VerifyWith(ctx, "/data", o)
		if err != nil {
			t.Fatalf("%s bit %d: verify: %v", name, bit, err)
		}
		e, err := journal.Open(ctx, "/data", o)
		if err != nil {
			t.Fatalf("%s bit %d: open: %v", name, bit, err)
		}
		topic, err := e.Topic(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		found := map[uint64]bool{}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				t.Fatalf("%s bit %d: %v", name, bit, err)
			}
			if string(r.Message.Payload) != body(int(r.Offset)) {
				t.Fatalf("%s bit %d: wrong bytes at offset %d", name, bit, r.Offset)
			}
			found[r.Offset] = true
		}
		named := map[uint64]bool{}
		for _, l := range e.Report().Lost {
			for o := l.First; o <= l.Last; o++ {
				named[o] = true
			}
		}
		for i := range uint64(n) {
			if found[i] == named[i] {
				t.Errorf("%s bit %d: offset %d found %v, named as lost %v", name, bit, i, found[i], named[i])
			}
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
		lost := 0
		for _, l := range rep.Lost {
			lost += int(l.Last - l.First + 1)
		}
		if lost != len(named) {
			t.Errorf("%s bit %d: verify names %d messages, the engine %d", name, bit, lost, len(named))
		}
		switch lost {
		case 0:
			costs[0]++
		case 1:
			costs[1]++
		default:
			costs[2]++
			if text == "" && o.Master == nil {
				t.Errorf("%s bit %d: %d messages lost in a plain block", name, bit, lost)
			}
		}
	}
	t.Logf("%d flips: %d without loss, %d cost a record, %d a block", flips, costs[0], costs[1], costs[2])
}

// noise returns text that no compression makes shorter, long enough that the headers
// around it do not matter.
func noise(i int) string {
	rng := rand.New(rand.NewPCG(uint64(i), 5))
	out := make([]byte, 900+rng.IntN(900))
	for k := range out {
		out[k] = byte(rng.Uint32())
	}
	return string(out)
}

// spoil damages a file: it inverts a bit, or, unless only, it wipes a sector, writes
// something else over it, or cuts the file. It returns about where.
func spoil(t *testing.T, disk *vfs.Mem, name string, rng *rand.Rand, only bool) int64 {
	t.Helper()
	data := contents(t, disk, name)
	at := rng.IntN(len(data))
	kind := rng.IntN(8)
	if only || kind < 5 {
		disk.Flip(name, int64(at)*8+rng.Int64N(8))
		return int64(at) * 8
	}
	f, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	switch part := data[at/512*512 : min(at/512*512+512, len(data))]; kind {
	case 5:
		clear(part)
	case 6:
		for i := range part {
			part[i] = byte(rng.Uint32())
		}
	default:
		if err := f.Truncate(int64(at)); err != nil {
			t.Fatal(err)
		}
		return int64(at) * 8
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return int64(at) * 8
}

// Appended times and properties are the same after a copy.
func TestCopyIsExact(t *testing.T) {
	ctx := t.Context()
	mem := vfs.NewMem()
	e, err := journal.Open(ctx, "/data", staging(mem))
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("the same text again and again ", 40)
	for i := range 400 {
		m := message.Message{ID: strconv.Itoa(i), Payload: []byte(text), Key: []byte{byte(i)}, Priority: uint8(i % 10)}
		if _, err := topic.Publish(ctx, []message.Message{m, m}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(e *journal.Engine) (all []queue.Record) {
		topic, err := e.Topic(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				t.Fatal(err)
			}
			r.Message.Payload, r.Message.Key = slices.Clone(r.Message.Payload), slices.Clone(r.Message.Key)
			all = append(all, r)
		}
		return all
	}
	before := list(e)
	until(t, "topic segments", func() bool { return len(topicFiles(t, mem)) > 0 && journalFiles(t, mem) < 8 })
	for range 2 {
		after := list(e)
		if len(after) != 800 || !slices.EqualFunc(before, after, func(a, b queue.Record) bool {
			return a.Offset == b.Offset && a.Appended.Equal(b.Appended) && a.Message.ID == b.Message.ID &&
				string(a.Message.Payload) == string(b.Message.Payload) && string(a.Message.Key) == string(b.Message.Key) && a.Message.Priority == b.Message.Priority
		}) {
			t.Fatalf("%d messages before, %d after, or they differ", len(before), len(after))
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err = journal.Open(ctx, "/data", staging(mem)); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, name := range topicFiles(t, mem) {
		size += len(contents(t, mem, name))
	}
	if size == 0 || size > 800*len(text)/4 {
		t.Errorf("%d bytes in topic segments for %d of messages: they are not compressed", size, 800*len(text))
	}
}
