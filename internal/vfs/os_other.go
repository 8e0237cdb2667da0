//go:build !linux

package vfs

import (
	"errors"
	"os"
)

// datasync falls back to a full sync, which reaches the platter on every system
// that Go's own Sync takes care of.
func datasync(f *os.File) error { return f.Sync() }

// allocate is left to those who write.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }
