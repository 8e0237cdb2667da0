package jsonscan

import (
	"cmp"
	"slices"
)

// editKind says what an edit does.
type editKind uint8

const (
	replace editKind = iota // bytes for bytes
	insert                  // a member at the end of an object: name, colon, value
	remove                  // a member or element; its comma goes with it
)

// edit is one change to the document. Edits never overlap.
type edit struct {
	pos, end int32 // what it takes the place of, in raw
	seq      int32
	single   int32 // slot + 1 if the slot's own entry points here
	off      int   // its text in the arena
	valueOff int   // where the value starts in the arena; it ends with the text
	length   int
	kind     editKind
}

// value is the JSON text that the edit gives its slot.
func (e *edit) value(arena []byte) []byte {
	end := e.off + e.length
	return arena[e.valueOff:end:end]
}

// trim drops the white space around a JSON value.
func trim(json []byte) []byte {
	return json[skip(json, 0):endOf(json, len(json))]
}

// endOf is the offset after the last byte before i that is not white space.
func endOf(raw []byte, i int) int {
	for i > 0 && (raw[i-1] == ' ' || raw[i-1] == '\n' || raw[i-1] == '\r' || raw[i-1] == '\t') {
		i--
	}
	return i
}

// nameStart is the offset of the quote that opens the name of the member whose value starts at i.
func nameStart(raw []byte, i int) int {
	i = endOf(raw, i) - 1 // the colon
	i = endOf(raw, i) - 2 // before the closing quote
	for raw[i] != '"' || raw[i-1] == '\\' {
		// A quote within a name follows a backslash; the opening quote follows a bracket, a comma or white space.
		i--
	}
	return i
}

// store puts the text of an edit of a value into the arena.
func (d *Doc) store(e edit, json []byte) edit {
	e.off = len(d.arena)
	e.valueOff, e.length = e.off, len(json)
	d.arena = append(d.arena, json...)
	return e
}

// storeMember puts a member into the arena: the parents' names from the outermost, the slot's name, the value.
func (d *Doc) storeMember(e edit, top, slot int32, json []byte) edit {
	e.off = len(d.arena)
	depth := len(d.set.paths[slot]) - len(d.set.paths[top])
	for up := depth; up >= 0; up-- {
		s := slot
		for range up {
			s = d.set.parent[s]
		}
		d.arena = append(d.arena, d.set.quoted[s]...)
		if up > 0 {
			d.arena = append(d.arena, '{')
		}
	}
	e.valueOff = len(d.arena)
	if depth > 0 {
		e.valueOff = e.off + len(d.set.quoted[top])
	}
	d.arena = append(d.arena, json...)
	for range depth {
		d.arena = append(d.arena, '}')
	}
	e.length = len(d.arena) - e.off
	return e
}

// revise gives an edit another value. The old text stays where it is: someone may hold it.
func (d *Doc) revise(e *edit, slot int, json []byte) {
	if e.kind == insert {
		*e = d.storeMember(*e, int32(slot), int32(slot), json)
	} else {
		*e = d.store(*e, json)
	}
}

// add notes an edit of one of the slot's values.
func (d *Doc) add(slot int, e edit) {
	e.seq = int32(len(d.edits))
	d.edits = append(d.edits, e)
	d.edited[slot/64] |= 1 << (slot % 64)
	d.changed = true
}

// addSingle notes the edit of the slot's only value.
func (d *Doc) addSingle(slot int, e edit) {
	e.single = int32(slot) + 1
	d.add(slot, e)
	d.own[slot] = int32(len(d.edits))
}

// insert adds the absent value at slot to the nearest parent that exists.
func (d *Doc) insert(slot int, json []byte) error {
	top := int32(slot)
	parent := d.set.parent[top]
	for d.set.quoted[top] != nil && d.spans[parent].end == 0 {
		top, parent = parent, d.set.parent[parent]
	}
	s := d.spans[parent]
	if d.set.quoted[top] == nil || d.raw[s.start] != '{' {
		return ErrParentKind
	}
	pos := int32(endOf(d.raw, int(s.end)-1))
	e := edit{kind: insert, pos: pos, end: pos}
	d.addSingle(int(top), d.storeMember(e, top, int32(slot), json))
	return nil
}

// dropEdits forgets all edits.
func (d *Doc) dropEdits() {
	if len(d.edits) == 0 {
		return
	}
	for i := range d.edits {
		if n := d.edits[i].single; n > 0 {
			d.own[n-1] = 0
		}
	}
	clear(d.edited)
	d.shifted = false
	if d.edits = d.edits[:0]; cap(d.edits)*40 > keepBytes {
		d.edits = nil
	}
}

// flatten makes the edited document the one at hand. It is scanned when that is needed.
func (d *Doc) flatten() {
	if d.gen == len(d.gens) {
		d.gens = append(d.gens, nil)
	}
	out := d.splice(d.gens[d.gen][:0])
	d.gens[d.gen] = out
	d.gen++
	d.dropEdits()
	d.raw, d.scanned = out, false
}

// sortEdits puts the edits in the order of their places; inserts at one place keep their order.
func (d *Doc) sortEdits() {
	byPlace := func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.pos, b.pos), cmp.Compare(a.seq, b.seq))
	}
	if slices.IsSortedFunc(d.edits, byPlace) {
		return
	}
	slices.SortFunc(d.edits, byPlace)
	for i := range d.edits {
		d.edits[i].seq = int32(i)
		if n := d.edits[i].single; n > 0 {
			d.own[n-1] = int32(i) + 1
		}
	}
}

// splice appends the document with its edits to dst. Commas are settled against what has been written, so that any
// mixture of removals and inserts in one container comes out right.
func (d *Doc) splice(dst []byte) []byte {
	d.sortEdits()
	at := 0 // what lies before it in raw is dealt with
	for i := range d.edits {
		e := &d.edits[i]
		if int(e.pos) > at {
			dst = append(dst, d.raw[at:e.pos]...)
			at = int(e.pos)
		}
		switch e.kind {
		case insert:
			if n := endOf(dst, len(dst)); dst[n-1] != '{' {
				dst = append(dst[:n], ',')
			}
			dst = append(dst, d.arena[e.off:e.off+e.length]...)
		case replace:
			dst = append(dst, d.arena[e.off:e.off+e.length]...)
			at = int(e.end)
		case remove:
			dst, at = d.cut(dst, int(e.end))
		}
	}
	return append(dst, d.raw[at:]...)
}

// cut settles the comma of a value that was not written and that ends at end: the one before it, which ends dst, or
// if it is the first the one after it. It returns where to go on.
func (d *Doc) cut(dst []byte, end int) ([]byte, int) {
	n := endOf(dst, len(dst))
	if dst[n-1] == ',' {
		return dst[:n-1], end
	}
	next := skip(d.raw, end)
	if d.raw[next] == ',' {
		return dst, skip(d.raw, next+1)
	}
	return dst[:n], next
}
