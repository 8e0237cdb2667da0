package journal_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// topicFiles lists the topic segments of a data directory.
func topicFiles(t *testing.T, disk vfs.FS) (names []string) {
	t.Helper()
	folders, err := disk.List("/data/topics")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, folder := range folders {
		files, err := disk.List(path.Join("/data/topics", folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names = append(names, path.Join("/data/topics", folder, f))
		}
	}
	return names
}

func journalFiles(t *testing.T, disk vfs.FS) int {
	t.Helper()
	names, err := disk.List("/data/journal")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// until polls a condition that another goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never comes to this: %s", what)
		}
	}
}

// staged opens an engine and publishes n messages to each of two topics, of which one
// has a subscription that settles nothing and the other one that settles everything.
type staged struct {
	mem  *vfs.Mem
	o    journal.Options
	e    *journal.Engine
	l    *ledger
	slow queue.Topic
	sub  queue.Subscription
}

func stage(t *testing.T, n int, o journal.Options) *staged {
	t.Helper()
	ctx := t.Context()
	s := &staged{mem: o.FS.(*vfs.Mem), o: o, l: newLedger()}
	var err error
	if s.e, err = journal.Open(ctx, "/data", o); err != nil {
		t.Fatal(err)
	}
	if s.slow, err = s.e.Topic(ctx, "slow"); err != nil {
		t.Fatal(err)
	}
	if s.sub, err = s.slow.Subscribe(ctx, "stuck", queue.SubOptions{MaxInFlight: 64}); err != nil {
		t.Fatal(err)
	}
	fast, err := s.e.Topic(ctx, "fast")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := fast.Subscribe(ctx, "s", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := s.l.publish(ctx, s.slow, fmt.Sprintf("slow-%d", i)); err != nil {
			t.Fatal(err)
		}
		if err := s.l.publish(ctx, fast, fmt.Sprintf("fast-%d", i)); err != nil {
			t.Fatal(err)
		}
		records, err := sub.Receive(ctx, 8)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			s.l.do(func() { s.l.settled[r.Message.ID] = true })
			if err := sub.Ack(r.Offset); err != nil {
				t.Fatal(err)
			}
		}
		if i%100 == 99 { // the disk is faster here than the copy; a slow reader holds nothing all the same
			until(t, "few journal segments", func() bool { return journalFiles(t, s.mem) <= 8 })
		}
	}
	return s
}

func (s *staged) close(t *testing.T) {
	t.Helper()
	if err := s.e.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// A subscription that settles nothing does not hold the journal, and what it did not
// settle comes out whole and in order.
func TestStuckSubscription(t *testing.T) {
	s := stage(t, 1500, staging(vfs.NewMem()))
	if len(topicFiles(t, s.mem)) == 0 {
		t.Error("nothing was copied to topic segments")
	}
	if err := s.l.check(t.Context(), s.e, s.l.clone()); err != nil {
		t.Error(err)
	}
	for want := uint64(0); want < 1500; {
		records, err := s.sub.Receive(t.Context(), 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.Offset != want || r.Message.ID != fmt.Sprintf("slow-%d", want) || string(r.Message.Payload) != string(payloadOf(r.Message.ID)) {
				t.Fatalf("offset %d, want %d: %q", r.Offset, want, r.Message.ID)
			}
			want++
			if err := s.sub.Ack(r.Offset); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.close(t)
	if names := topicFiles(t, s.mem); len(names) > 0 {
		t.Errorf("topic segments are left although everything is settled: %v", names)
	}
	if rep, err := journal.Verify(t.Context(), s.mem, "/data"); err != nil || rep.Status != journal.Clean || rep.Messages != 0 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
}

// Nothing is lost when checkpoints are missing: without the newest the one before it
// leads to everything, without any the topic segments speak for themselves.
func TestMissingCheckpoints(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for removed := range 3 {
			t.Run(fmt.Sprintf("crash=%v/removed=%d", crash, removed), func(t *testing.T) {
				s := stage(t, 600, staging(vfs.NewMem()))
				disk := s.mem
				if crash {
					disk = s.mem.Crash(rand.New(rand.NewPCG(1, 1)), vfs.LoseAll, false)
				}
				s.close(t)
				names, err := disk.List("/data/state")
				if err != nil {
					t.Fatal(err)
				}
				slices.Reverse(names)
				if removed == 2 {
					removed = len(names) // the cut may have brought older ones back
				}
				for _, name := range names[:removed] {
					if err := disk.Remove("/data/state/" + name); err != nil {
						t.Fatal(err)
					}
				}
				e, err := journal.Open(t.Context(), "/data", staging(disk))
				if err != nil {
					t.Fatal(err)
				}
				rep := e.Report()
				if removed >= 2 != (rep.Status == journal.Damaged) {
					t.Errorf("report with %d checkpoints removed: %+v", removed, rep)
				}
				for _, l := range rep.Lost {
					if l.Topic == "slow" {
						t.Errorf("reported as lost: %+v", l)
					}
				}
				topic, err := e.Topic(t.Context(), "slow")
				if err != nil {
					t.Fatal(err)
				}
				next := 0
				for r, err := range topic.Browse(t.Context(), queue.Start{}) {
					if err != nil {
						t.Fatal(err)
					}
					if id := fmt.Sprintf("slow-%d", next); r.Message.ID != id || string(r.Message.Payload) != string(payloadOf(id)) || r.Offset != uint64(next) {
						t.Fatalf("%q at offset %d, want %q", r.Message.ID, r.Offset, id)
					}
					next++
				}
				if next != 600 {
					t.Errorf("%d of 600 messages are there", next)
				}
				if err := e.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if rep, err := journal.Verify(t.Context(), disk, "/data"); err != nil || rep.Status != journal.Clean {
					t.Errorf("verify afterwards: %+v, %v", rep, err)
				}
			})
		}
	}
}

// A topic segment that no checkpoint names, and one that was never finished, go away.
func TestOrphans(t *testing.T) {
	s := stage(t, 300, staging(vfs.NewMem()))
	s.close(t)
	names := topicFiles(t, s.mem)
	if len(names) == 0 {
		t.Fatal("nothing was copied to topic segments")
	}
	data := contents(t, s.mem, names[0])
	orphan := path.Join(path.Dir(names[0]), "00000000000000000007-0000000fffff.ls")
	for _, name := range []string{orphan, names[0] + ".tmp"} {
		f, err := s.mem.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		e, err := journal.Open(t.Context(), "/data", s.o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.l.check(t.Context(), e, s.l.clone()); err != nil {
			t.Error(err)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range topicFiles(t, s.mem) {
		if name == orphan || strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s is still there", name)
		}
	}
}

func contents(t *testing.T, disk vfs.FS, name string) []byte {
	t.Helper()
	f, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if n, _ := f.ReadAt(data, 0); int64(n) != size {
		t.Fatalf("%s: %d of %d bytes", name, n, size)
	}
	return data
}

// A topic segment that is missing is a named loss, of its messages and no others.
func TestMissingTopicSegment(t *testing.T) {
	s := stage(t, 600, staging(vfs.NewMem()))
	s.close(t)
	names := topicFiles(t, s.mem)
	if len(names) < 2 {
		t.Fatalf("topic segments %v", names)
	}
	if err := s.mem.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	rep, err := journal.Verify(t.Context(), s.mem, "/data")
	if err != nil || rep.Status != journal.Damaged || len(rep.Lost) != 1 || rep.Lost[0].Topic != "slow" {
		t.Fatalf("verify: %+v, %v", rep, err)
	}
	e, err := journal.Open(t.Context(), "/data", s.o)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(t.Context(), "slow")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for r, err := range topic.Browse(t.Context(), queue.Start{}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Offset >= rep.Lost[0].First && r.Offset <= rep.Lost[0].Last {
			t.Errorf("message %d was named as lost", r.Offset)
		}
		found++
	}
	if lost := int(rep.Lost[0].Last - rep.Lost[0].First + 1); found+lost != 600 {
		t.Errorf("%d messages are there, %d are lost, want 600 in all", found, lost)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What is settled between messages that are not is never taken for lost, and topic
// segments of which little is needed shrink.
func TestSparse(t *testing.T) {
	s := stage(t, 2000, staging(vfs.NewMem()))
	ctx := t.Context()
	kept := map[string]bool{}
	for n := 0; n < 2000; {
		records, err := s.sub.Receive(ctx, 64)
		if err != nil {
			t.Fatal(err)
		}
		var done []uint64
		for _, r := range records {
			n++
			if len(kept) < 30 && r.Offset%64 == 7 {
				kept[r.Message.ID] = true
				continue
			}
			s.l.do(func() { s.l.settled[r.Message.ID] = true })
			done = append(done, r.Offset)
		}
		if err := s.sub.Ack(done...); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		if err := s.l.check(ctx, s.e, s.l.clone()); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		s.close(t)
		rep, err := journal.Verify(ctx, s.mem, "/data")
		if err != nil || rep.Status != journal.Clean || int(rep.Messages) != len(kept) {
			t.Errorf("round %d: verify: %+v, %v", round, rep, err)
		}
		if s.e, err = journal.Open(ctx, "/data", s.o); err != nil {
			t.Fatal(err)
		}
		// What is new is behind what was left, so that segments move on.
		for i := range 200 {
			if err := s.l.publish(ctx, s.slow2(t), fmt.Sprintf("more-%d-%d", round, i)); err != nil {
				t.Fatal(err)
			}
			kept[fmt.Sprintf("more-%d-%d", round, i)] = true
		}
	}
	s.close(t)
}

func (s *staged) slow2(t *testing.T) queue.Topic {
	t.Helper()
	topic, err := s.e.Topic(t.Context(), "slow")
	if err != nil {
		t.Fatal(err)
	}
	return topic
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
