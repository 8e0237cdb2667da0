package stomp

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-stomp/stomp/v3/frame"
)

// plain reports whether a command's headers are never escaped (STOMP 1.2, Value
// Encoding).
func plain(command string) bool {
	return command == frame.CONNECT || command == frame.CONNECTED || command == frame.STOMP
}

// unescape undoes the escapes of a version. Ok is false for an escape that it does
// not have, which the specification makes fatal.
func unescape(s string, v version) (_ string, ok bool) {
	at := strings.IndexByte(s, '\\')
	if at < 0 || v < version11 {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for ; at >= 0; at = strings.IndexByte(s, '\\') {
		out = append(out, s[:at]...)
		if at+1 == len(s) {
			return "", false
		}
		switch c := s[at+1]; {
		case c == 'n':
			out = append(out, '\n')
		case c == 'c':
			out = append(out, ':')
		case c == '\\':
			out = append(out, '\\')
		case c == 'r' && v >= version12:
			out = append(out, '\r')
		default:
			return "", false
		}
		s = s[at+2:]
	}
	return string(append(out, s...)), true
}

// carries reports whether a version can carry a header as it is. NUL ends a frame in
// all of them. 1.0 and 1.1 have no escape for CR, which peers cut off or choke on. 1.0 has
// no escapes at all, but brokers undo them, and cut off spaces.
func carries(v version, name, value string) bool {
	if name == "" || strings.IndexByte(name, 0) >= 0 || strings.IndexByte(value, 0) >= 0 || !utf8.ValidString(name) || !utf8.ValidString(value) {
		return false
	}
	switch {
	case v >= version12:
		return true
	case v == version11:
		return !strings.Contains(name, "\r") && !strings.Contains(value, "\r")
	default:
		return !strings.ContainsAny(name, "\r\n:\\") && !strings.ContainsAny(value, "\r\n\\") && strings.TrimSpace(name) == name && strings.TrimSpace(value) == value
	}
}

// appendText writes a name or value with the escapes of a version.
func appendText(b []byte, v version, s string) []byte {
	if v < version11 {
		return append(b, s...)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == ':':
			b = append(b, '\\', 'c')
		case c == '\\':
			b = append(b, '\\', '\\')
		case c == '\r' && v >= version12:
			b = append(b, '\\', 'r')
		default:
			b = append(b, c)
		}
	}
	return b
}

func appendHeader(b []byte, v version, name, value string) []byte {
	b = append(appendText(b, v, name), ':')
	return append(appendText(b, v, value), '\n')
}

func appendNumber(b []byte, name string, n int64) []byte {
	b = append(append(b, name...), ':')
	return append(strconv.AppendInt(b, n, 10), '\n')
}

// appendFrame writes a frame. With a body, it needs its content-length as a header.
func appendFrame(b []byte, v version, f *frame.Frame) []byte {
	if plain(f.Command) {
		v = 0
	}
	b = append(append(b, f.Command...), '\n')
	for i := range f.Header.Len() {
		name, value := f.Header.GetAt(i)
		b = appendHeader(b, v, name, value)
	}
	b = append(b, '\n')
	return append(append(b, f.Body...), 0)
}

// parseHead reads the command and the headers of a frame into fields: names and
// values in turn. CR is what is cut off the end of each line. All strings share one copy.
func parseHead(head []byte, v version, cr string, fields []string) (command string, _ []string, err error) {
	if bytes.IndexByte(head, 0) >= 0 {
		return "", fields, malformed("NUL in a header")
	}
	command, rest, _ := strings.Cut(string(head), "\n")
	command = strings.TrimSuffix(command, cr)
	if plain(command) {
		v = 0
	}
	for {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if line = strings.TrimSuffix(line, cr); line == "" {
			return command, fields, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return "", fields, malformed("a header without name or colon")
		}
		name, ok1 := unescape(name, v)
		value, ok2 := unescape(value, v)
		if !ok1 || !ok2 {
			return "", fields, malformed("an escape that STOMP " + v.String() + " does not have")
		}
		fields = append(fields, name, value)
	}
}

// bodyLength returns what content-length says; -1: it is not there, and NUL ends the
// body.
func bodyLength(h *frame.Header, limit int) (int, error) {
	text, ok := h.Contains(frame.ContentLength)
	if !ok {
		return -1, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	switch {
	case err == nil && n <= uint64(limit):
		return int(n), nil
	case err == nil || strings.Trim(text, "0123456789 ") == "":
		return 0, tooMuch("the frame is larger than the limit")
	default:
		return 0, malformed("content-length is not a number")
	}
}
