// Package jsonscan reads and edits JSON where it lies: one strict pass over the bytes of a message finds the values
// that a plan names, and every change is spliced into the bytes at the end.
//
// Guarantees:
//
//   - A document that passes Scan is JSON by RFC 8259 in valid UTF-8, has no control character in a string, no lone
//     surrogate escape, no object with two members of one name (names are compared after their escapes are undone),
//     nothing after its value, at most MaxDepth nested containers and no number beyond MaxDigits digits or an
//     exponent of MaxExponent. Every reader of such a document sees the same values, so that none of these can be
//     used to carry a field past a mask.
//   - Bytes that nobody wrote come out as they came in: order of members, white space, text of numbers, escapes.
//   - No input makes the scan recurse, panic or take more than linear time; the table that finds duplicate names is
//     seeded at random.
//   - A scan, a read and an edit allocate nothing once the buffers of a Doc have grown to the size of its messages.
//   - Errors carry a code and an offset, never a byte of the document.
//
// A Set is the union of all paths of a plan. It is immutable and shared. A Doc is a view on one message; it belongs to
// one goroutine and is reused from message to message by Reset.
package jsonscan

// Limits of a document.
const (
	// MaxDepth is the number of containers that may be open at once.
	MaxDepth = 1000
	// MaxDigits is the number of digits that a number may have before its exponent.
	MaxDigits = 400
	// MaxExponent is the largest exponent of a number, of either sign.
	MaxExponent = 400
	// maxLen keeps offsets within 32 bits.
	maxLen = 1<<31 - 1
)

// Check scans raw strictly and reports the first thing that is wrong with it.
func Check(raw []byte) error {
	var d Doc
	d.Reset(nil, raw)
	return d.Scan()
}
