package journal_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// TestFailedSync shows what clients see when a sync fails: an error, from then on,
// from everything.
func TestFailedSync(t *testing.T) {
	var broken atomic.Bool
	fs := vfs.WithHook(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if op == vfs.OpDatasync && broken.Load() {
			return syscall.EIO
		}
		return nil
	})
	ctx := t.Context()
	e, err := journal.Open(ctx, "/data", journal.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe(ctx, "s", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if _, err := topic.Publish(ctx, []message.Message{msg("1")}); !errors.Is(err, queue.ErrStorageFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("publish: %v, want ErrStorageFailed and the cause", err)
	}
	broken.Store(false) // a later sync that succeeds proves nothing
	_, publish := topic.Publish(ctx, []message.Message{msg("2")})
	_, receive := sub.Receive(ctx, 1)
	_, open := e.Topic(ctx, "b")
	for name, err := range map[string]error{
		"publish": publish, "receive": receive, "open": open, "ack": sub.Ack(0), "health": e.Health(),
		"atomic": e.Atomic(ctx, queue.Tx{Publish: []queue.TxPublish{{Topic: topic, Messages: []message.Message{msg("3")}}}}),
		"close":  e.Close(ctx),
	} {
		if !errors.Is(err, queue.ErrStorageFailed) {
			t.Errorf("%s: %v, want ErrStorageFailed", name, err)
		}
	}
}

// TestGate shows that publish does not return before the sync.
func TestGate(t *testing.T) {
	gate := vfs.NewGate()
	ctx := t.Context()
	e, err := journal.Open(ctx, "/data", journal.Options{FS: vfs.WithHook(vfs.NewMem(), gate.Hook), SegmentSize: 16 << 10, MaxSegmentSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	gate.Hold()
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := topic.Publish(short, []message.Message{msg("1")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish returned before the sync: %v", err)
	}
	if err := gate.Arrived(ctx); err != nil {
		t.Fatal(err)
	}
	gate.Release()
	if first, err := topic.Publish(ctx, []message.Message{msg("2")}); err != nil || first != 1 {
		t.Errorf("publish: %d, %v", first, err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull fills the disk, drains it, and goes on.
func TestDiskFull(t *testing.T) {
	mem, l := vfs.NewMem(), newLedger()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o := staging(mem)
	e, err := journal.Open(ctx, "/data", o)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe(ctx, "s", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mem.SetCapacity(128 << 10)
	for round := range 4 {
		if err := resumes(ctx, l, topic, round); err != nil {
			t.Fatalf("round %d: publishing does not go on: %v", round, err)
		}
		published := 1
		for ; err == nil; published++ {
			err = l.publish(ctx, topic, fmt.Sprintf("%d-%d", round, published))
		}
		if !errors.Is(err, message.ErrDiskFull) {
			t.Fatalf("round %d: publish after %d: %v, want ErrDiskFull", round, published, err)
		}
		err = nil
		for sub.Stats().Backlog > 0 {
			records, err := sub.Receive(ctx, 16)
			if err != nil {
				t.Fatalf("receive on a full disk: %v", err)
			}
			for _, r := range records {
				l.do(func() { l.settled[r.Message.ID] = true })
				if err := sub.Ack(r.Offset); err != nil {
					t.Fatalf("ack on a full disk: %v", err)
				}
			}
		}
		t.Logf("round %d: %d messages filled the disk", round, published)
	}
	if err := l.check(ctx, e, l.clone()); err != nil {
		t.Error(err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := reopened(ctx, small(mem), l); err != nil {
		t.Error(err)
	}
}

// resumes publishes until the disk takes it.
func resumes(ctx context.Context, l *ledger, topic queue.Topic, round int) error {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for i := 0; ; i++ {
		err := l.publish(ctx, topic, fmt.Sprintf("%d-after-%d", round, i))
		if !errors.Is(err, message.ErrDiskFull) {
			return err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TestLock shows that a directory has one owner.
func TestLock(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	e, err := journal.Open(ctx, dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []journal.Options{{}, {ReadOnly: true}} {
		if _, err := journal.Open(ctx, dir, o); !errors.Is(err, queue.ErrLocked) || !strings.Contains(err.Error(), dir) {
			t.Errorf("second open: %v, want ErrLocked naming %s", err, dir)
		}
	}
	if _, err := journal.Verify(ctx, vfs.OS(), dir); !errors.Is(err, queue.ErrLocked) {
		t.Errorf("verify: %v, want ErrLocked", err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	reader, err := journal.Open(ctx, dir, journal.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(ctx, dir, journal.Options{}); !errors.Is(err, queue.ErrLocked) {
		t.Errorf("open beside a reader: %v, want ErrLocked", err)
	}
	if err := reader.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestReadOnly shows that looking changes nothing.
func TestReadOnly(t *testing.T) {
	mem, l, ctx := vfs.NewMem(), newLedger(), t.Context()
	if err := script(ctx, staging(mem), l, 5, 60, 1); err != nil {
		t.Fatal(err)
	}
	o := small(vfs.WithHook(mem, func(op vfs.Op, name string) error {
		if op.Changes() {
			t.Errorf("%s %s", op, name)
		}
		return nil
	}))
	o.ReadOnly = true
	e, err := journal.Open(ctx, "/data", o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.check(ctx, e, l.clone()); err != nil {
		t.Error(err)
	}
	if _, err := e.Topic(ctx, "new"); !errors.Is(err, queue.ErrUnknownTopic) {
		t.Errorf("open a topic that is not there: %v", err)
	}
	topic, err := e.Topic(ctx, "in")
	if err != nil {
		t.Fatal(err)
	}
	if len(topic.Stats().Subscriptions) != 1 {
		t.Errorf("stats %+v", topic.Stats())
	}
	if _, err := topic.Publish(ctx, []message.Message{msg("x")}); !errors.Is(err, queue.ErrUnsupported) {
		t.Errorf("publish: %v, want ErrUnsupported", err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	rep, err := journal.Verify(ctx, mem, "/data")
	if err != nil || rep.Status != journal.Clean || rep.Messages == 0 || rep.Topics != 3 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
}

// TestFormat shows that a newer format is refused, and a damaged note of it is not.
func TestFormat(t *testing.T) {
	mem, ctx := vfs.NewMem(), t.Context()
	open := func() error {
		e, err := journal.Open(ctx, "/data", small(mem))
		if err != nil {
			return err
		}
		return e.Close(ctx)
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	if !mem.Flip("/data/FORMAT", 100) {
		t.Fatal("FORMAT is too short")
	}
	if err := open(); err != nil {
		t.Errorf("open with a damaged FORMAT: %v", err)
	}
	f, err := mem.Create("/data/FORMAT")
	if err != nil {
		t.Fatal(err)
	}
	line := "linkspan-queue 2 x"
	sum := crc32.Checksum([]byte(line), crc32.MakeTable(crc32.Castagnoli))
	if _, err := f.WriteAt(fmt.Appendf(nil, "%s %08x\n", line, sum), 0); err != nil {
		t.Fatal(err)
	}
	if err := open(); !errors.Is(err, journal.ErrFormat) {
		t.Errorf("open with a newer FORMAT: %v, want ErrFormat", err)
	}
}
