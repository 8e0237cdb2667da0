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

	"github.com/linkspan/linkspan/message"
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

// fake is a store of messages that need nothing but their offsets.
type fake struct {
	msgs   map[uint64]message.Message
	dead   []Dead
	failed []Failed
	w      *Window
}

func (f *fake) Fetch(handouts []Handout) ([]queue.Record, error) {
	out := make([]queue.Record, len(handouts))
	for i, h := range handouts {
		out[i] = queue.Record{Offset: h.Offset, Delivery: h.Delivery, Attempt: h.Attempt, Message: f.msgs[h.Offset]}
	}
	return out, nil
}

func (f *fake) Lane(priority uint8, from uint64) (offsets []uint64, next uint64, err error) {
	next = min(from+3, f.w.end) // little at a time
	for o := from; o < next; o++ {
		if f.msgs[o].Priority == priority {
			offsets = append(offsets, o)
		}
	}
	return offsets, next, nil
}

func (f *fake) Retire(_ context.Context, dead []Dead) error {
	f.dead = append(f.dead, dead...)
	for _, d := range dead {
		f.w.Settle(d.Record.Offset)
	}
	return nil
}

func (f *fake) Log(failed []Failed) error {
	f.failed = append(f.failed, failed...)
	return nil
}

// TestDelays runs on a clock that jumps: a delay of hours takes no time, and a
// message never comes back early.
func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Set{}, 3, nil)
		store := &fake{w: w}
		stop := w.Open(queue.SubOptions{})
		got, err := w.Receive(t.Context(), stop, 3, store)
		if err != nil || len(got) != 3 {
			t.Fatal(got, err)
		}
		start := time.Now()
		w.Release(time.Hour, 0)
		w.Release(time.Minute, 1)
		w.Release(365*24*time.Hour, 2)
		for _, want := range []struct {
			offset uint64
			after  time.Duration
		}{{1, time.Minute}, {0, time.Hour}, {2, 365 * 24 * time.Hour}} {
			got, err = w.Receive(t.Context(), stop, 3, store)
			if err != nil || len(got) != 1 || got[0].Offset != want.offset || got[0].Delivery != 2 || time.Since(start) != want.after {
				t.Errorf("after %v: %v, %v; want offset %d after %v", time.Since(start), got, err, want.offset, want.after)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Receive(ctx, stop, 1, store); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("receive: %v", err)
		}
		w.Close(stop)
		if _, err := w.Receive(t.Context(), stop, 1, store); !errors.Is(err, queue.ErrClosed) {
			t.Errorf("receive: %v", err)
		}
	})
}

// TestClockBack sets the clock back by an hour while a message waits: it comes when the
// clock says so, not when a timer does.
func TestClockBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shift := time.Duration(0)
		now := func() time.Time { return time.Now().Add(shift) }
		w := New(Set{}, 1, now)
		store := &fake{w: w, msgs: map[uint64]message.Message{0: {NotBefore: now().Add(time.Minute)}}}
		stop := w.Open(queue.SubOptions{})
		start := time.Now()
		shift = -time.Hour
		got, err := w.Receive(t.Context(), stop, 1, store)
		if took := time.Since(start); err != nil || len(got) != 1 || took < 61*time.Minute || took > 61*time.Minute {
			t.Errorf("%v, %v after %v, want one message after 61m", got, err, took)
		}
	})
}

// TestTimers draws what becomes of messages under all kinds of waits, and checks that
// each comes within a tick of its time and never before it.
func TestTimers(t *testing.T) {
	cases := 0
	rapid.Check(t, func(rt *rapid.T) {
		delays := rapid.SliceOfN(rapid.Int64Range(0, int64(2*24*time.Hour)), 1, 8).Draw(rt, "delays")
		backoff := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "backoff"))
		synctest.Test(t, func(t *testing.T) {
			w := New(Set{}, uint64(len(delays)), nil)
			store := &fake{w: w, msgs: map[uint64]message.Message{}}
			start := time.Now()
			due := map[uint64]time.Time{}
			for i, d := range delays {
				due[uint64(i)] = start.Add(time.Duration(d))
				if d%3 != 0 { // a third may come at once
					store.msgs[uint64(i)] = message.Message{NotBefore: due[uint64(i)]}
				} else {
					due[uint64(i)] = start
				}
			}
			stop := w.Open(queue.SubOptions{MinBackoff: backoff, MaxBackoff: 3 * backoff, AckTimeout: time.Minute})
			for left := len(delays); left > 0; {
				got, err := w.Receive(t.Context(), stop, 1, store)
				if err != nil || len(got) != 1 {
					t.Fatal(got, err)
				}
				r := got[0]
				cases++
				if early := time.Until(due[r.Offset]); early > 0 || early < -tick && r.Attempt == 1 && len(delays) == 1 {
					t.Fatalf("message %d attempt %d came %v early", r.Offset, r.Attempt, early)
				}
				switch r.Attempt {
				case 1:
					w.Nack(queue.Backoff, r.Offset)
					due[r.Offset] = time.Now().Add(backoff)
				case 2: // nothing is said: it times out
					due[r.Offset] = time.Now().Add(time.Minute + min(2*backoff, 3*backoff))
				default:
					w.Settle(r.Offset)
					left--
				}
			}
			w.Close(stop)
		})
	})
	t.Logf("%d deliveries, none early", cases)
}

func TestPriority(t *testing.T) {
	const n = 200
	w := New(Set{}, n, nil)
	store := &fake{w: w, msgs: map[uint64]message.Message{}}
	for o := range uint64(n) {
		store.msgs[o] = message.Message{Priority: uint8(o * 7 % Priorities)}
	}
	stop := w.Open(queue.SubOptions{Order: queue.ByPriority, MaxInFlight: 10})
	last, seen := Priorities-1, 0
	offset := -1
	for seen < n {
		got, err := w.Receive(t.Context(), stop, 3, store)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got {
			p := int(r.Message.Priority)
			if p > last || p == last && int(r.Offset) < offset {
				t.Fatalf("offset %d with priority %d after offset %d with %d", r.Offset, p, offset, last)
			}
			last, offset = p, int(r.Offset)
			w.Settle(r.Offset)
			seen++
		}
	}
}

// TestKeyOrder has receivers that compete and fail at random: no message comes while an
// earlier one of its key is not settled.
func TestKeyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const n = 60
		w := New(Set{}, n, nil)
		store := &fake{w: w, msgs: map[uint64]message.Message{}}
		for o := range uint64(n) {
			if k := rapid.IntRange(0, 4).Draw(rt, "key"); k > 0 {
				store.msgs[o] = message.Message{Key: []byte{byte(k)}}
			}
		}
		stop := w.Open(queue.SubOptions{Order: queue.ByKey, MaxInFlight: 9})
		settled := map[uint64]bool{}
		var out []uint64
		for len(settled) < n {
			if len(out) < 9 && rapid.Bool().Draw(rt, "receive") || len(out) == 0 {
				patience := time.Minute
				if len(out) > 0 { // all others may wait for those
					patience = time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				got, err := w.Receive(ctx, stop, rapid.IntRange(1, 5).Draw(rt, "limit"), store)
				cancel()
				if err != nil && len(out) == 0 {
					rt.Fatal(err)
				}
				for _, r := range got {
					for o := range r.Offset {
						if r.Message.Key != nil && slices.Equal(store.msgs[o].Key, r.Message.Key) && !settled[o] {
							rt.Fatalf("%d came before %d of its key was settled", r.Offset, o)
						}
					}
					out = append(out, r.Offset)
				}
				continue
			}
			i := rapid.IntRange(0, len(out)-1).Draw(rt, "which")
			switch o := out[i]; rapid.IntRange(0, 3).Draw(rt, "how") {
			case 0:
				w.Release(0, o)
			case 1:
				w.Nack(0, o)
			default:
				w.Settle(o)
				settled[o] = true
			}
			out = slices.Delete(out, i, i+1)
		}
		if s := w.Stats("x"); s.Backlog != 0 || s.Waiting != 0 || s.InFlight != 0 || len(w.keys.busy) != 0 {
			rt.Fatalf("left over: %+v, %d busy keys", s, len(w.keys.busy))
		}
	})
}

// A receiver that gives up just when a message comes does not take the wake-up of one
// that goes on waiting with it.
func TestLostWakeup(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			w := New(Set{}, 0, nil)
			stop := w.Open(queue.SubOptions{})
			got := make(chan int, 2)
			receive := func(ctx context.Context) {
				records, _ := w.Receive(ctx, stop, 1, plain{})
				got <- len(records)
			}
			first, giveUp := context.WithCancel(t.Context())
			second, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			go receive(first)
			synctest.Wait()
			go receive(second)
			synctest.Wait()
			w.Grow(1) // wakes the first
			giveUp()
			n := <-got
			if n == 0 {
				n = <-got
			} else {
				cancel()
				<-got
			}
			if n == 0 {
				t.Fatal("the message was not received")
			}
		})
	}
}

// plain is a store whose messages have no properties.
type plain struct{}

func (plain) Fetch(handouts []Handout) (out []queue.Record, err error) {
	for _, h := range handouts {
		out = append(out, queue.Record{Offset: h.Offset, Delivery: h.Delivery, Attempt: h.Attempt})
	}
	return out, nil
}

func (plain) Lane(_ uint8, from uint64) ([]uint64, uint64, error) { return nil, from, nil }
func (plain) Retire(context.Context, []Dead) error                { return nil }
func (plain) Log([]Failed) error                                  { return nil }
