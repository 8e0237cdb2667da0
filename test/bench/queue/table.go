package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/linkspan/linkspan/test/bench/figures"
)

// bar is a target: what it says and whether the median meets it.
type bar struct {
	text string
	met  func(value, ratio float64) string
}

func yes(met bool) string {
	if met {
		return "yes"
	}
	return "no"
}

func valueAtLeast(v float64, unit func(float64) string) bar {
	return bar{"≥ " + unit(v), func(value, _ float64) string { return yes(value >= v) }}
}

func valueAtMost(v float64, unit func(float64) string) bar {
	return bar{"≤ " + unit(v), func(value, _ float64) string { return yes(value <= v) }}
}

func ratioAtLeast(v float64, of string) bar {
	return bar{fmt.Sprintf("≥ %.2g × %s", v, of), func(_, ratio float64) string { return yes(ratio >= v) }}
}

func ratioAtMost(v float64, of string) bar {
	return bar{fmt.Sprintf("≤ %.2g × %s", v, of), func(_, ratio float64) string { return yes(ratio <= v) }}
}

// quietOrContended is the bar that depends on what else the machine does.
func quietOrContended(quiet, contended float64) bar {
	text := fmt.Sprintf("≥ %s quiet, ≥ %s contended", figures.PerSecond(quiet), figures.PerSecond(contended))
	return bar{text, func(value, _ float64) string {
		switch {
		case value >= quiet:
			return "yes, quiet"
		case value >= contended:
			return "yes, contended"
		}
		return "no"
	}}
}

// row is a line of the table.
type row struct {
	title   string
	what    string
	metric  string
	unit    func(float64) string
	against key    // what the ratio divides by; the metric is that of the row
	of      string // its name in the table
	variant string // whose figure the bars judge. Default own.
	bars    []bar
}

// rows returns the lines of the table with the bars. The order is that of reading.
func rows(backlog int, vs []variant) []row {
	toPeer := func(what string) key { return key{what: what, variant: peer} }
	latency := func(what string, bars ...bar) row {
		return row{title: what + ": p99", what: what, metric: p99, unit: millis, bars: bars}
	}
	out := []row{
		{title: one + ", per second", what: one, metric: rate, unit: figures.PerSecond, against: toPeer(one), of: peer},
		{title: one + ": p50", what: one, metric: p50, unit: millis, against: key{what: disk, variant: disk}, of: disk, bars: []bar{ratioAtMost(1.3, disk)}},
		latency(one),
		{title: some + ", per second", what: some, metric: rate, unit: figures.PerSecond, against: toPeer(some), of: peer, bars: []bar{quietOrContended(60e3, 25e3), ratioAtLeast(1.2, peer)}},
		{title: some + ": p50", what: some, metric: p50, unit: millis},
		latency(some, bar{"≤ 3 ms quiet", func(value, _ float64) string { return yes(value <= 3e-3) }}),
		{title: many + ", per second", what: many, metric: rate, unit: figures.PerSecond, against: toPeer(many), of: peer, bars: []bar{valueAtLeast(150e3, figures.PerSecond), ratioAtLeast(1.5, peer)}},
		{title: many + ": p50", what: many, metric: p50, unit: millis},
		latency(many),
		{title: someTopic + ", per second", what: someTopic, metric: rate, unit: figures.PerSecond, against: key{what: some, variant: own}, of: "one topic", bars: []bar{ratioAtLeast(0.8, "one topic")}},
		{title: manyTopic + ", per second", what: manyTopic, metric: rate, unit: figures.PerSecond, against: key{what: many, variant: own}, of: "one topic", bars: []bar{ratioAtLeast(0.8, "one topic")}},
		{title: full + ", acknowledged, per second", what: full, metric: rate, unit: figures.PerSecond, against: toPeer(full), of: peer, bars: []bar{valueAtLeast(40e3, figures.PerSecond)}},
		latency(full),
		{title: hot + " (wchar)", what: hot, metric: count, unit: figures.Times, bars: []bar{valueAtMost(1.1, figures.Times)}},
	}
	out = append(out, backlogRows(backlog)...)
	for _, v := range vs {
		if v.base != "" {
			out = append(out, row{
				title: some + ", " + v.name + ", per second", what: some, metric: rate, unit: figures.PerSecond, variant: v.name,
				against: key{what: some, variant: v.base}, of: v.base, bars: []bar{ratioAtLeast(v.atLeast, v.base)},
			})
		}
	}
	return out
}

func backlogRows(n int) []row {
	line := func(title, metric string, unit func(float64) string, bars ...bar) row {
		return row{title: title, what: waiting, metric: metric, unit: unit, against: key{what: waiting, variant: peer}, of: peer, bars: bars}
	}
	return []row{
		line(fmt.Sprintf("backlog of %d, loading, per second", n), loadRate, figures.PerSecond),
		line("backlog, loading: bytes written per payload byte (wchar)", loadWritten, figures.Times),
		line("backlog, loading: memory at the end", loadMemory, mebibytes, valueAtMost(80<<20, mebibytes)),
		line("backlog, opening after kill -9", opening, millis, valueAtMost(0.5, millis)),
		line("backlog, opened: memory", openMemory, mebibytes, valueAtMost(80<<20, mebibytes)),
		line("backlog, draining from the disk, per second", drainRate, figures.PerSecond, valueAtLeast(200e3, figures.PerSecond)),
		line("backlog, draining: peak of memory", drainMemory, mebibytes, valueAtMost(80<<20, mebibytes)),
	}
}

// write prints the table as Markdown.
func (r results) write(w io.Writer, rows []row, vs []variant) error {
	table := [][]string{{"measure", disk}}
	for _, v := range vs {
		table[0] = append(table[0], v.name)
	}
	table[0] = append(table[0], "ratio", "bar", "met")
	for _, l := range rows {
		cells := []string{l.title, ""}
		if l.what == one {
			cells[1] = r[key{disk, disk, l.metric}].Text(l.unit)
		}
		for _, v := range vs {
			cells = append(cells, r[key{l.what, v.name, l.metric}].Text(l.unit))
		}
		table = append(table, append(cells, r.judge(l)...))
	}
	return figures.Markdown(w, table)
}

// judge returns the ratio, the bars and whether they are met.
func (r results) judge(l row) []string {
	value := r[key{l.what, cmp.Or(l.variant, own), l.metric}]
	var ratio figures.Series
	text := ""
	if l.of != "" {
		ratio = value.Per(r[key{l.against.what, l.against.variant, l.metric}])
		text = ratio.Text(figures.Times) + " × " + l.of
	}
	var bars, met []string
	for _, b := range l.bars {
		bars = append(bars, b.text)
		met = append(met, b.met(value.Median(), ratio.Median()))
	}
	return []string{text, strings.Join(bars, "; "), strings.Join(met, "; ")}
}
