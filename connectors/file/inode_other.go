//go:build !unix

package file

import (
	"io/fs"
	"syscall"
)

// inode is not known on this system; files are told apart by their beginning.
func inode(fs.FileInfo) uint64 { return 0 }

// noSpace are the errors of a full disk or quota.
func noSpace() []error { return []error{syscall.ENOSPC} }
