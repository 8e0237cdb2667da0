package pipelines

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/message"
)

// Headers by which a sender says how the queue shall treat its message, in any
// protocol that carries headers. They are taken off the message.
const (
	scheduled = "linkspan-" // their prefix

	headerPriority = "linkspan-priority" // 0 to 9
	headerDelay    = "linkspan-delay"    // seconds, or a duration such as 1h30m
	headerTTL      = "linkspan-ttl"      // the same
	headerID       = "linkspan-id"       // what deduplication knows the message by
)

// maxDelay bounds what a sender may ask for.
const maxDelay = 366 * 24 * time.Hour

// schedule turns linkspan's own headers into properties of the message.
func schedule(m *message.Message, now time.Time) error {
	if !slices.ContainsFunc(m.Headers, isScheduled) {
		return nil
	}
	if err := unfold(m); err != nil {
		return err
	}
	kept := make(message.Headers, 0, len(m.Headers))
	for i, h := range m.Headers {
		name := strings.ToLower(h.Name)
		switch name {
		case headerPriority, headerDelay, headerTTL, headerID, headerCorrelation, headerReplyTo, headerContentType, headerExpires:
		default:
			kept = append(kept, h)
			continue
		}
		again := func(x message.Header) bool { return strings.EqualFold(x.Name, name) }
		if slices.ContainsFunc(m.Headers[:i], again) { // which of them was meant?
			return badSchedule(name, "there once at most")
		}
		text := h.Value.Text()
		if h.Value.Kind() == message.KindBytes {
			text, _ = h.Value.Raw()
		}
		if err := apply(m, name, text, now); err != nil {
			return err
		}
	}
	m.Headers = kept
	return nil
}

func isScheduled(h message.Header) bool {
	return len(h.Name) > len(scheduled) && strings.EqualFold(h.Name[:len(scheduled)], scheduled)
}

func apply(m *message.Message, name, value string, now time.Time) error {
	switch name {
	case headerPriority:
		p, err := strconv.ParseUint(value, 10, 8)
		if err != nil || p > 9 {
			return badSchedule(name, "a number from 0 to 9")
		}
		m.Priority = uint8(p)
	case headerDelay:
		d, ok := parseDelay(value)
		if !ok {
			return badSchedule(name, "seconds or a duration such as 1h30m, at most 366 days")
		}
		m.NotBefore = now.Add(d)
	case headerTTL:
		d, ok := parseDelay(value)
		if !ok || d == 0 {
			return badSchedule(name, "seconds or a duration such as 1h30m, more than 0 and at most 366 days")
		}
		m.Expires = now.Add(d)
	case headerID:
		if value == "" || len(value) > 255 {
			return badSchedule(name, "1 to 255 bytes")
		}
		m.ID = value
	case headerCorrelation:
		m.CorrelationID = value
	case headerReplyTo:
		m.ReplyTo = value
	case headerContentType:
		m.ContentType = value
	case headerExpires:
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return badSchedule(name, "an instant as in RFC 3339")
		}
		m.Expires = t
	}
	return nil
}

// parseDelay reads seconds, or a Go duration.
func parseDelay(s string) (time.Duration, bool) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		d := time.Duration(n) * time.Second
		return d, d <= maxDelay
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0 && d <= maxDelay
}

func badSchedule(header, want string) error {
	return &message.Reason{Code: "LS2108", Step: "in", Text: fmt.Sprintf("the header %s must be %s", header, want), Permanent: true}
}
