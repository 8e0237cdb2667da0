package vfs

import (
	"fmt"
	"io"
	"os"
)

// OS returns the operating system's filesystem.
func OS() FS { return osFS{} }

type osFS struct{}

type osFile struct{ *os.File }

// Only the owner may read what passes through the queue.
const (
	filePerm = 0o600
	dirPerm  = 0o700
)

func wrapFile(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Create(name string) (File, error) {
	return wrapFile(os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm))
}

func (osFS) Open(name string) (File, error) {
	return wrapFile(os.OpenFile(name, os.O_RDWR, 0))
}

func (osFS) OpenRead(name string) (File, error) {
	return wrapFile(os.Open(name))
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }
func (osFS) Mkdir(dir string) error       { return os.MkdirAll(dir, dirPerm) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) Lock(name string, shared bool) (io.Closer, error) {
	flag := os.O_RDWR | os.O_CREATE
	if shared {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(name, flag, filePerm)
	if err != nil {
		return nil, err
	}
	if err := lock(f, shared); err != nil {
		_ = f.Close() // the lock is what failed
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil // closing the file gives the lock back
}

func (osFS) Space(dir string) (Space, error) { return space(dir) }

func (f osFile) Datasync() error { return datasync(f.File) }

func (f osFile) Allocate(size int64) error { return allocate(f.File, size) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
