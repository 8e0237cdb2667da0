package journal

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
)

// A batch that is turned away because the disk is full gives its offsets back.
func TestTurnAway(t *testing.T) {
	ctx := t.Context()
	mem, gate := vfs.NewMem(), vfs.NewGate()
	e, err := Open(ctx, "data", Options{FS: vfs.WithHook(mem, gate.Hook), SegmentSize: 64 * kib})
	if err != nil {
		t.Fatal(err)
	}
	made, err := e.Topic(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	waitForSpares(e)
	one := []message.Message{{Payload: []byte("x")}}
	gate.Hold()
	first := make(chan error, 1)
	publish := func(done chan<- error) {
		_, err := made.Publish(ctx, one)
		done <- err
	}
	go publish(first)
	if err := gate.Arrived(ctx); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go publish(second)
	spares, pos, room := waitForBatch(e)
	gate.Release() // the next batch finds a full disk and no segment
	if err := <-first; err != nil {
		t.Errorf("publish: %v", err)
	}
	if err := <-second; !errors.Is(err, message.ErrDiskFull) {
		t.Errorf("publish: %v, want ErrDiskFull", err)
	}
	e.mu.Lock()
	e.spares, e.pos, e.room, e.full = spares, pos, room, false
	e.mu.Unlock()
	if offset, err := made.Publish(ctx, one); err != nil || offset != 1 {
		t.Errorf("publish: offset %d, %v, want 1: the refused message keeps no offset", offset, err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if rep, err := Verify(context.WithoutCancel(ctx), mem, "data"); err != nil || rep.Status != Clean || rep.Messages != 2 {
		t.Errorf("verify: %v with %d messages, %v", rep.Status, rep.Messages, err)
	}
}

// waitForSpares waits until the keeper has nothing to do.
func waitForSpares(e *Engine) {
	for {
		e.mu.Lock()
		enough := len(e.spares) >= wantSpares
		e.mu.Unlock()
		if enough {
			return
		}
		runtime.Gosched()
	}
}

// waitForBatch waits until something is in the open batch, and takes all room away.
func waitForBatch(e *Engine) (spares []*segment, pos, room int64) {
	for {
		e.mu.Lock()
		if e.batch.count > 0 {
			spares, pos, room = e.spares, e.pos, e.room
			e.spares, e.room, e.full = nil, 0, true
			e.mu.Unlock()
			return spares, pos, room
		}
		e.mu.Unlock()
		runtime.Gosched()
	}
}
