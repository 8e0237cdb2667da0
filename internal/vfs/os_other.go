//go:build !linux

package vfs

import "os"

// datasync falls back to a full sync, which reaches the platter on every system
// that Go's own Sync takes care of.
func datasync(f *os.File) error { return f.Sync() }
