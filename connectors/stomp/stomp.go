// Package stomp connects linkspan to STOMP 1.2, 1.1 and 1.0: it subscribes at a
// broker, sends to one, and listens for clients.
//
// Delivery. A message from a broker is acknowledged (ACK), and a client's SEND is
// answered (RECEIPT), strictly after it was handed on: at least once. A sink has
// delivered a message when the broker's RECEIPT for it came; every SEND asks for one,
// and none waits for the one before. In a transaction the RECEIPT of COMMIT is needed
// too.
//
// Order. A connection's messages are handed on in the order of their arrival, one
// batch at a time; the next batch gathers meanwhile. The key of a message from a broker
// is its destination; that of a client's is the connection, or its client-id header,
// and the destination.
//
// A broker's ERROR does not always say which message it is about. Such an error ends
// the connection, and the next one sends one message at a time until the one at fault
// has shown itself.
//
// The codec is the package's own, because peers are not trusted: frames are bounded
// before memory is spent on them, and escapes follow the version that was agreed.
package stomp

import (
	"fmt"
	"strings"
)

// version is a version of the protocol. Zero: none was agreed, so nothing is escaped.
type version uint8

const (
	version10 version = 10
	version11 version = 11
	version12 version = 12
)

// String returns the version as it is written in headers.
func (v version) String() string { return fmt.Sprintf("%d.%d", v/10, v%10) }

func versionOf(text string) version {
	switch text {
	case "1.0":
		return version10
	case "1.1":
		return version11
	case "1.2":
		return version12
	default:
		return 0
	}
}

// upTo lists the versions up to v, for accept-version.
func upTo(v version) string {
	names := make([]string, 0, 3)
	for _, known := range []version{version10, version11, version12} {
		if known <= v {
			names = append(names, known.String())
		}
	}
	return strings.Join(names, ",")
}

// highest returns the highest version of a list that is spoken here; zero: none is.
func highest(list string) (best version) {
	for name := range strings.SplitSeq(list, ",") {
		best = max(best, versionOf(strings.TrimSpace(name)))
	}
	return best
}

// wireError is what is wrong with a peer's frame. Its text quotes nothing of it.
type wireError struct{ code, text string }

// Error implements error.
func (e *wireError) Error() string { return e.code + ": " + e.text }

func malformed(text string) error { return &wireError{"LS4350", "malformed frame: " + text} }

// codeTooMuch is the code of what is over a limit.
const codeTooMuch = "LS4351"

func tooMuch(text string) error { return &wireError{codeTooMuch, text} }
