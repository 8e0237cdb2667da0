package jsonscan

import (
	"bytes"
	"math/bits"
)

// frame is a container that is still open.
type frame struct {
	bloom uint64 // bits of the keys of its members' names
	start int32  // offset of its bracket
	names int32  // its first name in names.list
	state int32  // of the container
	index int32  // of the element at hand
	close byte   // the bracket that ends it
}

// fail notes the first trouble and returns -1, which ends the scan.
func (d *Doc) fail(code string, offset int) int {
	if d.err == nil {
		d.err = &SyntaxError{Code: code, Offset: offset}
	}
	return -1
}

// scan checks the whole document and fills the spans of all slots.
func (d *Doc) scan() {
	raw := d.raw
	if len(raw) > maxLen {
		d.fail(CodeMalformed, maxLen)
		return
	}
	d.names.reset()
	d.stack = d.stack[:0]
	pos := skip(raw, 0)
	if pos == len(raw) {
		d.fail(CodeEmpty, pos)
		return
	}
	if pos = d.value(raw, pos); pos < 0 {
		return
	}
	if pos = skip(raw, pos); pos < len(raw) {
		d.fail(CodeTrailing, pos)
	}
}

// value scans the document's value, which starts at pos, and returns the offset after it. It keeps its own stack.
func (d *Doc) value(raw []byte, pos int) int {
	state := d.root()
	for pos >= 0 && pos < len(raw) {
		start := pos
		switch c := raw[pos]; c {
		case '{', '[':
			pos = d.open(raw, pos, state)
			if pos >= 0 && pos < len(raw) && raw[pos] != c+2 { // not empty: the brackets of ASCII are two apart
				pos, state = d.first(raw, pos)
				continue
			}
		case '"':
			pos = d.found(raw, start, d.stringEnd(raw, pos+1), state)
		default:
			pos = d.found(raw, start, d.scalarEnd(raw, pos), state)
		}
		if pos < 0 {
			return -1
		}
		if pos, state = d.next(raw, pos); len(d.stack) == 0 {
			return pos
		}
	}
	return d.fail(CodeMalformed, pos)
}

// root is the state of the document.
func (d *Doc) root() int32 {
	if d.set == nil {
		return none
	}
	return 0
}

// scalarEnd is the offset after the number or literal at pos.
func (d *Doc) scalarEnd(raw []byte, pos int) int {
	switch raw[pos] {
	case 't':
		return d.literalEnd(raw, pos, "true")
	case 'f':
		return d.literalEnd(raw, pos, "false")
	case 'n':
		return d.literalEnd(raw, pos, "null")
	default:
		return d.numberEnd(raw, pos)
	}
}

func (d *Doc) literalEnd(raw []byte, pos int, text string) int {
	if end := pos + len(text); end <= len(raw) && string(raw[pos:end]) == text {
		return end
	}
	return d.fail(CodeMalformed, pos)
}

// found notes the value from start to pos and skips the white space after it. It passes a failure on.
func (d *Doc) found(raw []byte, start, pos int, state int32) int {
	if pos < 0 {
		return pos
	}
	if state >= 0 {
		d.note(state, start, pos)
	}
	if pos < len(raw) && raw[pos] <= ' ' {
		return skip(raw, pos)
	}
	return pos
}

// note gives the value's span to the slots of its state.
func (d *Doc) note(state int32, start, end int) {
	n := &d.nodes[state]
	if n.single >= 0 {
		d.spans[n.single] = span{int32(start), int32(end)}
		return
	}
	for _, slot := range n.slots {
		if d.set.many[slot] {
			d.spans[slot].add(&d.matches, start, end)
		} else {
			d.spans[slot] = span{int32(start), int32(end)}
		}
	}
}

// open pushes the container at pos and returns the offset of what follows its bracket.
func (d *Doc) open(raw []byte, pos int, state int32) int {
	if len(d.stack) >= MaxDepth {
		return d.fail(CodeDepth, pos)
	}
	d.stack = append(d.stack, frame{
		start: int32(pos), names: int32(len(d.names.list)), state: state, index: -1, close: raw[pos] + 2,
	})
	return skip(raw, pos+1)
}

// next goes on after a value: it closes containers as long as they end at pos, and goes to the value that follows.
// With the last container closed the stack is empty and pos is after the document's value.
func (d *Doc) next(raw []byte, pos int) (int, int32) {
	for n := len(d.stack); n > 0; n = len(d.stack) {
		if pos >= len(raw) {
			return d.fail(CodeMalformed, pos), none
		}
		f := &d.stack[n-1]
		switch raw[pos] {
		case ',':
			if pos++; pos < len(raw) && raw[pos] <= ' ' {
				pos = skip(raw, pos)
			}
			if f.close == '}' {
				return d.member(raw, pos, f)
			}
			return d.element(pos, f)
		case f.close:
			if f.close == '}' {
				d.names.close(int(f.names))
			}
			d.stack = d.stack[:n-1]
			pos = d.found(raw, int(f.start), pos+1, f.state)
		default:
			return d.fail(CodeMalformed, pos), none
		}
	}
	return pos, none
}

// first starts the element at pos, or the member whose name is at pos: the result is where its value starts, and the
// value's state.
func (d *Doc) first(raw []byte, pos int) (int, int32) {
	f := &d.stack[len(d.stack)-1]
	if f.close == '}' {
		return d.member(raw, pos, f)
	}
	return d.element(pos, f)
}

// element starts the element at pos.
func (d *Doc) element(pos int, f *frame) (int, int32) {
	f.index++
	if f.state < 0 {
		return pos, none
	}
	return pos, d.nodes[f.state].elem(f.index)
}

// member scans the name at pos and the colon after it.
func (d *Doc) member(raw []byte, pos int, f *frame) (int, int32) {
	if pos >= len(raw) || raw[pos] != '"' {
		return d.fail(CodeMalformed, pos), none
	}
	quote := pos
	pos++
	e := name{off: int32(pos)}
	if pos+8 <= len(raw) {
		w := load(raw, pos)
		if m := special(w); m != 0 {
			n := bits.TrailingZeros64(m) >> 3
			pos += n
			e.key = mix(w&(1<<(8*n&63)-1), 0, n)
		} else if pos = plainEnd(raw, pos+8); pos < len(raw) {
			e.key = mix(w, load(raw, pos-8), pos-int(e.off))
		}
	} else {
		pos = plainEnd(raw, pos)
		e.key = keyOf(raw[e.off:pos])
	}
	e.length = int32(pos) - e.off
	if pos < len(raw) && raw[pos] == '"' {
		pos++
	} else if e, pos = d.oddName(raw, int(e.off), pos); pos < 0 {
		return -1, none
	}
	d.names.list = append(d.names.list, e)
	bit := uint64(1) << (e.key >> 58)
	if f.bloom&bit != 0 || len(d.names.list)-int(f.names) > fewNames {
		if d.names.twin(raw, int(f.names)) {
			return d.fail(CodeDuplicate, quote), none
		}
	}
	f.bloom |= bit
	state := none
	if f.state >= 0 {
		if n := &d.nodes[f.state]; n.bloom&bit != 0 {
			state = n.child(e.key, d.names.bytes(raw, e))
		}
	}
	if pos+1 < len(raw) && raw[pos] == ':' && raw[pos+1] > ' ' {
		return pos + 1, state
	}
	return d.colon(raw, pos), state
}

// oddName goes on at the first byte, pos, of a name that is neither plain nor the closing quote, and undoes the escapes.
func (d *Doc) oddName(raw []byte, start, pos int) (name, int) {
	if pos = d.oddStringEnd(raw, pos); pos < 0 {
		return name{}, -1
	}
	text := raw[start : pos-1]
	e := name{off: int32(start)}
	if bytes.IndexByte(text, '\\') >= 0 {
		start = len(d.names.text)
		e.off = ^int32(start)
		d.names.text = appendText(d.names.text, text)
		text = d.names.text[start:]
	}
	e.length = int32(len(text))
	e.key = keyOf(text)
	return e, pos
}

// colon skips the colon after a name and the white space around it.
func (d *Doc) colon(raw []byte, pos int) int {
	if pos < len(raw) && raw[pos] != ':' {
		pos = skip(raw, pos)
	}
	if pos >= len(raw) || raw[pos] != ':' {
		return d.fail(CodeMalformed, pos)
	}
	if pos++; pos < len(raw) && raw[pos] <= ' ' {
		return skip(raw, pos)
	}
	return pos
}
