package journal_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// Messages that are kept after they are settled, and are not any more, leave the files
// of a topic.
func TestKeptMessagesExpire(t *testing.T) {
	var ahead atomic.Int64
	mem := vfs.NewMem()
	o := staging(mem)
	o.SegmentSize, o.MaxSegmentSize = 1<<20, 1<<20
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e, err := journal.Open(t.Context(), "/data", o)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := e.Topic(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := topic.Configure(t.Context(), queue.TopicOptions{Keep: time.Hour}); err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe(t.Context(), "s", queue.SubOptions{MaxInFlight: 4096})
	if err != nil {
		t.Fatal(err)
	}
	size := func() (n int) {
		for _, name := range topicFiles(t, mem) {
			n += len(contents(t, mem, name))
		}
		return n
	}
	l := newLedger()
	half := func(from int) {
		for i := range 1500 {
			if err := l.publish(t.Context(), topic, fmt.Sprintf("m-%d", from+i)); err != nil {
				t.Fatal(err)
			}
		}
		ahead.Add(int64(50 * time.Minute))
	}
	half(0)
	half(1500)
	until(t, "topic segments", func() bool { return size() > 1<<20 })
	for n := 0; n < 3000; {
		records, err := sub.Receive(t.Context(), 512)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if err := sub.Ack(r.Offset); err != nil {
				t.Fatal(err)
			}
		}
		n += len(records)
	}
	half(3000)
	held := func() (n int) {
		for _, err := range topic.Browse(t.Context(), queue.Start{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	more := 0
	until(t, "old messages go", func() bool {
		more++ // what is old is looked for when there is something to do
		if err := l.publish(t.Context(), topic, fmt.Sprintf("more-%d", more)); err != nil {
			t.Fatal(err)
		}
		return held() < 2000+more
	})
	if n := held(); n < 1500+more {
		t.Errorf("%d messages are left, %d are not old yet", n, 1500+more)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep, err := journal.Verify(t.Context(), mem, "/data"); err != nil || rep.Status != journal.Clean {
		t.Errorf("verify: %+v, %v", rep, err)
	}
}
