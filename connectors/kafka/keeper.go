package kafka

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kgo"
)

// keeper keeps the offsets of partitions that are read without a group, in
// DIR/offsets.json.
type keeper struct {
	file string
	kept keptOffsets
	// named: the name of the file is on stable storage.
	named bool
}

// keptOffsets are the offsets in the file. Those of another cluster mean nothing.
type keptOffsets struct {
	Cluster string                     `json:"cluster"`
	Offsets map[string]map[int32]int64 `json:"offsets"`
}

// loadKeeper reads the offsets that were kept for a cluster.
func loadKeeper(dir, cluster string) (*keeper, error) {
	k := &keeper{file: filepath.Join(dir, "offsets.json")}
	data, err := os.ReadFile(k.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read offsets: %w", err)
	default:
		if err := json.Unmarshal(data, &k.kept); err != nil {
			return nil, fmt.Errorf("read offsets %s: %w", k.file, err)
		}
	}
	if k.kept.Cluster != cluster || k.kept.Offsets == nil {
		k.kept = keptOffsets{Cluster: cluster, Offsets: map[string]map[int32]int64{}}
	}
	return k, nil
}

// starts says where each partition begins: where it stopped, else where it was told to.
func (k *keeper) starts(wanted Partitions, otherwise kgo.Offset) (map[place]kgo.Offset, error) {
	out := map[place]kgo.Offset{}
	for topic, partitions := range wanted {
		for number, text := range partitions {
			at, err := parsePlace(text, otherwise)
			if err != nil {
				return nil, fmt.Errorf("topic %s, partition %d: %w", topic, number, err)
			}
			if kept, ok := k.kept.Offsets[topic][number]; ok {
				at = kgo.NewOffset().At(kept)
			}
			out[place{topic, number}] = at
		}
	}
	return out, nil
}

// save replaces the offsets on stable storage: a crash leaves the old or the new ones.
func (k *keeper) save(offsets map[string]map[int32]kgo.EpochOffset) error {
	for topic, partitions := range offsets {
		for number, at := range partitions {
			put(k.kept.Offsets, place{topic, number}, at.Offset)
		}
	}
	data, err := json.Marshal(k.kept)
	if err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	temporary := k.file + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	if err := os.Rename(temporary, k.file); err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	if k.named {
		return nil
	}
	// The name is durable when its directory is.
	d, err := os.Open(filepath.Dir(k.file))
	if err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	k.named = true
	return nil
}
