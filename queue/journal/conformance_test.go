package journal_test

import (
	"testing"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/queuetest"
)

func TestConformance(t *testing.T) {
	open := func(dir string, o journal.Options) func(t *testing.T) queue.Engine {
		return func(t *testing.T) queue.Engine {
			t.Helper()
			e, err := journal.Open(t.Context(), dir, o)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	t.Run("on disk", func(t *testing.T) {
		queuetest.Run(t, func(t *testing.T) queuetest.Features {
			t.Helper()
			return queuetest.Features{Durable: true, Open: open(t.TempDir(), journal.Options{})}
		})
	})
	t.Run("in memory with small segments and cache", func(t *testing.T) {
		queuetest.Run(t, func(*testing.T) queuetest.Features {
			o := journal.Options{
				FS: vfs.NewMem(), SegmentSize: 4 << 10, MaxSegmentSize: 64 << 10,
				CheckpointBytes: 2 << 10, CacheBytes: 1,
			}
			return queuetest.Features{Durable: true, Open: open("/data", o)}
		})
	})
}
