package main

import "strconv"

// bridge is a program with its configuration.
type bridge struct {
	name   string
	peer   bool
	config string // in pipelines, or for the peer in peerconf
	more   string // is added to the configuration
	// env returns what the configuration refers to, but for the path's own.
	env func(procs int) []string
}

// The names of the bridges. The peer's own defaults are not its best.
const (
	queued  = "linkspan"
	direct  = "linkspan, `queue: none`"
	tuned   = "Bento, tuned"
	untuned = "Bento, defaults"
)

// bridges lists what is compared on a path. All of them carry the orders one by one
// confirmed; only the first stores them on its way.
func bridges(path string, own bool) []bridge {
	threads := func(n int) []string { return []string{"THREADS=" + strconv.Itoa(n)} }
	plain := func(int) []string { return nil }
	config := path + ".yaml"
	out := []bridge{
		{name: queued, config: config, env: plain},
		{name: direct, config: config, more: "delivery: {queue: none}\n", env: plain},
	}
	if own {
		return out
	}
	many := func(int) []string { return append(threads(64), "PREFETCH=1000", "MIF=1000") }
	switch path {
	case kafkaPath:
		out = append(out,
			bridge{name: tuned, peer: true, config: "kafka-tuned.yaml", env: threads},
			bridge{name: untuned, peer: true, config: "kafka-default.yaml", env: threads})
	case rabbitPath:
		out = append(out,
			bridge{name: tuned, peer: true, config: config, env: many},
			bridge{name: untuned, peer: true, config: config, env: threads})
	default:
		out = append(out, bridge{name: tuned, peer: true, config: config, env: many})
	}
	return out
}
