package message_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/message"
)

// model is the bookkeeping written the slow and obvious way: every part is named
// and remembered.
type model struct {
	open  map[int][]int // origin → its open parts, by name
	acked map[int]bool
	next  int
}

// Whatever the order of fan-outs, splits, partial failures, retries and settlements,
// an origin is acknowledged exactly once, and only when none of its parts is open.
func TestTallyAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{open: map[int][]int{}, acked: map[int]bool{}}
		var tally message.Tally
		index := map[int]int{} // origin of the model → index of the tally
		var retrying []int     // origins with a part that a sink refused and that waits
		origins := 0
		pick := func(label string) (int, bool) {
			var live []int
			for o := range origins {
				if len(m.open[o]) > 0 {
					live = append(live, o)
				}
			}
			if len(live) == 0 {
				return 0, false
			}
			return rapid.SampledFrom(live).Draw(t, label), true
		}
		t.Repeat(map[string]func(*rapid.T){
			"receive": func(*rapid.T) {
				o := origins
				origins++
				m.open[o] = []int{m.next}
				m.next++
				index[o] = tally.Begin()
				for other, i := range index {
					if other != o && i == index[o] && !m.acked[other] {
						t.Fatalf("origins %d and %d share index %d", other, o, i)
					}
				}
			},
			"fan out or split": func(rt *rapid.T) {
				o, ok := pick("origin")
				if !ok {
					return
				}
				n := rapid.IntRange(1, 5).Draw(rt, "parts")
				tally.Fork(index[o], n)
				for range n - 1 {
					m.open[o] = append(m.open[o], m.next)
					m.next++
				}
			},
			"refuse": func(*rapid.T) {
				if o, ok := pick("origin"); ok {
					retrying = append(retrying, o) // nothing is settled: the part stays open
				}
			},
			"settle": func(*rapid.T) {
				o, ok := pick("origin")
				if !ok {
					return
				}
				if parts := tally.Parts(index[o]); parts != len(m.open[o]) {
					t.Fatalf("Parts = %d with %d parts open", parts, len(m.open[o]))
				}
				done := tally.Settle(index[o])
				m.open[o] = m.open[o][1:]
				if done != (len(m.open[o]) == 0) {
					t.Fatalf("done = %v with %d parts open", done, len(m.open[o]))
				}
				if done {
					if m.acked[o] {
						t.Fatalf("origin %d is acknowledged twice", o)
					}
					m.acked[o] = true
				}
			},
			"": func(*rapid.T) {
				live := 0
				for o := range origins {
					if len(m.open[o]) > 0 {
						live++
					}
				}
				if tally.Open() != live {
					t.Fatalf("Open = %d, want %d", tally.Open(), live)
				}
				for _, o := range retrying {
					if len(m.open[o]) > 0 && m.acked[o] {
						t.Fatalf("origin %d was acknowledged while a part waits for a retry", o)
					}
				}
			},
		})
	})
}

func TestTallyPanicsInsteadOfLosing(t *testing.T) {
	for name, f := range map[string]func(*message.Tally, int){
		"settle twice":   func(tally *message.Tally, i int) { tally.Settle(i) },
		"fork when done": func(tally *message.Tally, i int) { tally.Fork(i, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			var tally message.Tally
			i := tally.Begin()
			tally.Settle(i)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f(&tally, i)
		})
	}
}
