package watermill

import (
	"context"
	"fmt"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/message"
)

// What a message costs on its way in, from the channel of a Subscriber to its ack, with
// 256 ready at once; and what its making costs that every Subscriber pays.
func BenchmarkInbound(b *testing.B) {
	for _, headers := range []int{0, 4} {
		b.Run(fmt.Sprintf("headers=%d", headers), func(b *testing.B) {
			messages := make(chan *wm.Message, 256)
			r := &receiver{
				source:   &source{in: In{Topic: "t", Batch: 256}, env: testEnv(b)},
				next:     message.HandlerFunc(func(context.Context, *message.Batch) error { return nil }),
				messages: messages,
			}
			b.ReportAllocs()
			for done := 0; done < b.N; done += 256 {
				b.StopTimer()
				for range 256 {
					messages <- wmMessage(headers)
				}
				b.StartTimer()
				r.gather(<-messages)
				r.handOn(b.Context(), b.Context())
			}
		})
	}
}

func wmMessage(headers int) *wm.Message {
	m := wm.NewMessage("0b0a4f4e-8b5c-4a41-9f0a-000000000000", make([]byte, 1024))
	for i := range headers {
		m.Metadata.Set(fmt.Sprint("header-", i), "value")
	}
	return m
}

// What a message costs on its way out, in batches of 256, up to the call of Publish.
func BenchmarkOutbound(b *testing.B) {
	for _, headers := range []int{0, 4} {
		b.Run(fmt.Sprintf("headers=%d", headers), func(b *testing.B) {
			k := &sink{out: Out{Timeout: time.Minute}, pub: nowhere{}}
			k.out.Topic.Literal = "t"
			batch := &message.Batch{}
			for range 256 {
				m := message.Message{ID: "0b0a4f4e-8b5c-4a41-9f0a-000000000000", Payload: make([]byte, 1024)}
				for i := range headers {
					m.Headers.Add(fmt.Sprint("header-", i), message.String("value"))
				}
				batch.Messages = append(batch.Messages, m)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += 256 {
				if err := k.Handle(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type nowhere struct{}

// Publish implements wm.Publisher.
func (nowhere) Publish(string, ...*wm.Message) error { return nil }

// Close implements wm.Publisher.
func (nowhere) Close() error { return nil }
