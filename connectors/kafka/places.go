package kafka

import (
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/internal/config"
)

const (
	startEarliest = "earliest"
	startLatest   = "latest"
)

// parseStart reads earliest, latest or a time.
func parseStart(text string) (kgo.Offset, error) {
	switch text {
	case startEarliest:
		return kgo.NewOffset().AtStart(), nil
	case startLatest:
		return kgo.NewOffset().AtEnd(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return kgo.Offset{}, fmt.Errorf("read start: %w", err)
	}
	return kgo.NewOffset().AfterMilli(at.UnixMilli()), nil
}

// Partitions are partitions by topic, each with where it begins: an offset, earliest,
// latest, or "" for what `start` says.
type Partitions map[string]map[int32]string

// DecodeConfig implements config.Decoder.
func (p *Partitions) DecodeConfig(n config.Node, r *config.Report) {
	if !n.IsMapping() || len(n.Fields()) == 0 {
		r.Errorf(n, "LS1110", "write {orders: [0, 1]}, or {orders: {0: 1500, 1: latest}}", "topics with their partitions are needed here")
		return
	}
	*p = Partitions{}
	for _, f := range n.Fields() {
		of := map[int32]string{}
		for _, item := range f.Value.Items() {
			decodePartition(of, item, item.Text(), "", r)
		}
		if f.Value.IsMapping() {
			for _, part := range f.Value.Fields() {
				decodePartition(of, part.Value, part.Name, part.Value.Text(), r)
			}
		}
		if len(of) == 0 {
			r.Errorf(f.Value, "LS1110", "write a list such as [0, 1], or {0: 1500, 1: latest}", "the partitions of the topic are needed here")
		}
		(*p)[f.Name] = of
	}
}

func decodePartition(of map[int32]string, n config.Node, partition, at string, r *config.Report) {
	number, err := strconv.ParseInt(partition, 10, 32)
	_, twice := of[int32(number)]
	if err != nil || number < 0 || twice {
		r.Errorf(n, "LS1110", "write each number once: [0, 1, 2]", "this is not the number of a partition")
		return
	}
	if _, err := parsePlace(at, kgo.Offset{}); err != nil {
		r.Errorf(n, "LS1110", "write an offset, earliest or latest", "this is not a place to start at")
	}
	of[int32(number)] = at
}

// parsePlace reads an offset, earliest, latest or "", which means otherwise.
func parsePlace(text string, otherwise kgo.Offset) (kgo.Offset, error) {
	switch text {
	case "":
		return otherwise, nil
	case startEarliest, startLatest:
		return parseStart(text)
	}
	at, err := strconv.ParseInt(text, 10, 64)
	if err != nil || at < 0 {
		return kgo.Offset{}, fmt.Errorf("read offset: %q is not a whole number", text)
	}
	return kgo.NewOffset().At(at), nil
}
