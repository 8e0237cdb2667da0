package pipelines

import (
	"sync"
	"sync/atomic"
)

// counters are plain atomics, added once a message or batch and read when somebody
// scrapes them.
type counters struct {
	drops table
	codes table
}

type sourceCounters struct {
	received atomic.Uint64
	refused  atomic.Uint64
	restarts atomic.Uint64
}

type sinkCounters struct {
	delivered   atomic.Uint64
	refused     atomic.Uint64
	unavailable atomic.Uint64
}

func (c *counters) drop(by string)   { c.drops.add(by) }
func (c *counters) dead(code string) { c.codes.add(code) }

// table counts by a name out of a small, fixed set.
type table struct{ counts sync.Map }

func (t *table) add(name string) {
	n, ok := t.counts.Load(name)
	if !ok {
		n, _ = t.counts.LoadOrStore(name, new(atomic.Uint64))
	}
	n.(*atomic.Uint64).Add(1) //nolint:forcetypeassert // nothing else is stored
}

func (t *table) read() map[string]uint64 {
	out := map[string]uint64{}
	t.counts.Range(func(k, v any) bool {
		out[k.(string)] = v.(*atomic.Uint64).Load() //nolint:forcetypeassert // nothing else is stored
		return true
	})
	return out
}
