package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// killed returns the files of an engine that was killed with messages in it and had
// made no checkpoint yet.
func killed(t *testing.T, messages int) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem()
	e, err := journal.Open(t.Context(), "data", journal.Options{FS: fs, SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topic.Subscribe(t.Context(), "lanes", queue.SubOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if _, err := topic.Publish(t.Context(), []message.Message{{Payload: fmt.Appendf(nil, "message %d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	copied := fs.Crash(rand.New(rand.NewPCG(1, 2)), vfs.KeepAll, true)
	if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	return copied
}

const firstSegment = "data/journal/0000000000000001.lj"

// A first segment whose header is gone is damage, not an empty queue.
func TestZeroedSegmentHeader(t *testing.T) {
	fs := killed(t, 100)
	f, err := fs.Open(firstSegment)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 64), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := journal.Verify(t.Context(), fs, "data")
	if err != nil || r.Status != journal.Damaged || r.Messages != 100 {
		t.Errorf("verify: %v with %d messages, %v", r.Status, r.Messages, err)
	}
	e, err := journal.Open(t.Context(), "data", journal.Options{FS: fs, SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.WithoutCancel(t.Context()))
	topic, err := e.Topic(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range topic.Browse(t.Context(), queue.Start{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 100 {
		t.Errorf("%d of 100 messages are there", n)
	}
}

// Verify and Open come to an end whatever length a segment was cut to.
func TestCutSegments(t *testing.T) {
	sizes := []int64{0, 1, 63, 64, 65, 71, 72, 127, 128, 129, 1001, 4097}
	for size := int64(2000); size < 2100; size++ {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		fs := killed(t, 20)
		f, err := fs.Open(firstSegment)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := journal.Verify(t.Context(), fs, "data")
			e, openErr := journal.Open(t.Context(), "data", journal.Options{FS: fs, SegmentSize: 64 << 10})
			if openErr == nil {
				openErr = e.Close(context.WithoutCancel(t.Context()))
			}
			done <- errors.Join(err, openErr)
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("cut to %d bytes: %v", size, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("cut to %d bytes: no end", size)
		}
	}
}
