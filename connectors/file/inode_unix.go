//go:build unix

package file

import (
	"io/fs"
	"syscall"
)

// inode returns the number of a file, which a rename does not change; 0: unknown.
func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Ino) //nolint:unconvert // the type differs between systems
	}
	return 0
}

// noSpace are the errors of a full disk or quota.
func noSpace() []error { return []error{syscall.ENOSPC, syscall.EDQUOT} }
