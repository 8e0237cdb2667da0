package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"

	"github.com/linkspan/linkspan/internal/vfs"
)

// maxOpenFiles bounds the topic segments that are open at a time.
const maxOpenFiles = 64

// files are the topic segments that are open for reading. The one that was used least
// recently is closed first.
type files struct {
	fs  vfs.FS
	dir string

	mu     sync.Mutex
	list   []*openFile // the last one was used last
	closed bool
}

type openFile struct {
	number uint64
	file   vfs.File
	users  int
	gone   bool // close it when nobody uses it any more
}

// open opens a topic segment. The caller releases it.
func (f *files) open(s *segment) (*openFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("open topic segment: %w", fs.ErrClosed)
	}
	if i := slices.IndexFunc(f.list, func(o *openFile) bool { return o.number == s.number }); i >= 0 {
		o := f.list[i]
		f.list = append(slices.Delete(f.list, i, i+1), o)
		o.users++
		return o, nil
	}
	file, err := f.fs.OpenRead(path.Join(f.dir, s.path()))
	if err != nil {
		return nil, fmt.Errorf("open topic segment: %w", err)
	}
	if len(f.list) >= maxOpenFiles {
		if err := f.drop(0); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	o := &openFile{number: s.number, file: file, users: 1}
	f.list = append(f.list, o)
	return o, nil
}

func (f *files) release(o *openFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o.users--
	if o.gone && o.users == 0 {
		_ = o.file.Close() // it was open for reading only
	}
}

// drop closes a file as soon as nobody uses it. The lock is held.
func (f *files) drop(i int) error {
	o := f.list[i]
	f.list = slices.Delete(f.list, i, i+1)
	if o.users > 0 {
		o.gone = true
		return nil
	}
	return o.file.Close()
}

// forget closes a segment's file, if it is open.
func (f *files) forget(number uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(f.list, func(o *openFile) bool { return o.number == number }); i >= 0 {
		return f.drop(i)
	}
	return nil
}

// close closes all files, for good.
func (f *files) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	var errs []error
	for len(f.list) > 0 {
		errs = append(errs, f.drop(0))
	}
	return errors.Join(errs...)
}
