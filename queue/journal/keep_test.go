package journal_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// What a topic keeps for a while is freed when the while is over, also when nothing else
// happens.
func TestKeptMessagesAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := small(vfs.NewMem())
		e, err := journal.Open(t.Context(), "/data", o)
		if err != nil {
			t.Fatal(err)
		}
		topic, err := e.Topic(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		if err := topic.Configure(t.Context(), queue.TopicOptions{Keep: time.Hour}); err != nil {
			t.Fatal(err)
		}
		sub, err := topic.Subscribe(t.Context(), "s", queue.SubOptions{})
		if err != nil {
			t.Fatal(err)
		}
		const n = 100
		for range n {
			if _, err := topic.Publish(t.Context(), []message.Message{{Payload: make([]byte, 400)}}); err != nil {
				t.Fatal(err)
			}
			r, err := sub.Receive(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := sub.Ack(r[0].Offset); err != nil {
				t.Fatal(err)
			}
		}
		held := func() (m int) {
			for _, err := range topic.Browse(t.Context(), queue.Start{}) {
				if err != nil {
					t.Fatal(err)
				}
				m++
			}
			return m
		}
		if m := held(); m != n {
			t.Errorf("%d messages are kept, want %d", m, n)
		}
		time.Sleep(50 * time.Minute)
		if m := held(); m != n {
			t.Errorf("%d messages are kept after 50 minutes, want %d", m, n)
		}
		time.Sleep(30 * time.Minute)
		if m := held(); m > 40 { // the segment in use stays
			t.Errorf("%d messages are kept after 80 minutes", m)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
