package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
)

// ErrFormat means that the directory was written by a newer version, or is not a
// queue.
var ErrFormat = errors.New("the data directory has a format that this version does not know")

const formatWord = "linkspan-queue"

// prepare takes the lock, makes the folders of a new directory and checks the format.
func (e *Engine) prepare(ctx context.Context) error {
	if e.o.ReadOnly {
		if _, err := readFormat(e.fs, e.dir); err != nil {
			return err
		}
		if err := e.takeLock(true); err != nil {
			return err
		}
		return e.openVault(ctx)
	}
	if err := e.fs.Mkdir(e.dir); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := e.takeLock(false); err != nil {
		return err
	}
	if err := e.openVault(ctx); err != nil {
		return err
	}
	for _, dir := range []string{journalDir, stateDir} {
		if err := e.fs.Mkdir(path.Join(e.dir, dir)); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	known, err := readFormat(e.fs, e.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if known {
		return nil
	}
	// Until the format is written, the folders may not be stable yet. The one above may
	// belong to somebody else.
	if err := e.fs.SyncDir(path.Dir(e.dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("sync folder above the data directory: %w", err)
	}
	if err := e.fs.SyncDir(e.dir); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return writeFormat(e.fs, e.dir)
}

func (e *Engine) takeLock(shared bool) error {
	lock, err := e.fs.Lock(path.Join(e.dir, lockName), shared)
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("lock %s: %w", e.dir, queue.ErrLocked)
	case shared && errors.Is(err, fs.ErrNotExist):
		return nil // no writer was ever here, as with a copy of the files
	case err != nil:
		return fmt.Errorf("lock data directory: %w", err)
	}
	e.lock = lock
	return nil
}

// readFormat reports whether the directory says which format it has. One that says so
// illegibly is taken for damaged, not for foreign: every frame has its own version.
func readFormat(fsys vfs.FS, dir string) (known bool, err error) {
	data, err := readFile(fsys, path.Join(dir, formatName))
	if err != nil {
		return false, fmt.Errorf("read format: %w", err)
	}
	line, sum, ok := cutLast(strings.TrimSuffix(string(data), "\n"))
	fields := strings.Fields(line)
	if !ok || sum != fmt.Sprintf("%08x", checksum([]byte(line))) || len(fields) != 3 || fields[0] != formatWord {
		return false, nil
	}
	if n, err := strconv.Atoi(fields[1]); err != nil || n != version {
		return false, fmt.Errorf("read format %q: %w", fields[1], ErrFormat)
	}
	return true, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func writeFormat(fsys vfs.FS, dir string) error {
	line := fmt.Sprintf("%s %d %s", formatWord, version, newUUID())
	text := fmt.Sprintf("%s %08x\n", line, checksum([]byte(line)))
	name := path.Join(dir, formatName)
	if err := writeFile(fsys, name+tmpExt, []byte(text)); err != nil {
		return fmt.Errorf("write format: %w", err)
	}
	if err := fsys.Rename(name+tmpExt, name); err != nil {
		return fmt.Errorf("write format: %w", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return nil
}

func writeFile(fsys vfs.FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
