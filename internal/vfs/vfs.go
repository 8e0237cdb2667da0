// Package vfs is the narrow view of a filesystem that the durable queue needs,
// so that its behaviour under power cuts, failing disks and full disks can be
// tested call by call.
//
// [OS] is the real one. [Mem] forgets what was not synced, in the ways that real
// disks do. [WithHook] sees every call before it happens and may delay it or make
// it fail; [Gate] is a hook that holds back syncs until it is told to let go.
package vfs

import (
	"errors"
	"io"
)

// ErrLocked means that another process, or another opening, holds the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a filesystem. Names are slash-separated paths. It is safe for concurrent
// use.
//
// A file's name is durable only after SyncDir of its folder, and its content only
// after Datasync or Sync of the file. A rename replaces the target atomically.
type FS interface { //nolint:interfacebloat // one door to the operating system, kept in one place
	// Create makes a file, or empties the one that is there, for reading and writing.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// OpenRead opens an existing file for reading.
	OpenRead(name string) (File, error)
	// Rename moves a file within its folder.
	Rename(from, to string) error
	// Remove deletes a file.
	Remove(name string) error
	// List returns the names in a folder, sorted. A folder that is not there is
	// fs.ErrNotExist.
	List(dir string) ([]string, error)
	// Mkdir makes a folder and its parents. It is no error when it is there.
	Mkdir(dir string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
	// Lock takes the advisory lock of a file without waiting, creating the file for an
	// exclusive lock. ErrLocked means that somebody else has it.
	Lock(name string, shared bool) (io.Closer, error)
	// Space describes the filesystem that holds dir.
	Space(dir string) (Space, error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Datasync makes the content stable, and the size if it changed.
	Datasync() error
	// Sync makes content and metadata stable.
	Sync() error
	// Allocate makes the file size bytes long and takes the room for it. What was not
	// written reads as zeros. errors.ErrUnsupported means that the filesystem cannot.
	Allocate(size int64) error
	// Truncate sets the size.
	Truncate(size int64) error
	// Size returns the size.
	Size() (int64, error)
}

// Space is the room of a filesystem in bytes.
type Space struct {
	// Free is what an unprivileged process may still use.
	Free  uint64
	Total uint64
}
