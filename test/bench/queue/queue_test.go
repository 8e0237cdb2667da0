package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/test/bench/figures"
)

// TestMain lets the test's program play the child processes as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-role" {
		if err := command(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Every variant gives back what it was given, once, also after it was opened again.
func TestStores(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			dir, payload := t.TempDir(), make([]byte, payloadSize)
			s, err := v.open(t.Context(), dir, 2)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				if err := s.publisher(i%2)(t.Context(), payload); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.subscribe(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, err := s.consume(t.Context(), 3); n != 3 || err != nil {
				t.Fatalf("consumed %d: %v", n, err)
			}
			if err := s.close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if s, err = v.open(t.Context(), dir, 2); err != nil {
				t.Fatal(err)
			}
			if err := s.subscribe(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, err := s.consume(t.Context(), 5); n != 2 || err != nil {
				t.Errorf("consumed %d of the 2 that were left: %v", n, err)
			}
			if err := s.close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// The whole run works, with little to do, and fills every cell that has a figure.
func TestMeasure(t *testing.T) {
	var out, progress bytes.Buffer
	p := plan{
		rounds: 2, warmUp: 20 * time.Millisecond, length: 50 * time.Millisecond,
		hotWarmUp: 50 * time.Millisecond, hotLength: 50 * time.Millisecond, backlog: 2000, longRuns: 1,
	}
	if err := measure(t.Context(), t.TempDir(), p, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if want := len(rows(0, variants())) + 2; len(lines) != want {
		t.Errorf("%d lines, want %d", len(lines), want)
	}
	for _, line := range lines {
		cells := strings.Split(line, "|")
		if len(cells) != 7+len(variants()) || strings.TrimSpace(cells[3]) == "" || strings.TrimSpace(cells[4]) == "" || strings.Contains(line, "NaN") {
			t.Errorf("line %s", line)
		}
		bar, verdict := cells[len(cells)-3], cells[len(cells)-2]
		if (strings.TrimSpace(bar) == "") != (strings.TrimSpace(verdict) == "") {
			t.Errorf("a bar without a verdict: %s", line)
		}
	}
}

// Ratios are those of a round, and bars judge the median.
func TestJudge(t *testing.T) {
	r := results{
		{some, own, rate}:  {90e3, 50e3, 70e3},
		{some, peer, rate}: {45e3, 50e3, 70e3},
	}
	l := row{what: some, metric: rate, against: key{what: some, variant: peer}, of: peer, bars: []bar{quietOrContended(60e3, 25e3), ratioAtLeast(1.2, peer)}}
	l.against.metric = rate
	if got := strings.Join(r.judge(l), " | "); got != "1.00 (1.00–2.00) × pebble | ≥ 60,000 quiet, ≥ 25,000 contended; ≥ 1.2 × pebble | yes, quiet; no" {
		t.Error(got)
	}
}

// A variant that is the journal with other options gets a line of its own.
func TestVariantOfTheJournal(t *testing.T) {
	vs := append(variants(), variant{name: "encrypted", base: own, atLeast: 0.85})
	all := rows(0, vs)
	r := results{{some, own, rate}: {100}, {some, "encrypted", rate}: {80}}
	last := all[len(all)-1]
	if got := strings.Join(r.judge(last), " | "); len(all) != len(rows(0, variants()))+1 || got != "0.80 × journal | ≥ 0.85 × journal | no" {
		t.Error(last.title, got)
	}
}

func TestUnits(t *testing.T) {
	for want, got := range map[string]string{
		"5": figures.PerSecond(5), "998": figures.PerSecond(998.4), "1,230": figures.PerSecond(1234), "98": figures.PerSecond(98.4), "149,000": figures.PerSecond(148_976), "1,060,000": figures.PerSecond(1_059_999),
		"0.44 ms": millis(0.000438), "0.044 ms": millis(0.0000438), "4.4 ms": millis(0.00438), "16 ms": millis(0.0164), "1180 ms": millis(1.18), "55 MiB": mebibytes(55<<20 + 10), "1.04": figures.Times(1.0389),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
