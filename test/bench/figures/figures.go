// Package figures collects what the benchmarks measure in rounds and prints it.
package figures

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Series is one figure for each round.
type Series []float64

// Per divides round by round.
func (s Series) Per(o Series) Series {
	out := make(Series, min(len(s), len(o)))
	for i := range out {
		out[i] = s[i] / o[i]
	}
	return out
}

// Median returns the middle of the series, and NaN when there is none.
func (s Series) Median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(s)-1)/2] + sorted[len(s)/2]) / 2
}

// Text returns the median and, when there are several, the range.
func (s Series) Text(unit func(float64) string) string {
	switch len(s) {
	case 0:
		return ""
	case 1:
		return unit(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", unit(s.Median()), unit(slices.Min(s)), unit(slices.Max(s)))
}

// Times returns v with two decimals.
func Times(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// PerSecond returns v with three digits that count.
func PerSecond(v float64) string {
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

// Markdown prints a table whose first line is the head.
func Markdown(w io.Writer, table [][]string) error {
	table = slices.Insert(table, 1, slices.Repeat([]string{"---"}, len(table[0])))
	for _, cells := range table {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")); err != nil {
			return err
		}
	}
	return nil
}
