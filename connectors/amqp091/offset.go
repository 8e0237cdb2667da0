package amqp091

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// parseOffset returns an offset of a stream as the argument x-stream-offset.
func parseOffset(s string) (any, error) {
	switch s {
	case "", "first", "last", "next":
		return s, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, fmt.Errorf("offset: %w", err)
	}
	return t, nil
}

// position is the offset of the last message of a stream that was handed on. It is kept in
// DIR/offset.json.
type position struct {
	Connect string `json:"connect"`
	Queue   string `json:"queue"`
	Offset  int64  `json:"offset"`
}

func positionFile(dir string) string { return filepath.Join(dir, "offset.json") }

// load returns the offset that was kept for this stream, and whether there is one.
func (p *position) load(dir string) (bool, error) {
	data, err := os.ReadFile(positionFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read offset: %w", err)
	}
	var kept position
	if err := json.Unmarshal(data, &kept); err != nil {
		return false, fmt.Errorf("read offset %s: %w", positionFile(dir), err)
	}
	if kept.Connect != p.Connect || kept.Queue != p.Queue {
		return false, nil // the input reads another stream now
	}
	p.Offset = kept.Offset
	return true, nil
}

// save replaces the offset on stable storage: a crash leaves the old or the new one.
func (p *position) save(dir string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write offset: %w", err)
	}
	temporary := positionFile(dir) + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write offset: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		// A rename that a power cut undoes gives an older offset, which repeats and loses
		// nothing.
		err = os.Rename(temporary, positionFile(dir))
	}
	if err != nil {
		return fmt.Errorf("write offset: %w", err)
	}
	return nil
}
