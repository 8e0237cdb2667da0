package jsonscan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// maxStates bounds the automaton of a Set. Only piles of [*] and [0] over the same deep arrays come near it.
const maxStates = 1 << 16

// none is the state of a value that no path of the set leads to or through.
const none = int32(-1)

// Builder collects the paths of a plan. The zero value is ready.
type Builder struct {
	paths []Path
	slots map[string]int
	kids  [][]int // slots of the paths one element longer, by slot
}

// Add returns the slot of the path; the same path always gets the same slot. The ancestors of the path become slots
// too. Slot 0 is the whole document.
func (b *Builder) Add(p Path) int {
	if b.slots == nil {
		b.slots = map[string]int{"": 0}
		b.paths = []Path{{}}
		b.kids = [][]int{nil}
	}
	parent := 0
	for i := range p {
		key := p[:i+1].String()
		slot, ok := b.slots[key]
		if !ok {
			slot = len(b.paths)
			b.slots[key] = slot
			b.paths = append(b.paths, slices.Clone(p[:i+1]))
			b.kids = append(b.kids, nil)
			b.kids[parent] = append(b.kids[parent], slot)
		}
		parent = slot
	}
	return parent
}

// AddText parses the path and adds it.
func (b *Builder) AddText(s string) (int, error) {
	p, err := ParsePath(s)
	if err != nil {
		return 0, err
	}
	return b.Add(p), nil
}

// Build compiles the paths added so far. The builder may be used further; slots keep their numbers in later sets.
func (b *Builder) Build() (*Set, error) {
	b.Add(nil)
	n := len(b.paths)
	s := &Set{
		paths: slices.Clone(b.paths), parent: make([]int32, n), many: make([]bool, n),
		quoted: make([][]byte, n), words: (n + 63) / 64,
	}
	s.related = make([]uint64, n*s.words)
	for i, p := range s.paths {
		s.many[i] = p.Many()
		for _, k := range b.kids[i] {
			s.parent[k] = int32(i)
		}
		if len(p) > 0 && p[len(p)-1].Kind == Member {
			s.quoted[i] = append(AppendString(nil, p[len(p)-1].Name), ':')
		}
		for j, q := range s.paths {
			if p.Overlaps(q) {
				s.related[i*s.words+j/64] |= 1 << (j % 64)
			}
		}
	}
	c := compiler{b: b, set: s, seen: map[string]int32{}}
	c.state([]int{0})
	if len(s.nodes) > maxStates {
		return nil, errors.New("the paths with [*] and [0] over the same arrays make too many combinations")
	}
	return s, nil
}

// NewSet compiles paths. The slot of paths[i] is slots[i].
func NewSet(paths ...string) (set *Set, slots []int, err error) {
	var b Builder
	for _, p := range paths {
		slot, err := b.AddText(p)
		if err != nil {
			return nil, nil, err
		}
		slots = append(slots, slot)
	}
	set, err = b.Build()
	return set, slots, err
}

// Set is the compiled union of all paths of a plan. It is immutable and may be shared by any number of Docs.
type Set struct {
	nodes   []node
	paths   []Path
	parent  []int32  // slot of the path without its last element
	many    []bool   // the path has an Each
	quoted  [][]byte // the member's name as JSON with its colon
	related []uint64 // words bits a slot: the slots whose paths overlap
	words   int
}

// Len is the number of slots.
func (s *Set) Len() int { return len(s.paths) }

// Path returns the path of a slot.
func (s *Set) Path(slot int) Path { return slices.Clone(s.paths[slot]) }

// Slot returns the slot of a path.
func (s *Set) Slot(p Path) (slot int, ok bool) {
	slot = slices.IndexFunc(s.paths, func(q Path) bool { return slices.Equal(p, q) })
	return slot, slot >= 0
}

// node is one state of the automaton that walks the document: the paths that a value can still lie on.
type node struct {
	slots  []int32 // paths that end at the value
	single int32   // the one of slots, if it is only one and names only one value; else none
	bloom  uint64  // bits of the keys of kids, as in a frame
	kids   []edge
	tab    []int32 // open addressing over kids by key
	index  []indexEdge
	each   int32 // state of the elements that index does not list
}

type edge struct {
	key  uint64
	name string
	next int32
}

type indexEdge struct {
	index int32
	next  int32
}

// child is the state of the member with that name.
func (n *node) child(key uint64, name []byte) int32 {
	mask := len(n.tab) - 1
	if mask < 0 {
		return none
	}
	for i := int(key>>40) & mask; ; i = (i + 1) & mask {
		k := n.tab[i]
		if k < 0 {
			return none
		}
		e := &n.kids[k]
		if e.key == key && len(e.name) == len(name) && (len(name) < 8 || e.name == string(name)) {
			return e.next // the keys of short names are as good as the names
		}
	}
}

// elem is the state of the element with that position.
func (n *node) elem(i int32) int32 {
	for k := range n.index {
		if n.index[k].index == i {
			return n.index[k].next
		}
	}
	return n.each
}

// compiler turns the tree of paths, in which [*] and [0] both match the first element, into an automaton in which a
// value is in one state.
type compiler struct {
	b    *Builder
	set  *Set
	seen map[string]int32
}

// state returns the state for values that lie on exactly those paths. It recurses by the length of paths.
func (c *compiler) state(slots []int) int32 {
	if len(slots) == 0 {
		return none
	}
	slices.Sort(slots)
	id := fmt.Sprint(slots)
	if n, ok := c.seen[id]; ok {
		return n
	}
	at := int32(len(c.set.nodes))
	c.seen[id] = at
	c.set.nodes = append(c.set.nodes, node{})
	if len(c.set.nodes) > maxStates {
		return at
	}
	n := node{each: none}
	members := map[string][]int{}
	byIndex := map[int][]int{}
	var each []int
	for _, s := range slots {
		n.slots = append(n.slots, int32(s))
		for _, k := range c.b.kids[s] {
			switch e := c.b.paths[k][len(c.b.paths[k])-1]; e.Kind {
			case Member:
				members[e.Name] = append(members[e.Name], k)
			case Index:
				byIndex[e.Index] = append(byIndex[e.Index], k)
			case Each:
				each = append(each, k)
			}
		}
	}
	if n.single = n.slots[0]; len(n.slots) > 1 || c.set.many[n.single] {
		n.single = none
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		n.kids = append(n.kids, edge{keyOf([]byte(name)), name, c.state(members[name])})
	}
	for _, i := range slices.Sorted(maps.Keys(byIndex)) {
		n.index = append(n.index, indexEdge{int32(i), c.state(slices.Concat(byIndex[i], each))})
	}
	n.each = c.state(each)
	n.fill()
	c.set.nodes[at] = n
	return at
}

// fill lays out the table over kids.
func (n *node) fill() {
	if len(n.kids) == 0 {
		return
	}
	size := 2
	for size < 2*len(n.kids) {
		size *= 2
	}
	n.tab = slices.Repeat([]int32{-1}, size)
	for k, e := range n.kids {
		i := int(e.key>>40) & (size - 1)
		for n.tab[i] >= 0 {
			i = (i + 1) & (size - 1)
		}
		n.tab[i] = int32(k)
		n.bloom |= 1 << (e.key >> 58)
	}
}
