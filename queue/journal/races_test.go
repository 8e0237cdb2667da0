package journal_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// A subscription that begins while segments are retired starts with messages that stay.
func TestSubscribeWhileRetiring(t *testing.T) {
	ctx := t.Context()
	o := small(vfs.NewMem())
	o.SegmentSize, o.MaxSegmentSize, o.CheckpointBytes = 4<<10, 4<<10, 1
	e, err := journal.Open(ctx, "/data", o)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	// Settled messages are shown to new subscriptions as long as they are kept.
	if err := topic.Configure(ctx, queue.TopicOptions{KeepBytes: 1}); err != nil {
		t.Fatal(err)
	}
	first, err := topic.Subscribe(ctx, "first", queue.SubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	g := run.NewGroup(ctx)
	g.Go("publisher", func(ctx context.Context) error {
		for i := 0; !done.Load(); i++ {
			if _, err := topic.Publish(ctx, []message.Message{{Payload: make([]byte, 900)}}); err != nil {
				return err
			}
			if err := first.Ack(uint64(i)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range amount(t, 300, 2000) {
		name := fmt.Sprint("sub-", i)
		s, err := topic.Subscribe(ctx, name, queue.SubOptions{MaxInFlight: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		for got, want := 0, int(s.Stats().Backlog); got < want; {
			records, err := s.Receive(short, 100)
			if err != nil {
				t.Errorf("round %d: %d of %d messages that a new subscription began with: %v", i, got, want, err)
				break
			}
			got += len(records)
		}
		cancel()
		if t.Failed() {
			break
		}
		if err := topic.Unsubscribe(ctx, name); err != nil {
			t.Fatal(err)
		}
		if r := e.Report(); r.Status == journal.Damaged {
			t.Errorf("round %d: a new subscription began with messages that were about to go: %+v", i, r)
			break
		}
	}
	done.Store(true)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
}

// The settled part of a unit shows when the unit is stable, and not before: a checkpoint
// between the two would make half of it durable.
func TestAckAhead(t *testing.T) {
	ctx := t.Context()
	mem, gate := vfs.NewMem(), vfs.NewGate()
	e, err := journal.Open(ctx, "/data", journal.Options{FS: vfs.WithHook(mem, gate.Hook), SegmentSize: 64 << 10})
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
	if _, err := topic.Publish(ctx, []message.Message{msg("1")}); err != nil {
		t.Fatal(err)
	}
	gate.Hold()
	g := run.NewGroup(ctx)
	g.Go("mover", func(ctx context.Context) error {
		return e.Atomic(ctx, queue.Tx{
			Publish: []queue.TxPublish{{Topic: topic, Messages: []message.Message{msg("2")}}},
			Ack:     []queue.TxAck{{Subscription: sub, Offsets: []uint64{0}}},
		})
	})
	if err := gate.Arrived(ctx); err != nil {
		t.Fatal(err)
	}
	if s := sub.Stats(); s.Floor != 0 || s.Backlog != 1 {
		t.Errorf("before the sync: %+v, want nothing settled", s)
	}
	gate.Release()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if s := sub.Stats(); s.Floor != 1 || s.Backlog != 1 {
		t.Errorf("after the sync: %+v, want the first settled", s)
	}
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
}
