package journal_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

var update = flag.Bool("update", false, "write testdata/golden/v1-* anew")

const goldenDir = "testdata/golden"

// goldens are the directories that every later version has to read.
func goldens() map[string]struct {
	o    func(disk vfs.FS) journal.Options
	kill bool
} {
	plain := func(disk vfs.FS) journal.Options {
		o := small(disk)
		o.Now = func() time.Time { return time.Unix(1_800_000_000, 0) } // nothing gets too old
		o.SegmentSize, o.MaxSegmentSize, o.CheckpointBytes = 4<<10, 4<<10, 6<<10
		return o
	}
	staged := func(disk vfs.FS) journal.Options {
		o := plain(disk)
		o.DestageSegments, o.DestageAge = 1, time.Millisecond
		return o
	}
	encrypted := func(disk vfs.FS) journal.Options {
		o := staged(disk)
		o.Master = testMaster()
		return o
	}
	return map[string]struct {
		o    func(disk vfs.FS) journal.Options
		kill bool
	}{
		"v1-closed":    {plain, false},
		"v1-killed":    {plain, true},
		"v1-staged":    {staged, false},
		"v1-encrypted": {encrypted, false},
	}
}

// TestGolden opens directories of every released format and compares what is in them.
func TestGolden(t *testing.T) {
	for name, g := range goldens() {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(goldenDir, name)
			if *update {
				makeGolden(t, dir, g.o, g.kill)
			}
			want, err := os.ReadFile(filepath.Join(dir, "want.txt"))
			if err != nil {
				t.Fatal(err)
			}
			disk := loadGolden(t, dir)
			e, err := journal.Open(t.Context(), "/data", g.o(disk))
			if err != nil {
				t.Fatal(err)
			}
			got, err := describe(t.Context(), e)
			if err != nil {
				t.Error(err)
			}
			if got != string(want) {
				t.Errorf("content differs:\n%s", firstDifference(string(want), got))
			}
			if r := e.Report(); r.Status == journal.Damaged {
				t.Errorf("damage: %+v", r)
			}
			topic, err := e.Topic(t.Context(), "orders") // and it goes on
			if err != nil {
				t.Fatal(err)
			}
			if _, err := topic.Publish(t.Context(), []message.Message{msg("new")}); err != nil {
				t.Error(err)
			}
			if err := e.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// describe writes down everything that an engine shows.
func describe(ctx context.Context, e *journal.Engine) (string, error) {
	var out strings.Builder
	for _, name := range e.Topics() {
		topic, err := e.Topic(ctx, name)
		if err != nil {
			return "", err
		}
		st := topic.Stats()
		fmt.Fprintf(&out, "topic %s next %d messages %d options %+v\n", name, st.Next, st.Messages, st.Options)
		slices.SortFunc(st.Subscriptions, func(a, b queue.SubStats) int { return strings.Compare(a.Name, b.Name) })
		for _, s := range st.Subscriptions {
			fmt.Fprintf(&out, "  subscription %s floor %d backlog %d\n", s.Name, s.Floor, s.Backlog)
		}
		for r, err := range topic.Browse(ctx, queue.Start{}) {
			if err != nil {
				return "", err
			}
			m := &r.Message
			fmt.Fprintf(&out, "  %d %d %q %q %d %v %v %x\n", r.Offset, r.Appended.UnixNano(), m.ID, m.Key, m.Priority, m.NotBefore.UTC(), m.Expires.UTC(), crc32.ChecksumIEEE(m.Payload))
		}
	}
	return out.String(), nil
}

// makeGolden writes a directory with some of everything.
func makeGolden(t *testing.T, dir string, options func(disk vfs.FS) journal.Options, kill bool) {
	t.Helper()
	disk := vfs.NewMem()
	var want string
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		e, err := journal.Open(ctx, "/data", options(disk))
		if err != nil {
			t.Fatal(err)
		}
		if err := fillGolden(ctx, e); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if kill {
			dead := disk.Crash(rand.New(rand.NewPCG(1, 1)), vfs.KeepAll, true)
			defer func() { disk = dead }()
		}
		if want, err = describe(ctx, e); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if err := errors.Join(os.RemoveAll(dir), saveTree(disk, "/data", filepath.Join(dir, "data")),
		os.WriteFile(filepath.Join(dir, "want.txt"), []byte(want), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func fillGolden(ctx context.Context, e *journal.Engine) error {
	orders, err := e.Topic(ctx, "orders")
	if err != nil {
		return err
	}
	events, err := e.Topic(ctx, "events")
	if err != nil {
		return err
	}
	if err := events.Configure(ctx, queue.TopicOptions{Dedup: time.Hour, Keep: time.Hour}); err != nil {
		return err
	}
	sub, err := orders.Subscribe(ctx, "lanes", queue.SubOptions{})
	if err != nil {
		return err
	}
	for i := range 30 {
		x := msg(fmt.Sprint("order-", i))
		x.Payload, x.Key, x.Priority = x.Payload[:min(len(x.Payload), 300)], []byte{byte('a' + i%3)}, uint8(i%10)
		if i%7 == 0 {
			x.NotBefore, x.Expires = time.Unix(4_000_000_000, 0), time.Unix(5_000_000_000, 0)
		}
		if _, err := orders.Publish(ctx, []message.Message{x}); err != nil {
			return err
		}
		if _, err := events.Publish(ctx, []message.Message{{ID: fmt.Sprint("event-", i/2)}}); err != nil {
			return err
		}
	}
	records, err := sub.Receive(ctx, 12)
	if err != nil {
		return err
	}
	for i, r := range records {
		if i%3 == 0 {
			err = errors.Join(err, sub.Nack(0, r.Offset))
		} else {
			err = errors.Join(err, sub.Ack(r.Offset))
		}
	}
	return errors.Join(err, orders.Purge(ctx, queue.At(2)))
}

// saveTree copies a directory to the real disk.
func saveTree(disk *vfs.Mem, from, to string) error {
	names, err := disk.List(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		source, target := path.Join(from, name), filepath.Join(to, name)
		if below, err := disk.List(source); err == nil && len(below) > 0 || name == "journal" || name == "state" {
			if err := saveTree(disk, source, target); err != nil {
				return err
			}
			continue
		}
		f, err := disk.OpenRead(source)
		if err != nil {
			return err
		}
		size, err := f.Size()
		if err != nil {
			return err
		}
		data := make([]byte, size)
		if n, err := f.ReadAt(data, 0); n < len(data) {
			return err
		}
		if err := os.WriteFile(target, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// loadGolden copies a checked-in directory into memory.
func loadGolden(t *testing.T, dir string) *vfs.Mem {
	t.Helper()
	disk := vfs.NewMem()
	root := filepath.Join(dir, "data")
	err := filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		target := path.Join("/data", filepath.ToSlash(rel))
		if d.IsDir() {
			return disk.Mkdir(target)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := disk.Create(target)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(data, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// TestDowngrade shows that a directory of a later format is refused, says so, and stays
// as it is.
func TestDowngrade(t *testing.T) {
	disk := loadGolden(t, filepath.Join(goldenDir, "v1-closed"))
	line := "linkspan-queue 2 x"
	sum := crc32.Checksum([]byte(line), crc32.MakeTable(crc32.Castagnoli))
	f, err := disk.Create("/data/FORMAT")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%s %08x\n", line, sum), 0); err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(files(t, disk))
	for _, readOnly := range []bool{false, true} {
		o := small(disk)
		o.ReadOnly = readOnly
		_, err := journal.Open(t.Context(), "/data", o)
		if !errors.Is(err, journal.ErrFormat) || !strings.Contains(err.Error(), `"2"`) || !strings.Contains(err.Error(), "/data") {
			t.Errorf("open: %v, want ErrFormat that names the version and the directory", err)
		}
	}
	if _, err := journal.Verify(t.Context(), disk, "/data"); !errors.Is(err, journal.ErrFormat) {
		t.Errorf("verify: %v, want ErrFormat", err)
	}
	if after := fmt.Sprint(files(t, disk)); after != before {
		t.Error("the directory has changed")
	}
}
