package vfs

import (
	"context"
	"errors"
	"io"
	"sync"
)

// Op names a call of [FS] or [File].
type Op string

// The calls that a [Hook] sees.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpList     Op = "list"
	OpMkdir    Op = "mkdir"
	OpSyncDir  Op = "syncdir"
	OpLock     Op = "lock"
	OpSpace    Op = "space"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpDatasync Op = "datasync"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
)

// Changes reports whether the call changes what is stored or how stable it is.
func (o Op) Changes() bool {
	switch o {
	case OpOpen, OpList, OpLock, OpSpace, OpRead:
		return false
	default:
		return true
	}
}

// ErrShortWrite makes a hooked WriteAt write half of its bytes and fail.
var ErrShortWrite = errors.New("short write")

// Hook runs before a call. An error makes the call fail without being made.
type Hook func(op Op, name string) error

// WithHook returns fs with the hook before each call. The name of an open file follows
// its renames.
func WithHook(fs FS, hook Hook) FS {
	return &hooked{fs: fs, hook: hook, open: map[*hookedFile]string{}}
}

type hooked struct {
	fs   FS
	hook Hook

	mu   sync.Mutex
	open map[*hookedFile]string // their names
}

func (h *hooked) file(op Op, name string, open func(string) (File, error)) (File, error) {
	if err := h.hook(op, name); err != nil {
		return nil, err
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	file := &hookedFile{File: f, h: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[file] = name
	return file, nil
}

func (h *hooked) Create(name string) (File, error)   { return h.file(OpCreate, name, h.fs.Create) }
func (h *hooked) Open(name string) (File, error)     { return h.file(OpOpen, name, h.fs.Open) }
func (h *hooked) OpenRead(name string) (File, error) { return h.file(OpOpen, name, h.fs.OpenRead) }

func (h *hooked) Rename(from, to string) error {
	if err := h.hook(OpRename, to); err != nil {
		return err
	}
	if err := h.fs.Rename(from, to); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for f, name := range h.open {
		if name == from {
			h.open[f] = to
		}
	}
	return nil
}

func (h *hooked) Remove(name string) error {
	if err := h.hook(OpRemove, name); err != nil {
		return err
	}
	return h.fs.Remove(name)
}

func (h *hooked) List(dir string) ([]string, error) {
	if err := h.hook(OpList, dir); err != nil {
		return nil, err
	}
	return h.fs.List(dir)
}

func (h *hooked) Mkdir(dir string) error {
	if err := h.hook(OpMkdir, dir); err != nil {
		return err
	}
	return h.fs.Mkdir(dir)
}

func (h *hooked) SyncDir(dir string) error {
	if err := h.hook(OpSyncDir, dir); err != nil {
		return err
	}
	return h.fs.SyncDir(dir)
}

func (h *hooked) Lock(name string, shared bool) (io.Closer, error) {
	if err := h.hook(OpLock, name); err != nil {
		return nil, err
	}
	return h.fs.Lock(name, shared)
}

func (h *hooked) Space(dir string) (Space, error) {
	if err := h.hook(OpSpace, dir); err != nil {
		return Space{}, err
	}
	return h.fs.Space(dir)
}

type hookedFile struct {
	File
	h *hooked
}

// before runs the hook for a call to the file.
func (f *hookedFile) before(op Op) error {
	f.h.mu.Lock()
	name := f.h.open[f]
	f.h.mu.Unlock()
	return f.h.hook(op, name)
}

// Close has no hook: nothing depends on what it says.
func (f *hookedFile) Close() error {
	f.h.mu.Lock()
	delete(f.h.open, f)
	f.h.mu.Unlock()
	return f.File.Close()
}

func (f *hookedFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.before(OpRead); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *hookedFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.before(OpWrite)
	if errors.Is(err, ErrShortWrite) {
		n, werr := f.File.WriteAt(p[:len(p)/2], off)
		return n, errors.Join(err, werr)
	}
	if err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *hookedFile) Datasync() error {
	if err := f.before(OpDatasync); err != nil {
		return err
	}
	return f.File.Datasync()
}

func (f *hookedFile) Sync() error {
	if err := f.before(OpSync); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *hookedFile) Allocate(size int64) error {
	if err := f.before(OpAllocate); err != nil {
		return err
	}
	return f.File.Allocate(size)
}

func (f *hookedFile) Truncate(size int64) error {
	if err := f.before(OpTruncate); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Gate holds back Datasync, so that a test can show that nothing is acknowledged
// before it. It starts open. Use it as WithHook(fs, gate.Hook).
type Gate struct {
	mu      sync.Mutex
	open    chan struct{} // closed while the gate is open
	arrived chan struct{} // one token for each held call
}

// NewGate returns an open gate.
func NewGate() *Gate {
	g := &Gate{open: make(chan struct{}), arrived: make(chan struct{}, 1024)}
	close(g.open)
	return g
}

// Hold closes the gate: the next Datasync waits.
func (g *Gate) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		g.open = make(chan struct{})
	default:
	}
}

// Release opens the gate and lets every held call go on.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// Arrived waits until a Datasync is held.
func (g *Gate) Arrived(ctx context.Context) error {
	select {
	case <-g.arrived:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hook is the [Hook] of the gate.
func (g *Gate) Hook(op Op, _ string) error {
	if op != OpDatasync {
		return nil
	}
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
		return nil
	default:
	}
	select {
	case g.arrived <- struct{}{}:
	default:
	}
	<-open
	return nil
}
