package amqp1

import (
	"encoding/hex"
	"strconv"
	"strings"

	amqp "github.com/Azure/go-amqp"
)

// The prefixes of identifiers that are no text, as in the JMS mapping of AMQP. They are
// upper case, and so are the digits of binary ones.
const (
	idULong  = "ID:AMQP_ULONG:"
	idUUID   = "ID:AMQP_UUID:"
	idBinary = "ID:AMQP_BINARY:"
	idString = "ID:AMQP_STRING:"
)

// readID turns a message-id or correlation-id into text. A text that reads as another
// type gets a prefix, so that writeID gives back what there was.
func readID(id any) string {
	switch v := id.(type) {
	case string:
		if same, isText := writeID(v).(string); isText && same == v {
			return v
		}
		return idString + v
	case uint64:
		return idULong + strconv.FormatUint(v, 10)
	case amqp.UUID:
		return idUUID + v.String()
	case []byte:
		return idBinary + strings.ToUpper(hex.EncodeToString(v))
	default:
		return ""
	}
}

// writeID turns a text into an identifier. It is the inverse of readID, in both
// directions: what only looks like a prefix stays text.
func writeID(id string) any {
	switch {
	case !strings.HasPrefix(id, "ID:AMQP_"):
	case strings.HasPrefix(id, idULong):
		if n, err := strconv.ParseUint(id[len(idULong):], 10, 64); err == nil && readID(n) == id {
			return n
		}
	case strings.HasPrefix(id, idUUID):
		if u, ok := parseUUID(id[len(idUUID):]); ok && readID(u) == id {
			return u
		}
	case strings.HasPrefix(id, idBinary):
		if b, err := hex.DecodeString(id[len(idBinary):]); err == nil && readID(b) == id {
			return b
		}
	case strings.HasPrefix(id, idString):
		if rest := id[len(idString):]; readID(rest) == id {
			return rest
		}
	}
	return id
}

func parseUUID(s string) (u amqp.UUID, ok bool) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, false
	}
	return amqp.UUID(b), true
}
