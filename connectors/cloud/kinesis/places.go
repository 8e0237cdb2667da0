package kinesis

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// place is how far a shard was handed on.
type place struct {
	// Sequence is the sequence number of the last record; empty: none yet.
	Sequence string `json:"sequence,omitempty"`
	// Finished says that the shard is closed and was read to its end.
	Finished bool `json:"finished,omitempty"`
}

// places are those of the shards of a stream, kept in DIR/shards.json.
type places struct {
	file string

	mu sync.Mutex
	// kept is what the file has. Guarded by mu.
	kept struct {
		Stream string           `json:"stream"`
		Shards map[string]place `json:"shards"`
	}
}

// openPlaces reads the file. Another stream than that of the file starts anew.
func openPlaces(dir, stream string) (*places, error) {
	p := &places{file: filepath.Join(dir, "shards.json")}
	data, err := os.ReadFile(p.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the places of the shards: %w", err)
	default:
		if err := json.Unmarshal(data, &p.kept); err != nil {
			return nil, fmt.Errorf("read the places of the shards in %s: %w", p.file, err)
		}
	}
	if p.kept.Stream != stream || p.kept.Shards == nil {
		p.kept.Stream, p.kept.Shards = stream, map[string]place{}
	}
	return p, nil
}

// get returns the place of a shard, and whether it has one.
func (p *places) get(shard string) (place, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.kept.Shards[shard]
	return at, ok
}

// keep replaces the place of a shard on stable storage: a crash leaves the old or the new
// file.
func (p *places) keep(shard string, at place) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept.Shards[shard] = at
	return p.save()
}

// forget removes the shards that the stream has no more.
func (p *places) forget(known map[string]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.kept.Shards)
	for shard := range p.kept.Shards {
		if !known[shard] {
			delete(p.kept.Shards, shard)
		}
	}
	if len(p.kept.Shards) == before {
		return nil
	}
	return p.save()
}

func (p *places) save() error {
	data, err := json.Marshal(p.kept)
	if err != nil {
		return fmt.Errorf("write the places of the shards: %w", err)
	}
	temporary := p.file + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the places of the shards: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		// A rename that a power cut undoes gives older places, which repeats and loses nothing.
		err = os.Rename(temporary, p.file)
	}
	if err != nil {
		return fmt.Errorf("write the places of the shards: %w", err)
	}
	return nil
}
