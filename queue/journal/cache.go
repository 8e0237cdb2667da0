package journal

import (
	"slices"

	"github.com/linkspan/linkspan/queue/internal/plant"
)

// cache keeps recent blocks: those that were just written, and those that were just
// read. The oldest goes first. The index guards it.
type cache struct {
	limit  int64
	bytes  int64
	blocks map[place]*block
	order  []*block
}

func newCache(limit int64) cache { return cache{limit: limit, blocks: map[place]*block{}} }

// get returns the block if it is there and stands for all of its size on disk.
func (c *cache) get(at place, size int64) *block {
	if b := c.blocks[at]; b != nil && (b.covered == size || plant.On(plant.StaleCache)) {
		return b
	}
	return nil
}

// extend adds a frame that was just written at a distance from the block's start.
func (c *cache) extend(at place, distance int64, frame []byte, size int64) {
	b := c.blocks[at]
	switch {
	case size > c.limit/2 || b == nil && distance != 0 || b != nil && b.covered != distance:
		return
	case b == nil:
		b = &block{at: at, runs: map[uint32]*track{}}
		c.blocks[at] = b
		c.order = append(c.order, b)
	}
	before := cap(b.frames)
	b.append(frame, size)
	c.bytes += int64(cap(b.frames) - before)
	c.evict()
}

func (c *cache) put(b *block) {
	if int64(cap(b.frames)) > c.limit/2 {
		return
	}
	c.remove(c.blocks[b.at])
	c.blocks[b.at] = b
	c.order = append(c.order, b)
	c.bytes += int64(cap(b.frames))
	c.evict()
}

func (c *cache) evict() {
	for c.bytes > c.limit && len(c.order) > 1 {
		c.remove(c.order[0])
	}
}

func (c *cache) remove(b *block) {
	if b == nil || c.blocks[b.at] != b {
		return
	}
	delete(c.blocks, b.at)
	c.bytes -= int64(cap(b.frames))
	i := slices.Index(c.order, b)
	c.order = slices.Delete(c.order, i, i+1)
}

func (c *cache) drop(s *segment) {
	for _, b := range slices.Clone(c.order) {
		if b.at-place(b.at.pos()) == s.at(0) {
			c.remove(b)
		}
	}
}
