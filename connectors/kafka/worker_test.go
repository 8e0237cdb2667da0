package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func testWorker(next message.Handler) *worker {
	return &worker{
		place: place{"orders", 0}, key: []byte("orders/0"), next: next, log: slog.New(slog.DiscardHandler),
		held: &gauge{room: make(chan struct{}, 1)}, pause: func(place) {}, resume: func(place) {},
		retry: config.Backoff{Min: 1, Max: 1}, done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// Whatever the pipeline answers, in whatever order fetches and answers come: what may be
// committed never passes a message that was not taken over, no message is left out or
// taken over twice, and their order is kept.
func TestWorkerAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var taken []int64
		isTaken := map[int64]bool{}
		var w *worker
		wrong := "" // a panic of the handler would be caught, and so would Fatalf's
		check := func() {
			w.mu.Lock()
			at, fresh := w.settled.offset, w.fresh
			w.mu.Unlock()
			for o := range at {
				if fresh && !isTaken[o] && o%7 != 3 { // offsets of the form 7n+3 are control records
					wrong = fmt.Sprintf("offset %d may be committed and %d was not taken over", at, o)
				}
			}
		}
		w = testWorker(message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
			check()
			take := func(i int) {
				v, _ := b.Messages[i].Headers.Get(headerOffset)
				o := int64(v.Any().(int))
				if isTaken[o] {
					wrong = fmt.Sprintf("offset %d is handed on again after it was taken over", o)
				}
				isTaken[o], taken = true, append(taken, o)
			}
			answer := 5
			if wrong == "" {
				answer = rapid.IntRange(0, 5).Draw(t, "answer")
			}
			switch answer {
			case 0:
				return errors.New("down")
			case 1:
				panic("a bug")
			case 2:
				return &message.PartialError{Failed: []message.Failed{{Index: b.Len() + 3, Err: errors.New("a bug")}}}
			case 3, 4:
				var p message.PartialError
				for i := range b.Messages {
					if rapid.Bool().Draw(t, "refused") {
						p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrTooLarge})
					} else {
						take(i)
					}
				}
				if p.Failed == nil {
					return nil
				}
				return &p
			default:
				for i := range b.Messages {
					take(i)
				}
				return nil
			}
		}))
		var sent []int64
		next := int64(0)
		for range rapid.IntRange(1, 5).Draw(t, "fetches") {
			var records []*kgo.Record
			for range rapid.IntRange(1, 20).Draw(t, "records") {
				if next%7 == 3 {
					next++
				}
				records = append(records, &kgo.Record{Topic: "orders", Offset: next, Value: []byte("v")})
				sent = append(sent, next)
				next++
			}
			w.add(records)
			if !w.handOn(context.Background(), w.take(context.Background())) {
				t.Fatal("the worker ended")
			}
			check()
			if wrong != "" {
				t.Fatal(wrong)
			}
		}
		for w.bytes > 0 {
			w.handOn(context.Background(), w.take(context.Background()))
		}
		check()
		if wrong != "" {
			t.Fatal(wrong)
		}
		if len(taken) != len(sent) || w.settled.offset != next || w.held.n != 0 {
			t.Fatalf("%d of %d were taken over, offset %d of %d, %d bytes held", len(taken), len(sent), w.settled.offset, next, w.held.n)
		}
	})
}

// A batch is bounded in number and bytes, and a record that is larger goes alone.
func TestCutBoundsBatches(t *testing.T) {
	w := testWorker(nil)
	records := make([]*kgo.Record, 0, 5000)
	for i := range 5000 {
		records = append(records, &kgo.Record{Offset: int64(i), Value: []byte("v")})
	}
	records = append(records, &kgo.Record{Offset: 5000, Value: make([]byte, 2*batchBytes)})
	w.add(records)
	var sizes []int
	for len(w.queue) > 0 {
		sizes = append(sizes, len(w.cut()))
	}
	if fmt.Sprint(sizes) != "[2048 2048 904 1]" {
		t.Errorf("batches of %v", sizes)
	}
}

// A partition that is to be given away does not wait for its next attempt.
func TestEndStopsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		w := testWorker(message.HandlerFunc(func(context.Context, *message.Batch) error {
			calls++
			return &message.UnavailableError{Err: errors.New("later")}
		}))
		w.retry = config.Backoff{Min: 1 << 40, Max: 1 << 40}
		w.add([]*kgo.Record{{Value: []byte("v")}})
		go w.run(context.Background())
		synctest.Wait()
		w.end()
		<-w.done
		if calls != 1 || w.fresh || w.held.n != 0 {
			t.Errorf("%d calls, fresh %v, %d held", calls, w.fresh, w.held.n)
		}
	})
}
