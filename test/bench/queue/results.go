package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// key names a series of figures.
type key struct{ what, variant, metric string }

// The metrics.
const (
	rate        = "rate"
	p50         = "p50"
	p99         = "p99"
	count       = "count"
	loadRate    = "load rate"
	loadWritten = "load written"
	loadMemory  = "load memory"
	opening     = "opening"
	openMemory  = "open memory"
	drainRate   = "drain rate"
	drainMemory = "drain memory"
)

// series is one figure for each round.
type series []float64

type results map[key]series

func (r results) add(k key, v float64) { r[k] = append(r[k], v) }

// set replaces the last figure.
func (r results) set(k key, v float64) { r[k][len(r[k])-1] = v }

// per divides round by round.
func (s series) per(o series) series {
	out := make(series, min(len(s), len(o)))
	for i := range out {
		out[i] = s[i] / o[i]
	}
	return out
}

func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(s)-1)/2] + sorted[len(s)/2]) / 2
}

// text returns the median and, when there are several, the range.
func (s series) text(unit func(float64) string) string {
	switch len(s) {
	case 0:
		return ""
	case 1:
		return unit(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", unit(s.median()), unit(slices.Min(s)), unit(slices.Max(s)))
}

func times(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// perSecond returns v with three digits that count.
func perSecond(v float64) string {
	digits := 1.0
	for digits*1000 < v {
		digits *= 10
	}
	text := strconv.Itoa(int(math.Round(v/digits) * digits))
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// millis returns v seconds with two digits that count, more from 100 ms on.
func millis(v float64) string {
	digits := 0
	for scale := 10e-3; scale > v && digits < 3; scale /= 10 {
		digits++
	}
	return strconv.FormatFloat(v*1e3, 'f', digits, 64) + " ms"
}

func mebibytes(v float64) string { return strconv.Itoa(int(math.Round(v/(1<<20)))) + " MiB" }
