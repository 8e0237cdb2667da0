package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
)

// raw measures what the disk can do: one write of 1 KiB and fdatasync after the other,
// into a file whose blocks were written before.
func raw(dir string, pool []byte, w window) (latencies, error) {
	const size = 64 << 20
	name := filepath.Join(dir, "raw")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		return nil, err
	}
	f, err := vfs.OS().Open(name)
	if err != nil {
		return nil, err
	}
	l, err := rawWrites(f, size, pool, w)
	slices.Sort(l)
	return l, errors.Join(err, f.Close(), os.Remove(name))
}

func rawWrites(f vfs.File, size int64, pool []byte, w window) (l latencies, err error) {
	if err := f.Sync(); err != nil {
		return nil, err
	}
	payload := payloads(pool, 0)
	for at, start := int64(0), time.Now(); start.Before(w.to); at += payloadSize {
		if _, err := f.WriteAt(payload(), at%size); err != nil {
			return nil, err
		}
		if err := f.Datasync(); err != nil {
			return nil, err
		}
		end := time.Now()
		if w.has(end) {
			l = append(l, end.Sub(start))
		}
		start = end
	}
	return l, nil
}
