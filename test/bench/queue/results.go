package main

import (
	"math"
	"strconv"

	"github.com/linkspan/linkspan/test/bench/figures"
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

type results map[key]figures.Series

func (r results) add(k key, v float64) { r[k] = append(r[k], v) }

// set replaces the last figure.
func (r results) set(k key, v float64) { r[k][len(r[k])-1] = v }

// millis returns v seconds with two digits that count, more from 100 ms on.
func millis(v float64) string {
	digits := 0
	for scale := 10e-3; scale > v && digits < 3; scale /= 10 {
		digits++
	}
	return strconv.FormatFloat(v*1e3, 'f', digits, 64) + " ms"
}

func mebibytes(v float64) string { return strconv.Itoa(int(math.Round(v/(1<<20)))) + " MiB" }
