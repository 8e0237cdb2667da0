package journal_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/journal"
)

// battery chooses how much the batteries do: a share of it in `make test`, all of it
// with -battery long in `make test-long`, and -battery N times that in a night.
var battery = flag.String("battery", "short", "short, long, or a factor of long for the batteries of the queue")

func TestMain(m *testing.M) {
	flag.Parse()
	if *battery != "short" && *battery != "plants" { // rapid reads its own flags; the model's size belongs to the battery
		_ = flag.Set("rapid.checks", "2000")
		_ = flag.Set("rapid.steps", "200")
	}
	goleak.VerifyTestMain(m)
}

// amount returns how many of something a battery does.
func amount(t *testing.T, short, long int) int {
	t.Helper()
	switch *battery {
	case "short":
		return short
	case "long":
		return long
	case "plants": // enough to find any of them
		return long / 4
	}
	factor := 0
	for _, c := range *battery {
		if c < '0' || c > '9' {
			t.Fatalf("-battery %s: want short, long or a number", *battery)
		}
		factor = factor*10 + int(c-'0')
	}
	return factor * long
}

// seed is another one each time when LINKSPAN_SEED is "random", so that nights differ.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	if os.Getenv("LINKSPAN_SEED") != "random" {
		return 1
	}
	seed := rand.Uint64N(1 << 40)
	t.Logf("seed %d", seed)
	return seed
}

// pool runs jobs beside each other, as many as there are processors.
type pool struct {
	slots chan struct{}
	wg    sync.WaitGroup
}

func newPool() *pool { return &pool{slots: make(chan struct{}, runtime.GOMAXPROCS(0))} }

// do waits for a free processor and starts f on it.
func (p *pool) do(f func()) {
	p.slots <- struct{}{}
	p.wg.Go(func() {
		defer func() { <-p.slots }()
		f()
	})
}

func (p *pool) wait() { p.wg.Wait() }

// small returns options that make every transition happen often.
func small(disk vfs.FS) journal.Options {
	return journal.Options{
		FS: disk, SegmentSize: 8 << 10, MaxSegmentSize: 16 << 10, CheckpointBytes: 12 << 10,
		CacheBytes: 32 << 10, AckDelay: time.Millisecond, Reserve: 1,
		DestageSegments: 1 << 20, DestageAge: time.Hour, // the journal keeps everything
	}
}

// staging returns small options that copy to topic segments all the time.
func staging(disk vfs.FS) journal.Options {
	o := small(disk)
	o.DestageSegments, o.DestageAge = 1, time.Millisecond
	return o
}

// varied returns small options that differ by seed.
func varied(disk vfs.FS, seed uint64) journal.Options {
	rng := rand.New(rand.NewPCG(seed, 5))
	o := staging(disk)
	o.SegmentSize = []int64{4 << 10, 6 << 10, 8 << 10}[rng.IntN(3)]
	o.MaxSegmentSize = o.SegmentSize << rng.IntN(3)
	o.CheckpointBytes = []int64{1, 2 << 10, 6 << 10, 12 << 10, 1 << 20}[rng.IntN(5)]
	o.CacheBytes = []int64{1, 8 << 10, 32 << 10, 1 << 20}[rng.IntN(4)]
	if rng.IntN(3) == 0 { // the journal keeps everything
		o.DestageSegments, o.DestageAge = 1<<20, time.Hour
	}
	if rng.IntN(2) == 0 {
		o.Master = testMaster()
	}
	return o
}
