package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/linkspan/linkspan/test/bench/figures"
)

// key names the figures of a bridge on a path.
type key struct {
	path   string
	procs  int
	bridge string
}

// figure is what one run gave.
type figure struct {
	cpu       float64 // µs for each order of the source
	perSecond float64 // orders of the source
	lost      int
	counts
}

func (f figure) faults() string {
	return fmt.Sprintf("%d, %d, %d, %d", f.lost, f.twice, f.disordered, f.wrong)
}

type results map[key][]figure

func (r results) add(k key, f figure) { r[k] = append(r[k], f) }

// last returns the newest figures of a bridge, as a line.
func (r results) last(k key) string {
	f := r[k][len(r[k])-1]
	return fmt.Sprintf("%s µs, %s per second; lost, twice, out of order, wrong: %s", micros(f.cpu), figures.PerSecond(f.perSecond), f.faults())
}

func (r results) cpu(k key) (s figures.Series) {
	for _, f := range r[k] {
		s = append(s, f.cpu)
	}
	return s
}

func (r results) perSecond(k key) (s figures.Series) {
	for _, f := range r[k] {
		s = append(s, f.perSecond)
	}
	return s
}

// faults adds up what went wrong in all rounds.
func (r results) faults(k key) string {
	var sum figure
	for _, f := range r[k] {
		sum.lost += f.lost
		sum.twice += f.twice
		sum.disordered += f.disordered
		sum.wrong += f.wrong
	}
	return sum.faults()
}

// micros returns v microseconds with a decimal below 100.
func micros(v float64) string {
	if v < 100 {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// row is a line of the table: a bridge with its targets.
type row struct {
	key
	title string
	// atMost bounds the µs, and atLeast the ratios to a bridge. Zero: none.
	atMost  float64
	atLeast map[string]float64
}

// rows returns the lines of the table with the targets. The order is that of reading.
func rows(o options) (out []row) {
	titles := map[string]string{
		kafkaPath: "Kafka → Kafka", rabbitPath: "RabbitMQ → RabbitMQ", mqttPath: "MQTT QoS 1 → RabbitMQ",
	}
	for _, path := range o.paths {
		for _, procs := range processors() {
			for _, v := range bridges(path, o.own) {
				l := row{key: key{path, procs, v.name}, title: titles[path]}
				switch {
				case v.name != queued:
				case path == kafkaPath && procs == 1:
					l.atMost, l.atLeast = 12, map[string]float64{tuned: 7, untuned: 12}
				case path == rabbitPath:
					l.atMost = 50
				case path == mqttPath:
					l.atMost = 60
				}
				out = append(out, l)
			}
		}
	}
	return out
}

// write prints the table as Markdown.
func (r results) write(w io.Writer, rows []row) error {
	table := [][]string{{
		"path", "GOMAXPROCS", "bridge", "CPU µs per message", "messages per second",
		"lost, twice, out of order, wrong", "Bento needs", "target", "met",
	}}
	for _, l := range rows {
		cells := []string{
			l.title, strconv.Itoa(l.procs), l.bridge, r.cpu(l.key).Text(micros), r.perSecond(l.key).Text(figures.PerSecond), r.faults(l.key),
		}
		table = append(table, append(cells, r.judge(l)...))
	}
	return figures.Markdown(w, table)
}

// judge returns the ratios, the targets and whether they are met.
func (r results) judge(l row) []string {
	var ratios, targets, met []string
	cpu := r.cpu(l.key)
	add := func(target string, ok bool) {
		targets = append(targets, target)
		met = append(met, map[bool]string{true: "met", false: "missed"}[ok])
	}
	if l.atMost > 0 {
		add("≤ "+strconv.FormatFloat(l.atMost, 'f', -1, 64)+" µs", cpu.Median() <= l.atMost)
	}
	for _, peer := range []string{tuned, untuned} {
		of := r.cpu(key{l.path, l.procs, peer})
		if len(of) == 0 || l.bridge != queued && l.bridge != direct {
			continue
		}
		ratio := of.Per(cpu)
		name := strings.TrimPrefix(peer, "Bento, ")
		ratios = append(ratios, name+" "+ratio.Text(tenths)+" ×")
		if least := l.atLeast[peer]; least > 0 {
			add("≥ "+strconv.FormatFloat(least, 'f', -1, 64)+" × "+name, ratio.Median() >= least)
		}
	}
	return []string{strings.Join(ratios, "; "), strings.Join(targets, "; "), strings.Join(met, "; ")}
}

func tenths(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
