package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Survival says what a power cut leaves of content that was not synced.
type Survival int

// The survivals. In all but KeepAll the names that were not synced may be lost too.
const (
	// LoseAll: nothing that was not synced is left.
	LoseAll Survival = iota
	// KeepAll: everything is left. With names kept it is the death of the process alone:
	// what was not synced is there, and a power cut after it may still take it.
	KeepAll
	// KeepPages: each 4 KiB page is left or not, by chance.
	KeepPages
	// TearLast: all is left except the last write, which stops at a sector of 512 bytes.
	TearLast
)

// Survivals lists all survivals.
func Survivals() []Survival { return []Survival{LoseAll, KeepAll, KeepPages, TearLast} }

const (
	pageSize   = 4096
	sectorSize = 512
)

// Crash returns what the disk holds after a power cut now. m goes on unharmed.
// keepNames lets changes of names survive that were not synced.
func (m *Mem) Crash(rng *rand.Rand, mode Survival, keepNames bool) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &crash{rng: rng, mode: mode, keepNames: keepNames, done: map[*memNode]*memNode{}}
	return &Mem{root: c.node(m.root), locks: map[string]int{}, capacity: m.capacity}
}

type crash struct {
	rng       *rand.Rand
	mode      Survival
	keepNames bool
	done      map[*memNode]*memNode
}

func (c *crash) node(n *memNode) *memNode {
	if copied := c.done[n]; copied != nil {
		return copied
	}
	out := &memNode{}
	c.done[n] = out
	switch {
	case n.names == nil && c.processOnly():
		out.data, out.synced, out.writes = slices.Clone(n.data), slices.Clone(n.synced), slices.Clone(n.writes)
		return out
	case n.names == nil:
		out.synced = c.content(n)
		out.data = slices.Clone(out.synced)
		return out
	case c.processOnly():
		out.names, out.stable = c.nodes(n.names), c.nodes(n.stable)
		for _, op := range n.pending {
			if op.node != nil {
				op.node = c.node(op.node)
			}
			out.pending = append(out.pending, op)
		}
		return out
	}
	out.names = map[string]*memNode{}
	for name, child := range c.survivors(n) {
		out.names[name] = c.node(child)
	}
	out.stable = maps.Clone(out.names)
	return out
}

// processOnly reports whether only the process died: the system still has it all.
func (c *crash) processOnly() bool { return c.mode == KeepAll && c.keepNames }

func (c *crash) nodes(names map[string]*memNode) map[string]*memNode {
	out := make(map[string]*memNode, len(names))
	for name, n := range names {
		out[name] = c.node(n)
	}
	return out
}

// survivors returns the names of a folder after the cut. Changes of names reach
// the disk in their order, so what survives is a beginning of them.
func (c *crash) survivors(n *memNode) map[string]*memNode {
	keep := 0
	switch {
	case c.keepNames:
		keep = len(n.pending)
	case c.mode == KeepPages:
		keep = c.rng.IntN(len(n.pending) + 1)
	}
	names := maps.Clone(n.stable)
	for _, op := range n.pending[:keep] {
		if op.from != "" {
			delete(names, op.from)
		}
		if op.node == nil {
			delete(names, op.name)
			continue
		}
		names[op.name] = op.node
	}
	return names
}

func (c *crash) content(n *memNode) []byte {
	out := slices.Clone(n.synced)
	if len(n.writes) == 0 {
		return out
	}
	switch c.mode {
	case KeepAll:
		return slices.Clone(n.data)
	case KeepPages:
		return c.pages(n, out)
	case TearLast:
		for _, w := range n.writes[:len(n.writes)-1] {
			out = w.apply(out)
		}
		last := n.writes[len(n.writes)-1]
		if !last.cut {
			// Sectors are aligned to the file, so the first piece may be short.
			first := sectorSize - int(last.off%sectorSize)
			sectors := c.rng.IntN(len(last.data)/sectorSize + 2)
			keep := 0
			if sectors > 0 {
				keep = min(len(last.data), first+(sectors-1)*sectorSize)
			}
			last.data = last.data[:keep]
		}
		return last.apply(out)
	default:
		return out
	}
}

func (c *crash) pages(n *memNode, out []byte) []byte {
	if grown := len(n.data) - len(out); grown > 0 && c.rng.IntN(2) == 0 {
		// The size reaches the disk too, in steps.
		if c.rng.IntN(2) == 0 {
			grown = c.rng.IntN(grown)
		}
		out = resize(out, int64(len(out)+grown))
	}
	for at := 0; at < min(len(out), len(n.data)); at += pageSize {
		if c.rng.IntN(2) == 0 {
			copy(out[at:min(at+pageSize, len(out))], n.data[at:min(at+pageSize, len(n.data))])
		}
	}
	return out
}
