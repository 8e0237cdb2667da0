package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// filled opens a queue and publishes until the disk, which has a bound then, is full.
func filled(ctx context.Context, t *testing.T, o journal.Options, l *ledger, bound func()) (*journal.Engine, queue.Topic, queue.Subscription) {
	t.Helper()
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
	bound()
	for i := 0; err == nil; i++ {
		err = l.publish(ctx, topic, fmt.Sprint("m", i))
	}
	if !errors.Is(err, message.ErrDiskFull) {
		t.Fatal(err)
	}
	return e, topic, sub
}

// TestDiskFullToTheBrim fills the disk to its last byte, as somebody else may do. What
// consumers settle has to free space all the same, which needs a checkpoint, which needs
// space.
func TestDiskFullToTheBrim(t *testing.T) {
	for _, staged := range []bool{false, true} {
		t.Run(fmt.Sprint("staged=", staged), func(t *testing.T) {
			mem, l := vfs.NewMem(), newLedger()
			var checkpoints atomic.Int64
			disk := vfs.WithHook(mem, func(op vfs.Op, name string) error {
				if op == vfs.OpCreate && strings.Contains(name, "checkpoint") {
					checkpoints.Add(1)
				}
				return nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			o := small(disk)
			if staged {
				o = staging(disk)
			}
			e, topic, sub := filled(ctx, t, o, l, func() { mem.SetCapacity(128 << 10) })
			space, err := mem.Space("/")
			if err != nil {
				t.Fatal(err)
			}
			most := space.Total - space.Free
			mem.SetCapacity(0) // nothing helps: it has to wait, not to try all the time
			for sub.Stats().Backlog > 0 {
				records, err := sub.Receive(ctx, 16)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range records {
					l.do(func() { l.settled[r.Message.ID] = true })
					if err := sub.Ack(r.Offset); err != nil {
						t.Fatal(err)
					}
				}
			}
			before := checkpoints.Load()
			<-time.After(200 * time.Millisecond)
			if n := checkpoints.Load() - before; n > 20 {
				t.Errorf("%d checkpoints were tried in 200 ms on a full disk", n)
			}
			mem.SetCapacity(most) // what was there when the disk was full, not a byte more
			if err := resumes(ctx, l, topic, 0); err != nil {
				t.Fatalf("publishing does not go on in %d bytes: %v", most, err)
			}
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if err := reopened(ctx, small(mem), l); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMovesOnAFullDisk has a consumer that can do nothing with its messages but move
// them: the disk is full, and it has to get through all the same.
func TestMovesOnAFullDisk(t *testing.T) {
	mem, l := vfs.NewMem(), newLedger()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o := small(mem)
	o.Reserve, o.SegmentSize, o.MaxSegmentSize = 256<<10, 32<<10, 32<<10
	e, _, sub := filled(ctx, t, o, l, func() { mem.SetCapacity(1 << 20) })
	dead, err := e.Topic(ctx, "dead")
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for sub.Stats().Backlog > 0 {
		records, err := sub.Receive(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		for err = message.ErrDiskFull; errors.Is(err, message.ErrDiskFull); {
			if err = l.move(ctx, e, sub, dead, records[0].Message.ID, records[0].Offset); err == nil {
				break
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("stuck after %d messages: %v", moved, err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		moved++
	}
	t.Logf("%d messages moved on a full disk", moved)
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	mem.SetCapacity(1 << 40)
	if err := reopened(ctx, small(mem), l); err != nil {
		t.Error(err)
	}
}
