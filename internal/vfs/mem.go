package vfs

import (
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a filesystem in memory that knows which of its content is stable, so
// that [Mem.Crash] can show what a power cut leaves behind.
type Mem struct {
	mu       sync.Mutex
	root     *memNode
	locks    map[string]int // holders; -1 is exclusive
	capacity uint64
}

// memNode is a file or a folder.
type memNode struct {
	// Of a folder: names now, names that survive, and what happened in between.
	names   map[string]*memNode
	stable  map[string]*memNode
	pending []memNameOp
	// Of a file: content now, content that survives, and the writes in between.
	data   []byte
	synced []byte
	writes []memWrite
}

type memNameOp struct {
	name string
	node *memNode // nil: the name went away
	from string   // of a rename: the name that goes away with it
}

// memWrite is a write, or with cut set a truncation to off.
type memWrite struct {
	off  int64
	data []byte
	cut  bool
}

// memCapacity is the room of a new Mem.
const memCapacity = 1 << 40

// NewMem returns an empty filesystem with room for a tebibyte.
func NewMem() *Mem {
	return &Mem{root: newMemDir(), locks: map[string]int{}, capacity: memCapacity}
}

func newMemDir() *memNode {
	return &memNode{names: map[string]*memNode{}, stable: map[string]*memNode{}}
}

// SetCapacity bounds the bytes of all files; a write beyond it is ENOSPC.
func (m *Mem) SetCapacity(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = n
}

// Flip inverts one bit of a file, as a decaying disk does. It reports whether the
// file reaches that far.
func (m *Mem) Flip(name string, bit int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil || bit/8 >= int64(len(n.data)) {
		return false
	}
	n.data[bit/8] ^= 1 << (bit % 8)
	if bit/8 < int64(len(n.synced)) {
		n.synced[bit/8] ^= 1 << (bit % 8)
	}
	return true
}

// Forget makes what was written to a file and not synced impossible to sync, as a
// failed fsync does: reads see it until the next crash, which takes it.
func (m *Mem) Forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, err := m.find(name); err == nil {
		n.writes = nil
	}
}

func clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

func (m *Mem) find(name string) (*memNode, error) {
	n := m.root
	name = clean(name)
	for name != "" {
		first, rest, _ := strings.Cut(name, "/")
		child := n.names[first]
		if child == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		n, name = child, rest
	}
	return n, nil
}

func (m *Mem) parent(name string) (*memNode, string, error) {
	dir, base := path.Split(clean(name))
	n, err := m.find(dir)
	return n, base, err
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return nil, err
	}
	n := dir.names[base]
	if n == nil {
		n = &memNode{}
		dir.names[base] = n
		dir.pending = append(dir.pending, memNameOp{name: base, node: n})
	}
	n.truncate(0)
	return &memFile{m: m, n: n}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n}, nil
}

// OpenRead implements FS.
func (m *Mem) OpenRead(name string) (File, error) { return m.Open(name) }

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(from)
	if err != nil {
		return err
	}
	n := dir.names[base]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	target := path.Base(clean(to))
	delete(dir.names, base)
	dir.names[target] = n
	dir.pending = append(dir.pending, memNameOp{name: target, node: n, from: base})
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return err
	}
	if dir.names[base] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(dir.names, base)
	dir.pending = append(dir.pending, memNameOp{name: base})
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(dir)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

// Mkdir implements FS.
func (m *Mem) Mkdir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for part := range strings.SplitSeq(clean(dir), "/") {
		child := n.names[part]
		if child == nil {
			child = newMemDir()
			n.names[part] = child
			n.pending = append(n.pending, memNameOp{name: part, node: child})
		}
		n = child
	}
	return nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(dir)
	if err != nil {
		return err
	}
	n.stable = maps.Clone(n.names)
	n.pending = nil
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(name string, shared bool) (io.Closer, error) {
	if _, err := m.Open(name); err != nil {
		if shared {
			return nil, err
		}
		if _, err := m.Create(name); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.locks[name]
	if held < 0 || held > 0 && !shared {
		return nil, ErrLocked
	}
	l := &memLock{m: m, name: name, step: 1}
	if !shared {
		l.step = -1
	}
	m.locks[name] += l.step
	return l, nil
}

type memLock struct {
	m    *Mem
	name string
	step int
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.locks[l.name] -= l.step
	l.step = 0
	return nil
}

// Space implements FS.
func (m *Mem) Space(string) (Space, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := m.root.used()
	return Space{Free: m.capacity - min(used, m.capacity), Total: m.capacity}, nil
}

func (n *memNode) used() uint64 {
	sum := uint64(len(n.data))
	for _, child := range n.names {
		sum += child.used()
	}
	return sum
}

func (n *memNode) truncate(size int64) {
	n.data = resize(n.data, size)
	n.writes = append(n.writes, memWrite{off: size, cut: true})
}

func resize(b []byte, size int64) []byte {
	if int64(len(b)) >= size {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// apply returns b with the write in it.
func (w memWrite) apply(b []byte) []byte {
	if w.cut {
		return resize(b, w.off)
	}
	if end := w.off + int64(len(w.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[w.off:], w.data)
	return b
}

type memFile struct {
	m *Mem
	n *memNode
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if grow := off + int64(len(p)) - int64(len(f.n.data)); grow > 0 && f.m.root.used()+uint64(grow) > f.m.capacity {
		return 0, syscall.ENOSPC
	}
	w := memWrite{off: off, data: slices.Clone(p)}
	f.n.data = w.apply(f.n.data)
	f.n.writes = append(f.n.writes, w)
	return len(p), nil
}

func (f *memFile) Datasync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, w := range f.n.writes {
		f.n.synced = w.apply(f.n.synced)
	}
	f.n.writes = nil
	return nil
}

func (f *memFile) Allocate(size int64) error {
	now, err := f.Size()
	if err != nil || size <= now {
		return err
	}
	_, err = f.WriteAt(make([]byte, size-now), now)
	return err
}

func (f *memFile) Sync() error { return f.Datasync() }

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.truncate(size)
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memFile) Close() error { return nil }
