package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"syscall"
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
)

// each runs a test on the real filesystem and on the one in memory.
func each(t *testing.T, f func(t *testing.T, disk vfs.FS, dir string)) {
	t.Helper()
	t.Run("os", func(t *testing.T) { f(t, vfs.OS(), t.TempDir()) })
	t.Run("mem", func(t *testing.T) { f(t, vfs.NewMem(), "/tmp/dir") })
}

func write(t *testing.T, disk vfs.FS, name, text string, sync bool) {
	t.Helper()
	f, err := disk.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := f.Datasync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(disk vfs.FS, name string) string {
	f, err := disk.OpenRead(name)
	if err != nil {
		return "-"
	}
	size, err := f.Size()
	if err != nil {
		return err.Error()
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return err.Error()
	}
	return string(b)
}

func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, disk vfs.FS, dir string) {
		sub := path.Join(dir, "a", "b")
		if err := errors.Join(disk.Mkdir(sub), disk.Mkdir(sub)); err != nil {
			t.Fatal(err)
		}
		write(t, disk, path.Join(sub, "x"), "one", true)
		if err := disk.Rename(path.Join(sub, "x"), path.Join(sub, "y")); err != nil {
			t.Fatal(err)
		}
		write(t, disk, path.Join(sub, "x"), "two", false)
		names, err := disk.List(sub)
		if err != nil || !slices.Equal(names, []string{"x", "y"}) {
			t.Errorf("list: %v, %v", names, err)
		}
		if got := read(disk, path.Join(sub, "y")); got != "one" {
			t.Errorf("read %q", got)
		}
		if err := errors.Join(disk.Remove(path.Join(sub, "x")), disk.SyncDir(sub)); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{disk.Remove(path.Join(sub, "x")), func() error { _, err := disk.Open(path.Join(sub, "x")); return err }()} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v, want ErrNotExist", err)
			}
		}
		if s, err := disk.Space(sub); err != nil || s.Total == 0 || s.Free > s.Total {
			t.Errorf("space %+v, %v", s, err)
		}
	})
}

func TestLocks(t *testing.T) {
	each(t, func(t *testing.T, disk vfs.FS, dir string) {
		if err := disk.Mkdir(dir); err != nil {
			t.Fatal(err)
		}
		name := path.Join(dir, "LOCK")
		if _, err := disk.Lock(name, true); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("shared lock of nothing: %v", err)
		}
		one, err := disk.Lock(name, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, shared := range []bool{true, false} {
			if _, err := disk.Lock(name, shared); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("second lock: %v, want ErrLocked", err)
			}
		}
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		two, err := disk.Lock(name, true)
		if err != nil {
			t.Fatal(err)
		}
		three, err := disk.Lock(name, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := disk.Lock(name, false); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("exclusive beside shared: %v, want ErrLocked", err)
		}
		if err := errors.Join(two.Close(), three.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCrash(t *testing.T) {
	m := vfs.NewMem()
	if err := errors.Join(m.Mkdir("/d"), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	write(t, m, "/d/named", "stable", true)
	if err := m.SyncDir("/d"); err != nil {
		t.Fatal(err)
	}
	write(t, m, "/d/unnamed", "stable", true)
	f, err := m.Open("/d/named")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("VOLATILE"), 0); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		mode           vfs.Survival
		names          bool
		named, unnamed string
	}{
		{vfs.LoseAll, false, "stable", "-"},
		{vfs.LoseAll, true, "stable", "stable"},
		{vfs.KeepAll, false, "VOLATILE", "-"},
		{vfs.KeepAll, true, "VOLATILE", "stable"},
	} {
		disk := m.Crash(rng, c.mode, c.names)
		if a, b := read(disk, "/d/named"), read(disk, "/d/unnamed"); a != c.named || b != c.unnamed {
			t.Errorf("survival %d, names %v: %q and %q, want %q and %q", c.mode, c.names, a, b, c.named, c.unnamed)
		}
	}
	seen := map[string]bool{}
	for range 50 {
		seen[read(m.Crash(rng, vfs.TearLast, true), "/d/named")] = true
		seen[read(m.Crash(rng, vfs.KeepPages, true), "/d/named")] = true
	}
	for text := range seen {
		if n := len(text); n < 6 || text != "VOLATILE"[:n] && text != "stable\x00\x00"[:n] {
			t.Errorf("content %q cannot be", text)
		}
	}
	if read(m, "/d/named") != "VOLATILE" {
		t.Error("the live filesystem changed")
	}
}

// What only the death of the process left is not stable yet.
func TestCrashTwice(t *testing.T) {
	m := vfs.NewMem()
	if err := errors.Join(m.Mkdir("/d"), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	write(t, m, "/d/x", "volatile", false)
	rng := rand.New(rand.NewPCG(1, 1))
	dead := m.Crash(rng, vfs.KeepAll, true)
	if got := read(dead, "/d/x"); got != "volatile" {
		t.Errorf("after the death of the process: %q", got)
	}
	if got := read(dead.Crash(rng, vfs.LoseAll, false), "/d/x"); got != "-" {
		t.Errorf("the name survived a power cut after it: %q", got)
	}
	if got := read(dead.Crash(rng, vfs.LoseAll, true), "/d/x"); got != "" {
		t.Errorf("the content survived a power cut after it: %q", got)
	}
}

// What a failed sync forgot cannot be synced any more.
func TestForget(t *testing.T) {
	m := vfs.NewMem()
	write(t, m, "/x", "forgotten", false)
	m.Forget("/x")
	f, err := m.Open("/x")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Datasync(), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	if got := read(m, "/x"); got != "forgotten" {
		t.Errorf("read %q before the crash", got)
	}
	if got := read(m.Crash(rand.New(rand.NewPCG(1, 1)), vfs.LoseAll, false), "/x"); got != "" {
		t.Errorf("read %q after it", got)
	}
}

func TestCapacity(t *testing.T) {
	m := vfs.NewMem()
	m.SetCapacity(10)
	f, err := m.Create("/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 11), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v, want ENOSPC", err)
	}
	if _, err := f.WriteAt(make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
}

func TestHook(t *testing.T) {
	m := vfs.NewMem()
	var calls []string
	var fail error
	disk := vfs.WithHook(m, func(op vfs.Op, name string) error {
		calls = append(calls, fmt.Sprint(op, " ", name))
		return fail
	})
	f, err := disk.Create("/x")
	if err != nil {
		t.Fatal(err)
	}
	fail = vfs.ErrShortWrite
	if n, err := f.WriteAt([]byte("abcd"), 0); n != 2 || !errors.Is(err, vfs.ErrShortWrite) {
		t.Errorf("wrote %d, %v", n, err)
	}
	fail = syscall.EIO
	if err := f.Datasync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	if want := []string{"create /x", "write /x", "datasync /x"}; !slices.Equal(calls, want) {
		t.Errorf("calls %v, want %v", calls, want)
	}
	if read(m, "/x") != "ab" {
		t.Errorf("content %q", read(m, "/x"))
	}
}
