package pipelines_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/linkspan/linkspan/message"
)

// Without a queue the order per key holds, refusals are tried again and become dead
// letters, and the input ends only when everything is settled.
func TestWithoutQueue(t *testing.T) {
	var input []message.Message
	for i := range 60 {
		input = append(input, message.Message{Key: fmt.Appendf(nil, "k%d", i%3), Payload: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	var calls atomic.Int64
	f := &fake{input: input, sinks: map[string]func(*message.Message) error{"a": func(m *message.Message) error {
		switch n := calls.Add(1); {
		case string(m.Payload) == `{"n":13}`:
			return &message.Reason{Code: "LS9999", Text: "never", Permanent: true}
		case n%7 == 0:
			return message.Unavailable(errors.New("later"))
		default:
			return nil
		}
	}}}
	dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
route:
  - else: [a, b]
out:
  a: {fake: {id: a}}
  b: {fake: {id: b}}
delivery: {queue: none, guarantee: at-least-once, retry: {backoff: 1ms..2ms}, max_in_flight: 5}
`)
	if len(dead) != 1 || dead[0].Code != "LS9999" || dead[0].Sink != "a" {
		t.Errorf("dead letters %+v", dead)
	}
	if len(f.got["a"]) != 59 || len(f.got["b"]) != 60 {
		t.Fatalf("a got %d, b got %d", len(f.got["a"]), len(f.got["b"]))
	}
	for sink, got := range f.got {
		last := [3]int{-1, -1, -1}
		for _, text := range got {
			var n int
			if _, err := fmt.Sscanf(text, `{"n":%d}`, &n); err != nil {
				t.Fatal(err)
			}
			if n < last[n%3] {
				t.Errorf("%s got %d after %d", sink, n, last[n%3])
			}
			last[n%3] = n
		}
	}
}

func TestWithoutQueueRefusesWhatOnlyAQueueCanDo(t *testing.T) {
	_, report := loadPipeline(t, &fake{}, `
pipeline: p
in: {i: {fake: {}}}
out: {a: {fake: {id: a}}}
delivery: {queue: none, dedup: 1h, keep: 1h, priority: true, on_damage: hold}
`)
	n := 0
	for _, p := range report.Problems() {
		if strings.Contains(p.Text(), "LS1333") {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d problems, want 4: %v", n, report.Problems())
	}
	_, report = loadPipeline(t, &fake{}, `
pipeline: p
in: {i: {fake: {}}}
out: {a: {fake: {id: a}}}
delivery: {queue: nome}
`)
	if !report.Failed() {
		t.Error("an unknown queue is taken")
	}
}
