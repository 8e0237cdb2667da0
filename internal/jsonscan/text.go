package jsonscan

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// Words with the same byte eight times.
const (
	ones   = 0x0101010101010101
	highs  = 0x8080808080808080
	spaces = ' ' * ones
	quotes = '"' * ones
	slants = '\\' * ones
)

// special marks, by its high bit, the first byte of w that is a quote, a backslash, a control character or not ASCII.
// Marks above the first may be wrong, because a subtraction borrows.
func special(w uint64) uint64 {
	return (((w ^ quotes) - ones) | ((w ^ slants) - ones) | (w - spaces) | w) & highs
}

// load reads the eight bytes at i.
func load(raw []byte, i int) uint64 {
	return binary.LittleEndian.Uint64(raw[i : i+8])
}

// plainEnd is the offset of the first byte from i on that special marks, or the length of raw.
func plainEnd(raw []byte, i int) int {
	for i+8 <= len(raw) {
		if m := special(load(raw, i)); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for i < len(raw) {
		if c := raw[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			break
		}
		i++
	}
	return i
}

// stringEnd is the offset after the quote that closes the string whose text starts at i, or -1 after a failure.
func (d *Doc) stringEnd(raw []byte, i int) int {
	i = plainEnd(raw, i)
	if i < len(raw) && raw[i] == '"' {
		return i + 1
	}
	return d.oddStringEnd(raw, i)
}

// oddStringEnd goes on from a byte that is neither plain nor the closing quote.
func (d *Doc) oddStringEnd(raw []byte, i int) int {
	for i < len(raw) {
		switch c := raw[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			n, code := escapeLen(raw[i:])
			if n == 0 {
				return d.fail(code, i)
			}
			i += n
		case c < ' ':
			return d.fail(CodeMalformed, i)
		case c < utf8.RuneSelf:
			i = plainEnd(raw, i)
		default:
			n := runeLen(raw, i)
			if n == 0 {
				return d.fail(CodeEncoding, i)
			}
			i += n
		}
	}
	return d.fail(CodeMalformed, i)
}

// runeLen is the length of the character at i, which is not ASCII, or 0 if it is not UTF-8.
func runeLen(raw []byte, i int) int {
	if c := raw[i]; c >= 0xc2 && c < 0xe0 && i+1 < len(raw) && raw[i+1]&0xc0 == 0x80 {
		return 2
	}
	if r, n := utf8.DecodeRune(raw[i:]); r != utf8.RuneError || n > 1 {
		return n
	}
	return 0
}

// escapeLen is the length of the escape that s starts with; 0 and a code if it is none.
func escapeLen(s []byte) (n int, code string) {
	if len(s) < 2 {
		return 0, CodeMalformed
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, ""
	case 'u':
		_, n, code = unicodeEscape(s)
		return n, code
	default:
		return 0, CodeMalformed
	}
}

// unicodeEscape decodes the \u escape, or the pair of them, that s starts with.
func unicodeEscape(s []byte) (r rune, n int, code string) {
	r = hex4(s)
	switch {
	case r < 0:
		return 0, 0, CodeMalformed
	case r < 0xd800 || r > 0xdfff:
		return r, 6, ""
	case r > 0xdbff || len(s) < 8 || s[6] != '\\' || s[7] != 'u':
		return 0, 0, CodeEncoding
	}
	low := hex4(s[6:])
	switch {
	case low < 0:
		return 0, 0, CodeMalformed
	case low < 0xdc00 || low > 0xdfff:
		return 0, 0, CodeEncoding
	}
	return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000, 12, ""
}

// hex4 is the value of the four digits of the escape, or -1.
func hex4(s []byte) rune {
	if len(s) < 6 {
		return -1
	}
	var r rune
	for _, c := range s[2:6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
}

// appendText appends the text of a string that passed stringEnd, without its quotes, to dst.
func appendText(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c != '\\' {
			n := i
			for n < len(s) && s[n] != '\\' {
				n++
			}
			dst = append(dst, s[i:n]...)
			i = n
			continue
		}
		if s[i+1] == 'u' {
			r, n, _ := unicodeEscape(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
			continue
		}
		dst = append(dst, unescaped(s[i+1]))
		i += 2
	}
	return dst
}

// unescaped is the character that a backslash and c stand for.
func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}

// numberEnd is the offset after the number that starts at i, or -1 after a failure. What follows is not looked at.
func (d *Doc) numberEnd(raw []byte, i int) int {
	start := i
	if i < len(raw) && raw[i] == '-' {
		i++
		start = i
	}
	end := digits(raw, i)
	if end == i || raw[i] == '0' && end > i+1 {
		return d.fail(CodeMalformed, i)
	}
	i = end
	if i < len(raw) && raw[i] == '.' {
		if end = digits(raw, i+1); end == i+1 {
			return d.fail(CodeMalformed, end)
		}
		i = end
		start++ // the point is no digit
	}
	if i-start > MaxDigits {
		return d.fail(CodeNumber, start)
	}
	if i < len(raw) && raw[i]|0x20 == 'e' {
		return d.exponentEnd(raw, i+1)
	}
	return i
}

func (d *Doc) exponentEnd(raw []byte, i int) int {
	if i < len(raw) && (raw[i] == '+' || raw[i] == '-') {
		i++
	}
	end := digits(raw, i)
	if end == i {
		return d.fail(CodeMalformed, i)
	}
	v := 0
	for _, c := range raw[i:end] {
		if v = v*10 + int(c-'0'); v > MaxExponent {
			return d.fail(CodeNumber, i)
		}
	}
	return end
}

// digits is the offset of the first byte from i on that is no digit.
func digits(raw []byte, i int) int {
	for i < len(raw) && raw[i]-'0' <= 9 {
		i++
	}
	return i
}

// skip is the offset of the first byte from i on that is not white space.
func skip(raw []byte, i int) int {
	for i < len(raw) && raw[i] <= ' ' && (raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\r' || raw[i] == '\t') {
		i++
	}
	return i
}
