package journal_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
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
