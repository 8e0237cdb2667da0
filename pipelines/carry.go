package pipelines

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// Headers that carry what a protocol has no place for, so that nothing is dropped
// between two protocols. They are added for a sink, and taken off when a message
// arrives, whoever sent them.
const (
	headerCorrelation = "linkspan-correlation-id"
	headerReplyTo     = "linkspan-reply-to"
	headerContentType = "linkspan-content-type"
	headerExpires     = "linkspan-expires"  // RFC 3339, in UTC
	headerKinds       = "linkspan-kinds"    // name=kind&…, in the order of the headers, names escaped as in URLs
	headerRepeated    = "linkspan-repeated" // name=value&…, in order, escaped as in URLs
)

// carry appends, to the headers that leave from first on, what the sink's protocol has
// no place for.
func carry(headers message.Headers, first int, m *message.Message, to *connectors.Properties) message.Headers {
	for _, p := range [...]struct{ name, place, value string }{
		{headerID, to.ID, m.ID},
		{headerCorrelation, to.CorrelationID, m.CorrelationID},
		{headerReplyTo, to.ReplyTo, m.ReplyTo},
		{headerContentType, to.ContentType, m.ContentType},
	} {
		if p.place == "" && p.value != "" {
			headers = add(headers, first, p.name, textOrBytes(p.value))
		}
	}
	if to.Priority == "" && m.Priority != message.NormalPriority {
		headers = add(headers, first, headerPriority, message.String(strconv.Itoa(int(m.Priority))))
	}
	if to.Expires == "" && !m.Expires.IsZero() {
		headers = add(headers, first, headerExpires, message.String(m.Expires.UTC().Format(time.RFC3339Nano)))
	}
	if kinds := kindsOf(headers[first:], to); kinds != "" {
		headers = append(headers, message.Header{Name: headerKinds, Value: message.String(kinds)})
	}
	if to.Repeats {
		return headers
	}
	return fold(headers, first)
}

// add appends a header, unless a step wrote it.
func add(headers message.Headers, first int, name string, v message.Value) message.Headers {
	if _, written := headers[first:].Get(name); written {
		return headers
	}
	return append(headers, message.Header{Name: name, Value: v})
}

func textOrBytes(s string) message.Value {
	if utf8.ValidString(s) {
		return message.String(s)
	}
	return message.Bytes([]byte(s))
}

// kindsOf lists the headers whose kind does not arrive. A name that occurs several
// times is listed as often, so that the places tell which is which.
func kindsOf(headers message.Headers, to *connectors.Properties) string {
	var b strings.Builder
	for i, h := range headers {
		if !losesKind(headers, h.Name, to) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(h.Name))
		b.WriteByte('=')
		b.WriteString(kindName(headers[i].Value.Kind()))
	}
	return b.String()
}

// losesKind reports whether a header of this name arrives as text and was not: because
// the protocol has no such kind, or because it is folded.
func losesKind(headers message.Headers, name string, to *connectors.Properties) bool {
	seen := 0
	loses, typed := false, false
	for _, h := range headers {
		if !strings.EqualFold(h.Name, name) {
			continue
		}
		seen++
		loses = loses || !to.Kinds.Has(h.Value.Kind())
		typed = typed || h.Value.Kind() != message.KindString
	}
	return loses || typed && seen > 1 && !to.Repeats
}

// fold moves every value of a name but the first into one header.
func fold(headers message.Headers, first int) message.Headers {
	var more strings.Builder
	kept := headers[:first]
	for _, h := range headers[first:] {
		if _, again := kept[first:].Get(h.Name); !again {
			kept = append(kept, h)
			continue
		}
		if more.Len() > 0 {
			more.WriteByte('&')
		}
		more.WriteString(url.QueryEscape(h.Name) + "=" + url.QueryEscape(h.Value.Text()))
	}
	if more.Len() > 0 {
		kept = append(kept, message.Header{Name: headerRepeated, Value: message.String(more.String())})
	}
	return kept
}

func kindName(k message.Kind) string {
	return [...]string{"null", "string", "bytes", "bool", "int", "float", "time"}[k]
}

// unfold puts back the repeated headers and the kinds that carry wrote.
func unfold(m *message.Message) error {
	repeated, isRepeated := take(&m.Headers, headerRepeated)
	if isRepeated {
		err := pairs(repeated, func(name, value string) error {
			m.Headers.Add(name, message.String(value))
			return nil
		})
		if err != nil {
			return badSchedule(headerRepeated, "name=value pairs, escaped as in URLs")
		}
	}
	kinds, isTyped := take(&m.Headers, headerKinds)
	if !isTyped {
		return nil
	}
	next := map[string]int{} // where to look for the next header of a name
	err := pairs(kinds, func(name, kind string) error {
		lower := strings.ToLower(name)
		for i := next[lower]; i < len(m.Headers); i++ {
			if h := &m.Headers[i]; strings.EqualFold(h.Name, name) {
				next[lower] = i + 1
				return retype(&h.Value, kind)
			}
		}
		next[lower] = len(m.Headers)
		return nil // it was removed on the way, by somebody who left the list
	})
	if err != nil {
		return badSchedule(headerKinds, "name=kind pairs that fit the headers")
	}
	return nil
}

// take removes a header and returns its text.
func take(h *message.Headers, name string) (text string, ok bool) {
	for i := range *h {
		if strings.EqualFold((*h)[i].Name, name) {
			text = (*h)[i].Value.Text()
			kept := append(message.Headers{}, (*h)[:i]...)
			*h = append(kept, (*h)[i+1:]...)
			return text, true
		}
	}
	return "", false
}

func pairs(list string, each func(name, value string) error) error {
	for pair := range strings.SplitSeq(list, "&") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return errors.New("a pair without =")
		}
		name, err := url.QueryUnescape(name)
		if err != nil {
			return err
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return err
		}
		if err := each(name, value); err != nil {
			return err
		}
	}
	return nil
}

// retype makes a text what it was before it became text. A value that has a kind other
// than text has kept it.
func retype(v *message.Value, kind string) error {
	if v.Kind() != message.KindString {
		return nil
	}
	text := v.Text()
	var err error
	switch kind {
	case "null":
		*v = message.Value{}
	case "string":
	case "bytes":
		var b []byte
		b, err = base64.StdEncoding.DecodeString(text)
		*v = message.Bytes(b)
	case "bool":
		var b bool
		b, err = strconv.ParseBool(text)
		*v = message.Bool(b)
	case "int":
		var n int64
		n, err = strconv.ParseInt(text, 10, 64)
		*v = message.Int(n)
	case "float":
		var f float64
		f, err = strconv.ParseFloat(text, 64)
		*v = message.Float(f)
	case "time":
		var t time.Time
		t, err = time.Parse(time.RFC3339Nano, text)
		*v = message.Time(t)
	default:
		err = errors.New("there is no such kind")
	}
	return err
}
