package pipelines

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// together fails all its callers at once, when all of them are there.
type together struct{ all *sync.WaitGroup }

func (together) Open(context.Context) error  { return nil }
func (together) Close(context.Context) error { return nil }

func (s together) Handle(context.Context, *message.Batch) error {
	s.all.Done()
	s.all.Wait()
	return message.Unavailable(errors.New("the peer is gone"))
}

// Lanes that meet one outage together shut the gate once, and an Open that works does
// not reset the backoff of a Handle that does not.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lanes = 8
		var all sync.WaitGroup
		inner := together{&all}
		s := &sink{
			plan: &SinkPlan{Name: "a"}, handler: inner, inner: inner, log: slog.New(slog.DiscardHandler),
			backoff: config.Backoff{Min: time.Millisecond, Max: time.Second},
		}
		for round := range 3 {
			all.Add(lanes)
			var wg sync.WaitGroup
			for range lanes {
				wg.Go(func() {
					if err := s.send(t.Context(), &message.Batch{Messages: make([]message.Message, 1)}); !message.IsUnavailable(err) {
						t.Errorf("%v", err)
					}
				})
			}
			wg.Wait()
			if want := time.Millisecond << round; s.wait != want {
				t.Fatalf("after outage %d the gate is shut for %v, want %v", round+1, s.wait, want)
			}
			for time.Until(s.shut) > 0 {
				<-time.After(time.Until(s.shut))
			}
		}
	})
}

// Equal keys give equal hashes in every process, different ones and other pipelines
// different ones: a sink places messages by them, so a change would move the keys of
// running systems.
func TestSinkKeyIsStable(t *testing.T) {
	key := func(pipeline, key string) string {
		r := &running{plan: &Plan{Name: pipeline}}
		return hex.EncodeToString(r.sinkKey(&unit{key: key}))
	}
	if got := key("orders", "customer-1"); got != "7e43acd8a4ee1745" {
		t.Errorf("the hash is %s now", got)
	}
	seen := map[string]string{}
	for _, p := range []string{"orders", "order"} {
		for _, k := range []string{"customer-1", "customer-2", "scustomer-1", "a", "b"} {
			h := key(p, k)
			if other, twice := seen[h]; twice {
				t.Errorf("%s and %s/%s have the same hash", other, p, k)
			}
			seen[h] = p + "/" + k
		}
	}
	if key("orders", "") != "" {
		t.Error("no key has a hash")
	}
}
