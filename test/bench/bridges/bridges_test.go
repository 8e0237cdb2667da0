package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

func newWork(t *testing.T, n int) *work {
	t.Helper()
	ts, err := templates(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return &work{templates: ts, n: n}
}

// done does to an order what the bridges do.
func done(t *testing.T, payload []byte) []byte {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal(payload, &o); err != nil {
		t.Fatal(err)
	}
	customer, payment := o["customer"].(map[string]any), o["payment"].(map[string]any)
	delete(customer, "name")
	customer["email"] = strings.Repeat("0", 32)
	card := payment["card_number"].(string)
	payment["card_number"] = strings.Repeat("*", 12) + card[12:]
	o["pipeline"] = "orders-v1"
	o["total_cents"] = int(o["total"].(float64)*100 + 0.5)
	out, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Each fault is counted as what it is, and the orders that arrive as they should are not.
func TestLedger(t *testing.T) {
	w := newWork(t, 800)
	l := newLedger(w, 4)
	var kept []int
	for seq := range w.n {
		if w.of(seq).kept {
			kept = append(kept, seq)
		}
	}
	take := func(seq int, change ...string) {
		payload := done(t, w.payload(seq))
		if len(change) > 0 {
			payload = []byte(strings.NewReplacer(change...).Replace(string(payload)))
		}
		l.take(w.of(seq).Channel, 0, payload)
	}
	take(kept[0], `"orders-v1"`, `"orders-v2"`)
	take(kept[0], strings.Repeat("0", 32), "ada@example.com")
	take(kept[0], `"customer":{`, `"customer":{"name":"Ada",`)
	l.take("elsewhere", 0, done(t, w.payload(kept[0])))
	l.take("web", 0, []byte("nonsense"))
	dropped := slices.IndexFunc(w.templates, func(t template) bool { return !t.kept })
	take(dropped)
	if got, _ := l.state(); got != (counts{wrong: 6}) {
		t.Fatalf("got %+v", got)
	}
	// From one partition to one destination: late by one, and twice.
	same := slices.DeleteFunc(slices.Clone(kept), func(seq int) bool {
		return w.of(seq).Channel != w.of(kept[0]).Channel || seq%4 != kept[0]%4
	})
	take(same[1])
	take(same[0])
	take(same[0])
	if got, _ := l.state(); got != (counts{arrived: 2, twice: 1, disordered: 1, wrong: 6}) {
		t.Fatalf("got %+v", got)
	}
	for _, seq := range kept {
		if seq != same[0] && seq != same[1] {
			take(seq)
		}
	}
	select {
	case <-l.done:
	default:
		t.Error("everything has arrived, and the ledger does not say so")
	}
	if got, _ := l.state(); got != (counts{arrived: len(kept), twice: 1, disordered: 1, wrong: 6}) {
		t.Errorf("got %+v", got)
	}
}

// Ratios are those of a round, bars judge the median, and faults add up.
func TestTable(t *testing.T) {
	r := results{
		{kafkaPath, 1, queued}: {{cpu: 10, perSecond: 1000}, {cpu: 20, perSecond: 3000, counts: counts{twice: 2}}, {cpu: 12, perSecond: 2000, lost: 1}},
		{kafkaPath, 1, tuned}:  {{cpu: 80}, {cpu: 160}, {cpu: 60}},
	}
	var out bytes.Buffer
	if err := r.write(&out, rows(options{paths: []string{kafkaPath}})[:3]); err != nil {
		t.Fatal(err)
	}
	want := "| Kafka → Kafka | 1 | linkspan | 12.0 (10.0–20.0) | 2,000 (1,000–3,000) | 1, 2, 0, 0 | tuned 8.0 (5.0–8.0) × | ≤ 12 µs; ≥ 7 × tuned | met; met |"
	if lines := strings.Split(out.String(), "\n"); len(lines) < 3 || lines[2] != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// A child's CPU is what it uses, and a child that ends is no ready one.
func TestChild(t *testing.T) {
	g := run.NewGroup(t.Context())
	c, err := start(t.Context(), g, "sh", []string{"-c", "while :; do :; done"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) {
		used, err := c.cpu()
		if err != nil || time.Now().After(end) {
			t.Fatalf("used %v: %v", used, err)
		}
		if used >= 50*time.Millisecond {
			break
		}
	}
	c.kill()
	if c, err = start(t.Context(), g, "sh", []string{"-c", "echo gone"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v", err)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
