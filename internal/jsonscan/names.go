package jsonscan

import (
	"bytes"
	"hash/maphash"
	"math/bits"
)

// fewNames is the number of members up to which names are compared one by one; from there on a table finds twins.
const fewNames = 16

// keepNames is the number of names whose memory a Doc keeps from message to message.
const keepNames = 1 << 16

// name is a member's name in an object that is still open. One that had escapes lies in names.text, at ^off.
type name struct {
	key    uint64
	off    int32
	length int32
}

// names holds the names of all open objects, those of an inner object after those of the outer ones, and finds twins.
//
// The table is shared by all open objects. It is emptied in the reverse order of filling, because an inner object closes
// first; that is what makes removal from linear probing right without marks.
type names struct {
	list []name
	text []byte  // texts of names that had escapes
	tab  []int32 // list index + 1, by hash; empty unless an object has more than fewNames members
	at   []int32 // place in tab, in the order of filling
	of   []int32 // list index, in the order of filling
	seed maphash.Seed
	init bool
}

// keyOf mixes the first and the last eight bytes and the length of a name. Names of up to seven bytes have distinct
// inputs. It is no defence against chosen names: more than fewNames of them go through the seeded table.
func keyOf(s []byte) uint64 {
	n := len(s)
	if n >= 8 {
		return mix(load(s, 0), load(s, n-8), n)
	}
	var w uint64
	for i, c := range s {
		w |= uint64(c) << (8 * i)
	}
	return mix(w, 0, n)
}

func mix(first, last uint64, n int) uint64 {
	k := (first ^ bits.RotateLeft64(last, 29) ^ uint64(n)<<56) * 0x9e3779b97f4a7c15
	return k ^ k>>29
}

func (n *names) reset() {
	if len(n.at) > 0 { // a document that failed left its names behind
		clear(n.tab)
	}
	n.list, n.text, n.at, n.of = n.list[:0], n.text[:0], n.at[:0], n.of[:0]
	if cap(n.list) > keepNames || cap(n.text) > keepBytes {
		*n = names{seed: n.seed, init: n.init}
	}
}

func (n *names) bytes(raw []byte, e name) []byte {
	if e.off < 0 {
		raw, e.off = n.text, ^e.off
	}
	return raw[e.off : e.off+e.length]
}

// twin reports whether the newest name, the last of the list, is already among the names of its object, which start at
// list[first].
func (n *names) twin(raw []byte, first int) bool {
	last := len(n.list) - 1
	if last-first >= fewNames {
		return n.twinInTable(raw, first)
	}
	e := &n.list[last]
	for i := first; i < last; i++ {
		if o := &n.list[i]; o.key == e.key && bytes.Equal(n.bytes(raw, *o), n.bytes(raw, *e)) {
			return true
		}
	}
	return false
}

func (n *names) twinInTable(raw []byte, first int) bool {
	last := len(n.list) - 1
	if last-first == fewNames {
		for i := first; i < last; i++ {
			n.insert(raw, first, i)
		}
	}
	return n.insert(raw, first, last)
}

// insert adds list[i] to the table unless its object, whose names start at list[first], has that name in the table.
func (n *names) insert(raw []byte, first, i int) (found bool) {
	if 2*len(n.at) >= len(n.tab) {
		n.grow()
	}
	e := &n.list[i]
	text := n.bytes(raw, *e)
	// The same name in many open objects must not pile up in one place, so the object is part of the hash.
	e.key = n.hash(text) + uint64(first)*0x9e3779b97f4a7c15
	mask := len(n.tab) - 1
	p := int(e.key) & mask
	for ; n.tab[p] != 0; p = (p + 1) & mask {
		at := int(n.tab[p]) - 1
		if o := &n.list[at]; at >= first && o.key == e.key && bytes.Equal(n.bytes(raw, *o), text) {
			return true
		}
	}
	n.tab[p] = int32(i) + 1
	n.at = append(n.at, int32(p))
	n.of = append(n.of, int32(i))
	return false
}

// grow doubles the table and fills it again in the old order.
func (n *names) grow() {
	if len(n.tab) == 0 {
		n.tab = make([]int32, 128)
		return
	}
	n.tab = make([]int32, 2*len(n.tab))
	mask := len(n.tab) - 1
	for k, i := range n.of {
		p := int(n.list[i].key) & mask
		for n.tab[p] != 0 {
			p = (p + 1) & mask
		}
		n.tab[p] = i + 1
		n.at[k] = int32(p)
	}
}

func (n *names) hash(text []byte) uint64 {
	if !n.init {
		n.seed, n.init = maphash.MakeSeed(), true
	}
	return maphash.Bytes(n.seed, text)
}

// close forgets the names from list[first] on: their object is closed.
func (n *names) close(first int) {
	if len(n.list)-first > fewNames {
		for k := len(n.at) - 1; k >= 0 && int(n.of[k]) >= first; k-- {
			n.tab[n.at[k]] = 0
			n.at, n.of = n.at[:k], n.of[:k]
		}
	}
	n.list = n.list[:first]
}
