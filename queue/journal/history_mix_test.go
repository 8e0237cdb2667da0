package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// oneSegment returns options with room for everything in the first segment.
func oneSegment(disk vfs.FS) journal.Options {
	return journal.Options{FS: disk, SegmentSize: 64 << 10}
}

// killedIdle works with a queue and kills the process when it has nothing to do.
func killedIdle(t *testing.T, disk *vfs.Mem, work func(ctx context.Context, e *journal.Engine) error) (dead *vfs.Mem) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e, err := journal.Open(t.Context(), "data", oneSegment(disk))
		if err != nil {
			t.Fatal(err)
		}
		if err := work(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		dead = disk.Crash(rand.New(rand.NewPCG(1, 2)), vfs.KeepAll, true)
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	return dead
}

// patch writes bytes into the first segment.
func patch(t *testing.T, disk vfs.FS, pos int64, data []byte) {
	t.Helper()
	f, err := disk.Open(firstSegment)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, pos); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// content reads the first segment.
func content(t *testing.T, disk vfs.FS) []byte {
	t.Helper()
	f, err := disk.OpenRead(firstSegment)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}

// A frame of the past that a disk wrote to the end of the journal is not done again.
func TestStaleFrame(t *testing.T) {
	ctx := t.Context()
	dead := killedIdle(t, vfs.NewMem(), func(ctx context.Context, e *journal.Engine) error {
		topic, err := e.Topic(ctx, "orders")
		if err != nil {
			return err
		}
		sub, err := topic.Subscribe(ctx, "lanes", queue.SubOptions{})
		if err != nil {
			return err
		}
		if _, err := topic.Publish(ctx, []message.Message{msg("1"), msg("2"), msg("3")}); err != nil {
			return err
		}
		if err := sub.Ack(0, 1, 2); err != nil {
			return err
		}
		if err := sub.Seek(ctx, queue.At(0)); err != nil { // the frame to come again
			return err
		}
		if err := sub.Ack(0, 1, 2); err != nil {
			return err
		}
		_, err = topic.Publish(ctx, []message.Message{msg("4")})
		return err
	})
	data := content(t, dead)
	fr := framesOf(data)
	seek, mark := fr[len(fr)-3], fr[len(fr)-1]
	if mark.records != 0 {
		t.Fatal("there is no tail mark")
	}
	patch(t, dead, mark.pos, data[seek.pos:seek.pos+seek.size])
	e, err := journal.Open(ctx, "data", oneSegment(dead))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(ctx)
	topic, err := e.Topic(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if s := topic.Stats(); len(s.Subscriptions) != 1 || s.Subscriptions[0].Backlog != 1 {
		t.Errorf("stats %+v, want a backlog of 1: an old seek was done again", s)
	}
}

// Two histories that began with the same frames do not mix without notice.
func TestMixedHistories(t *testing.T) {
	ctx := t.Context()
	publish := func(ids ...string) func(ctx context.Context, e *journal.Engine) error {
		return func(ctx context.Context, e *journal.Engine) error {
			topic, err := e.Topic(ctx, "orders")
			for _, id := range ids {
				if err == nil {
					_, err = topic.Publish(ctx, []message.Message{{ID: id, Payload: []byte(id)}})
				}
			}
			return err
		}
	}
	rng := rand.New(rand.NewPCG(1, 3))
	start := killedIdle(t, vfs.NewMem(), publish("0"))
	one := killedIdle(t, start.Crash(rng, vfs.KeepAll, true), publish("1", "2"))
	two := killedIdle(t, start.Crash(rng, vfs.KeepAll, true), publish("3", "4"))
	a, b := content(t, one), content(t, two)
	frames := framesOf(a)
	last := frames[len(frames)-2]
	if fmt.Sprint(frames) != fmt.Sprint(framesOf(b)) {
		t.Fatal("the histories have different frames")
	}
	patch(t, one, last.pos, b[last.pos:last.pos+last.size])
	rep, err := journal.Verify(ctx, one, "data")
	if err != nil || rep.Status != journal.Damaged {
		t.Errorf("verify: %v, %v, want damage", rep.Status, err)
	}
}

// A deleted topic stays deleted when the process dies before the next checkpoint.
func TestDeleteStays(t *testing.T) {
	ctx, mem := t.Context(), vfs.NewMem()
	var armed atomic.Bool
	dead := make(chan *vfs.Mem, 8)
	e, err := journal.Open(ctx, "data", oneSegment(vfs.WithHook(mem, func(op vfs.Op, name string) error {
		if op == vfs.OpCreate && strings.Contains(name, "checkpoint") && armed.Swap(false) {
			dead <- mem.Crash(rand.New(rand.NewPCG(1, 2)), vfs.KeepAll, true)
		}
		return nil
	})))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"orders", "events"} {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := topic.Publish(ctx, []message.Message{msg("1")}); err != nil {
			t.Fatal(err)
		}
	}
	armed.Store(true)
	if err := errors.Join(e.Delete(ctx, "orders"), e.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	e, err = journal.Open(ctx, "data", oneSegment(<-dead))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Topics(); len(got) != 1 || got[0] != "events" {
		t.Errorf("topics %v, want events alone", got)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// A segment that got its name just before the process died is used only after its name
// is stable.
func TestUnsyncedNames(t *testing.T) {
	ctx, mem, rng := t.Context(), vfs.NewMem(), rand.New(rand.NewPCG(1, 2))
	dead := make(chan *vfs.Mem, 64)
	e, err := journal.Open(ctx, "data", oneSegment(vfs.WithHook(mem, func(op vfs.Op, name string) error {
		if op == vfs.OpSyncDir && strings.HasSuffix(name, "journal") && len(dead) < cap(dead) {
			dead <- mem.Crash(rng, vfs.KeepAll, true)
		}
		return nil
	})))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Topic(ctx, "orders"); err != nil { // the first segment is in use now
		t.Fatal(err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for range len(dead) {
		disk := <-dead
		hold := make(chan struct{})
		e, err := journal.Open(ctx, "data", oneSegment(vfs.WithHook(disk, func(op vfs.Op, name string) error {
			if op == vfs.OpCreate && strings.HasSuffix(name, "new") {
				<-hold // a segment that is made later would sync the folder
			}
			return nil
		})))
		if err != nil {
			t.Fatal(err)
		}
		var found bool
		names, err := disk.List("data/journal")
		if err != nil {
			t.Fatal(err)
		}
		if found = slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".lj") }); found {
			if _, err := e.Topic(ctx, "events"); err != nil {
				t.Fatal(err)
			}
		}
		cut := disk.Crash(rng, vfs.LoseAll, false)
		close(hold)
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err = journal.Open(ctx, "data", oneSegment(cut)); err != nil {
			t.Fatal(err)
		}
		if got := e.Topics(); found && !slices.Contains(got, "events") {
			t.Errorf("topics %v: one that was promised is lost", got)
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
