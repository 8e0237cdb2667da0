package jsonscan

import "errors"

// keepBytes is the size up to which a Doc keeps a buffer from message to message.
const keepBytes = 1 << 20

// span is where a value lies; its end is 0 if there is no value. For a path with an Each it is the first and the last
// of its matches, counted from 1.
type span struct {
	start, end int32
}

// match is one of the values of a path with an Each.
type match struct {
	span
	next int32 // counted from 1; 0 for the last
}

// add appends a value to the matches of a path with an Each.
func (s *span) add(all *[]match, start, end int) {
	*all = append(*all, match{span: span{int32(start), int32(end)}})
	n := int32(len(*all))
	if s.end == 0 {
		s.start = n
	} else {
		(*all)[s.end-1].next = n
	}
	s.end = n
}

// Doc is a view on one JSON document, with the edits made to it. The zero value is ready for Reset. It is used by one
// goroutine at a time.
//
// Slices that Get and Each hand out stay valid and unchanged until the next Reset, provided that the caller leaves the
// bytes given to Reset alone. They must not be written to.
//
// Every method that needs the scan does it. A document that fails it has no values and takes no edits: Set and Each
// return the error, Get finds nothing, Unset does nothing, and Err tells.
type Doc struct {
	set     *Set
	nodes   []node // of the set
	raw     []byte // the document as it was when it was last scanned
	err     error
	scanned bool
	changed bool
	shifted bool // an element was removed: what lies behind it is found anew
	spans   []span
	matches []match
	stack   []frame
	names   names

	edits  []edit
	own    []int32  // by slot of a single value: its edit, counted from 1
	edited []uint64 // bits of the slots that have edits
	arena  []byte   // texts of the edits of this message
	gens   [][]byte // the document after each splice
	gen    int      // how many of gens this message has used
}

// Reset turns to another document. Nothing is scanned yet. The set may be nil if only Scan is wanted.
func (d *Doc) Reset(set *Set, raw []byte) {
	d.dropEdits()
	if d.set != set {
		d.set, d.nodes = set, nil
		n, words := 0, 0
		if set != nil {
			n, words, d.nodes = set.Len(), set.words, set.nodes
		}
		d.spans = resize(d.spans, n)
		d.own = resize(d.own, n)
		d.edited = resize(d.edited, words)
	}
	d.raw, d.err, d.scanned, d.changed = raw, nil, false, false
	if d.arena = d.arena[:0]; cap(d.arena) > keepBytes {
		d.arena = nil
	}
	for i := range d.gen {
		if cap(d.gens[i]) > keepBytes {
			d.gens[i] = nil
		}
	}
	d.gen = 0
}

// resize returns a slice of n zero values, with the memory of s if it is large enough.
func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	s = s[:n]
	clear(s)
	return s
}

// Scan checks the document and finds the values of all slots. It does nothing if that is done. The error is a
// *SyntaxError.
func (d *Doc) Scan() error {
	if d.scanned {
		return d.err
	}
	d.scanned = true
	clear(d.spans)
	if d.matches = d.matches[:0]; cap(d.matches)*12 > keepBytes {
		d.matches = nil
	}
	d.scan()
	return d.err
}

// Err returns the error of the last scan, if there was one. After edits it is the caller's last word before using the
// bytes: an edit may have made the document too deep.
func (d *Doc) Err() error { return d.err }

// Changed reports whether the document was edited since Reset.
func (d *Doc) Changed() bool { return d.changed }

// settle makes edits that moved other values part of the document, and scans it.
func (d *Doc) settle() error {
	if d.shifted {
		d.flatten()
	}
	return d.Scan()
}

// ready makes the spans fit for reading or editing slot: the scan is done, and no edit lies above or below the slot.
func (d *Doc) ready(slot int) error {
	if len(d.edits) > 0 && d.touches(slot) {
		d.flatten()
	}
	return d.Scan()
}

// touches reports whether a path with an edit overlaps the slot's.
func (d *Doc) touches(slot int) bool {
	rel := d.set.related[slot*d.set.words:]
	for i, w := range d.edited {
		if w&rel[i] != 0 {
			return true
		}
	}
	return false
}

// Get returns the JSON text of the value as it is now, edits included, without white space around it. For a path with
// an Each it is the first match.
func (d *Doc) Get(slot int) (raw []byte, ok bool) {
	if d.settle() != nil {
		return nil, false
	}
	if len(d.edits) > 0 {
		if n := d.own[slot]; n > 0 {
			e := &d.edits[n-1]
			return e.value(d.arena), e.kind != remove
		}
		if d.ready(slot) != nil {
			return nil, false
		}
	}
	s := d.spans[slot]
	if s.end == 0 {
		return nil, false
	}
	if d.set.many[slot] {
		s = d.matches[s.start-1].span
	}
	return d.raw[s.start:s.end:s.end], true
}

// Set puts a JSON value, which is copied, in the place of the one at slot, or adds it as the last member of its
// parent. Missing parents are created as objects. The text must be one valid JSON value: it is not checked here.
func (d *Doc) Set(slot int, json []byte) error {
	if err := d.settle(); err != nil {
		return err
	}
	if d.set.many[slot] {
		return ErrManyValues
	}
	json = trim(json)
	if n := d.own[slot]; n > 0 && d.edits[n-1].kind != remove {
		d.revise(&d.edits[n-1], slot, json)
		return nil
	}
	if err := d.ready(slot); err != nil {
		return err
	}
	s := d.spans[slot]
	if s.end == 0 {
		return d.insert(slot, json)
	}
	e := edit{kind: replace, pos: s.start, end: s.end}
	d.addSingle(slot, d.store(e, json))
	return nil
}

// Unset removes the member with its comma, or the element. A path with an Each loses all its values. An absent value
// is no error. The whole document cannot be removed: slot 0 stays as it is.
func (d *Doc) Unset(slot int) {
	if slot == 0 || d.settle() != nil {
		return
	}
	if n := d.own[slot]; n > 0 && d.edits[n-1].kind == remove || d.ready(slot) != nil {
		return
	}
	s := d.spans[slot]
	if s.end == 0 {
		return
	}
	path := d.set.paths[slot]
	member := path[len(path)-1].Kind == Member
	if !d.set.many[slot] {
		d.addSingle(slot, d.removal(s, member))
	} else {
		for n := s.start; n > 0; n = d.matches[n-1].next {
			d.add(slot, d.removal(d.matches[n-1].span, member))
		}
	}
	d.shifted = d.shifted || !member
}

// removal is the edit that removes the value in s.
func (d *Doc) removal(s span, member bool) edit {
	e := edit{kind: remove, pos: s.start, end: s.end}
	if member {
		e.pos = int32(nameStart(d.raw, int(s.start)))
	}
	return e
}

// Each calls f with every value of the path in order, and puts repl, unless it is nil, in the value's place. It works
// for paths without an Each, too. It stops at the first error of f; the edits up to there remain. The function must
// not use the Doc.
func (d *Doc) Each(slot int, f func(raw []byte) (repl []byte, err error)) error {
	if err := d.settle(); err != nil {
		return err
	}
	if !d.set.many[slot] {
		raw, ok := d.Get(slot)
		if !ok {
			return d.err
		}
		repl, err := f(raw)
		if err != nil || repl == nil {
			return err
		}
		return d.Set(slot, repl)
	}
	if err := d.ready(slot); err != nil {
		return err
	}
	for n := d.spans[slot].start; n > 0; n = d.matches[n-1].next {
		s := d.matches[n-1].span
		repl, err := f(d.raw[s.start:s.end:s.end])
		if err != nil {
			return err
		}
		if repl != nil {
			d.add(slot, d.store(edit{kind: replace, pos: s.start, end: s.end}, trim(repl)))
		}
	}
	return nil
}

// Bytes returns the document with its edits. Without edits it is the slice given to Reset. It is valid until the next
// Reset.
func (d *Doc) Bytes() []byte {
	if len(d.edits) > 0 {
		d.flatten()
	}
	return d.raw
}

// Edited reports whether edits wait to be made part of the bytes.
func (d *Doc) Edited() bool { return len(d.edits) > 0 }

// AppendTo appends the document with its edits to dst, in one copy. The document stays
// as it is: values can be read on without another scan.
func (d *Doc) AppendTo(dst []byte) []byte {
	if len(d.edits) == 0 {
		return append(dst, d.raw...)
	}
	return d.splice(dst)
}

// IsSyntax reports whether err is a SyntaxError, and with which code.
func IsSyntax(err error) (code string, ok bool) {
	if s, ok := errors.AsType[*SyntaxError](err); ok {
		return s.Code, true
	}
	return "", false
}
