package journal_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// BenchmarkEncrypted compares publishing with and without encryption at rest.
func BenchmarkEncrypted(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		for _, encrypted := range []bool{false, true} {
			b.Run(fmt.Sprintf("publishers=%d/encrypted=%v", n, encrypted), func(b *testing.B) {
				o := journal.Options{}
				if encrypted {
					o.Master = testMaster()
				}
				e, err := journal.Open(b.Context(), b.TempDir(), o)
				if err != nil {
					b.Fatal(err)
				}
				topic, err := e.Topic(b.Context(), "t")
				if err != nil {
					b.Fatal(err)
				}
				publishers(b, []queue.Topic{topic}, min(n, b.N)) // the first segments are made
				b.ResetTimer()
				l := publishers(b, []queue.Topic{topic}, n)
				b.StopTimer()
				l.report(b)
				if err := e.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkDestage measures how fast a backlog is copied to topic segments: what is
// published is timed together with the copy of it, of which Close leaves nothing undone
// but the newest segments. Payloads do not compress. Then it is drained from there.
func BenchmarkDestage(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		b.Run(fmt.Sprintf("encrypted=%v", encrypted), func(b *testing.B) {
			dir := b.TempDir()
			o := journal.Options{DestageSegments: 1}
			if encrypted {
				o.Master = testMaster()
			}
			e, err := journal.Open(b.Context(), dir, o)
			if err != nil {
				b.Fatal(err)
			}
			topic, err := e.Topic(b.Context(), "t")
			if err != nil {
				b.Fatal(err)
			}
			rng := rand.NewChaCha8([32]byte{1})
			msgs := make([]message.Message, 1000)
			for i := range msgs {
				msgs[i].Payload = make([]byte, benchPayload)
				_, _ = rng.Read(msgs[i].Payload)
			}
			n := 0
			for b.Loop() {
				if _, err := topic.Publish(b.Context(), msgs); err != nil {
					b.Fatal(err)
				}
				n += len(msgs)
			}
			if err := e.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
			rep, err := journal.VerifyWith(b.Context(), dir, o)
			if err != nil || rep.Status != journal.Clean {
				b.Fatalf("%+v, %v", rep, err)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(drained(b, dir, o, n), "drained-msg/s")
			b.ReportMetric(float64(rep.Segments), "journal-segments")
			b.ReportMetric(float64(rep.TopicSegments), "topic-segments")
		})
	}
}

// drained returns how fast the messages of a directory are received and settled.
func drained(b *testing.B, dir string, o journal.Options, n int) float64 {
	b.Helper()
	e, err := journal.Open(b.Context(), dir, o)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	drain(b, e, n)
	rate := float64(n) / time.Since(start).Seconds()
	if err := e.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	return rate
}
