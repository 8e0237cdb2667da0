package connectors

import "github.com/linkspan/linkspan/message"

// Properties say where a protocol carries the properties of a message, in the
// protocol's own words: "message-id", "header Idempotency-Key". An empty word means
// that it has no place for the property: the engine then puts it into a header of
// linkspan's own (see docs/properties.md), and takes it off again on arrival, so that a
// connector maps what its protocol has and nothing else.
type Properties struct {
	// ID, CorrelationID, ReplyTo, ContentType, Priority and Expires are the fields of
	// message.Message of these names.
	ID, CorrelationID, ReplyTo, ContentType, Priority, Expires string
	// Time and Key are for the documentation: a receiver sets its own Time where there
	// is none, and a Key leaves only where a sink has an option for it.
	Time, Key string
	// Kinds are the kinds of header values that arrive as what they were sent as. Other
	// values are sent as their text, and the engine adds their kinds.
	Kinds Kinds
	// Repeats says that a header name may occur several times.
	Repeats bool
	// Notes are for the documentation: what is rounded, renamed or refused.
	Notes []string
}

// Kinds is a set of kinds of header values.
type Kinds uint16

// KindsOf returns the set of the given kinds.
func KindsOf(kinds ...message.Kind) (set Kinds) {
	for _, k := range kinds {
		set |= 1 << k
	}
	return set
}

// TextOnly is the set of protocols whose headers are text.
func TextOnly() Kinds { return 0 }

// AllKinds is the set of protocols whose headers have types.
func AllKinds() Kinds {
	return KindsOf(message.KindNull, message.KindString, message.KindBytes, message.KindBool, message.KindInt, message.KindFloat, message.KindTime)
}

// Has reports whether k is in the set. Text always is.
func (s Kinds) Has(k message.Kind) bool { return k == message.KindString || s&(1<<k) != 0 }
