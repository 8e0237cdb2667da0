package http

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/linkspan/linkspan/message"
)

// hopByHop reports whether a header (in lower case) concerns one connection only
// (RFC 9110 §7.6.1), so that it says nothing about the message.
func hopByHop(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "transfer-encoding", "upgrade", "expect":
		return true
	default:
		return false
	}
}

// consumed reports whether a header (in lower case) was used up on arrival:
// credentials, or what became a property of the message.
func consumed(name string) bool {
	switch name {
	case "authorization", "cookie", "idempotency-key", "content-length", "content-type", "content-encoding", "accept-encoding":
		return true
	default:
		return false
	}
}

// reserved reports whether a header may not be set by a message, because it frames
// the request or selects its receiver: setting it would be a way to smuggle.
func reserved(name string) bool {
	name = strings.ToLower(name)
	return hopByHop(name) || name == "host" || name == "content-length"
}

// appendHeaders adds the request's headers in lower case, sorted by name.
func appendHeaders(to message.Headers, from http.Header) message.Headers {
	named := from.Values("Connection")
	for name, values := range from {
		lower := strings.ToLower(name)
		if hopByHop(lower) || consumed(lower) || (len(named) > 0 && namedBy(named, lower)) {
			continue
		}
		for _, v := range values {
			to = append(to, message.Header{Name: lower, Value: headerValue(v)})
		}
	}
	slices.SortStableFunc(to, func(a, b message.Header) int { return strings.Compare(a.Name, b.Name) })
	return to
}

// namedBy reports whether a Connection header declares name as hop-by-hop.
func namedBy(connection []string, name string) bool {
	for _, line := range connection {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), name) {
				return true
			}
		}
	}
	return false
}

func headerValue(v string) message.Value {
	if utf8.ValidString(v) {
		return message.String(v)
	}
	return message.Bytes([]byte(v))
}

// validName reports whether s is a token (RFC 9110 §5.6.2).
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// validValue reports whether s can be a field value: no control characters, so no
// way to end the header and start another, and no space at the ends, which would be
// taken off on the way (RFC 9110 §5.5).
func validValue(s string) bool {
	if strings.Trim(s, " \t") != s {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
