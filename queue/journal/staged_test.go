package journal_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/queuetest"
)

// The contract holds while everything is copied and encrypted all the time.
func TestConformanceStaged(t *testing.T) {
	for name, m := range map[string]journal.Master{"plain": nil, "encrypted": testMaster()} {
		t.Run(name, func(t *testing.T) {
			queuetest.Run(t, func(*testing.T) queuetest.Features {
				o := staging(vfs.NewMem())
				o.SegmentSize, o.CheckpointBytes, o.CacheBytes, o.Master = 4<<10, 1, 1, m
				return queuetest.Features{Durable: true, Open: func(t *testing.T) queue.Engine {
					t.Helper()
					return mustOpen(t, o)
				}}
			})
		})
	}
}

// While the keeper of the master key is away, copying waits and everything else goes on.
func TestMasterAway(t *testing.T) {
	m := &failing{Master: testMaster()}
	mem := vfs.NewMem()
	o := staging(mem)
	o.Master = m
	e := mustOpen(t, o)
	m.away.Store(true)
	publishMarked(t, e, "a", 0, 300)
	if n := countMarked(t, e, "a"); n != 300 {
		t.Errorf("%d of 300 messages", n)
	}
	if names := topicFiles(t, mem); len(names) > 0 || e.Health() != nil {
		t.Errorf("%v, %v", names, e.Health())
	}
	m.away.Store(false)
	until(t, "topic segments", func() bool { return len(topicFiles(t, mem)) > 0 })
	if n := countMarked(t, e, "a"); n != 300 {
		t.Errorf("%d of 300 messages", n)
	}
	mustClose(t, e)
}

type failing struct {
	journal.Master

	away atomic.Bool
}

func (f *failing) Wrap(ctx context.Context, key []byte) (string, []byte, error) {
	if f.away.Load() {
		return "", nil, errors.New("the key management service is away")
	}
	return f.Master.Wrap(ctx, key)
}

// Memory and open files do not grow with what was copied: many topic segments are read
// through few open files.
func TestOpenFilesAreBounded(t *testing.T) {
	var open, most atomic.Int64
	fs := &counting{FS: vfs.NewMem(), open: &open, most: &most}
	o := staging(fs)
	o.MaxSegmentSize = o.SegmentSize
	e := mustOpen(t, o)
	const topics = 150
	for round := range 4 {
		for i := range topics {
			publishMarked(t, e, string(rune('a'+i%26))+string(rune('a'+i/26)), round, 1)
		}
	}
	for range 3 {
		for i := range topics {
			if n := countMarked(t, e, string(rune('a'+i%26))+string(rune('a'+i/26))); n != 4 {
				t.Errorf("topic %d: %d of 4 messages", i, n)
			}
		}
	}
	if most.Load() > 64+3 || most.Load() == 0 {
		t.Errorf("%d topic segments were open at a time", most.Load())
	}
	mustClose(t, e)
	if open.Load() != 0 {
		t.Errorf("%d topic segments are left open", open.Load())
	}
}

// counting counts the files that are open for reading.
type counting struct {
	vfs.FS

	open, most *atomic.Int64
}

func (c *counting) OpenRead(name string) (vfs.File, error) {
	f, err := c.FS.OpenRead(name)
	if err != nil || len(name) < 3 || name[len(name)-3:] != ".ls" {
		return f, err
	}
	n := c.open.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	return &countedFile{File: f, open: c.open}, nil
}

type countedFile struct {
	vfs.File

	open *atomic.Int64
}

func (f *countedFile) Close() error {
	f.open.Add(-1)
	return f.File.Close()
}

// A receiver that is reading a topic segment while the engine is being closed comes to
// an end.
func TestReadWhileClosing(t *testing.T) {
	text := make([]byte, 2000)
	for range 20 {
		o := staging(vfs.NewMem())
		o.CacheBytes = 1
		e := mustOpen(t, o)
		topic, err := e.Topic(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			if _, err := topic.Publish(t.Context(), []message.Message{{Payload: text}}); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "topic segments", func() bool { return len(topicFiles(t, o.FS)) > 0 })
		g := run.NewGroup(t.Context())
		started := make(chan struct{}, 4)
		for range 4 {
			g.Go("reader", func(ctx context.Context) error {
				for {
					for _, err := range topic.Browse(ctx, queue.Start{}) {
						if errors.Is(err, queue.ErrClosed) {
							return nil
						} else if err != nil {
							return err
						}
						select {
						case started <- struct{}{}:
						default:
						}
					}
				}
			})
		}
		<-started
		mustClose(t, e)
		if err := g.Wait(); err != nil {
			t.Errorf("a reader met %v", err)
		}
	}
}
