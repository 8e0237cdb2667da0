package delivery

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSetModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const limit = 3 * pageBits
		s, model := Set{}, map[uint64]bool{}
		offset := rapid.Custom(func(rt *rapid.T) uint64 {
			if rapid.Bool().Draw(rt, "near") {
				return rapid.Uint64Range(0, 200).Draw(rt, "offset")
			}
			return rapid.Uint64Range(0, limit-1).Draw(rt, "offset")
		})
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				o := offset.Draw(rt, "o")
				if s.Add(o) == model[o] {
					rt.Fatalf("add %d: settled before: %v", o, model[o])
				}
				model[o] = true
			},
			"range": func(rt *rapid.T) {
				first := offset.Draw(rt, "first")
				end := min(limit, first+rapid.Uint64Range(0, pageBits+10).Draw(rt, "length"))
				s.AddRange(first, end)
				for o := first; o < end; o++ {
					model[o] = true
				}
			},
			"floor": func(rt *rapid.T) {
				floor := rapid.Uint64Range(0, limit/2).Draw(rt, "floor")
				s.SetFloor(floor)
				for o := range floor {
					model[o] = true
				}
			},
			"encode": func(rt *rapid.T) {
				b := s.Append(nil)
				got, rest, err := DecodeSet(append(b, 7), limit)
				if err != nil || len(rest) != 1 {
					rt.Fatalf("decode: %v, rest %v", err, rest)
				}
				s = got
			},
			"clone": func(*rapid.T) { s = s.Clone() },
			"": func(rt *rapid.T) {
				floor, above := uint64(0), uint64(0)
				for model[floor] {
					floor++
				}
				for o := range uint64(limit) {
					if s.Has(o) != model[o] {
						rt.Fatalf("has %d: %v, want %v", o, s.Has(o), model[o])
					}
					if model[o] && o >= floor {
						above++
					}
				}
				if s.Floor() != floor || s.Above() != above {
					rt.Fatalf("floor %d above %d, want %d and %d", s.Floor(), s.Above(), floor, above)
				}
				if !s.Covers(0, floor) || s.Covers(0, floor+1) {
					rt.Fatalf("covers is wrong at the floor %d", floor)
				}
			},
		})
	})
}

func TestIntersect(t *testing.T) {
	a, b := NewSet(3), NewSet(1)
	a.AddRange(5, 9)
	b.AddRange(2, 7)
	got := Intersect(&a, &b)
	var have []uint64
	for o := range uint64(12) {
		if got.Has(o) {
			have = append(have, o)
		}
	}
	if want := []uint64{0, 2, 5, 6}; !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
}

func FuzzDecodeSet(f *testing.F) {
	s := NewSet(4)
	s.AddRange(6, 9)
	f.Add(s.Append(nil))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = DecodeSet(b, 1<<16) })
}

// TestDelays runs on a clock that jumps: a delay of hours takes no time, and a
// message never comes back early.
func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Set{}, 3)
		stop := w.Open(0)
		got, err := w.Receive(t.Context(), stop, 3, nil)
		if err != nil || len(got) != 3 {
			t.Fatal(got, err)
		}
		start := time.Now()
		w.Release(time.Hour, 0)
		w.Release(time.Minute, 1)
		w.Release(24*time.Hour, 2)
		for _, want := range []struct {
			offset uint64
			after  time.Duration
		}{{1, time.Minute}, {0, time.Hour}, {2, 24 * time.Hour}} {
			got, err = w.Receive(t.Context(), stop, 3, nil)
			if err != nil || len(got) != 1 || got[0] != (Handout{Offset: want.offset, Delivery: 2}) || time.Since(start) != want.after {
				t.Errorf("after %v: %v, %v; want offset %d after %v", time.Since(start), got, err, want.offset, want.after)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Receive(ctx, stop, 1, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("receive: %v", err)
		}
		w.Close(stop)
		if _, err := w.Receive(t.Context(), stop, 1, nil); !errors.Is(err, queue.ErrClosed) {
			t.Errorf("receive: %v", err)
		}
	})
}
