package jsonscan

import (
	"errors"
	"fmt"
)

// Codes of a SyntaxError.
const (
	CodeMalformed = "LS2101" // not JSON
	CodeDuplicate = "LS2102" // two members of one object have the same name
	CodeEncoding  = "LS2103" // not valid UTF-8, or an escape that names half of a surrogate pair
	CodeDepth     = "LS2104" // more than MaxDepth nested containers
	CodeNumber    = "LS2105" // a number beyond MaxDigits or MaxExponent
	CodeTrailing  = "LS2106" // something follows the value
	CodeEmpty     = "LS2107" // no value at all
)

// Errors of edits.
var (
	// ErrParentKind is returned by Set if an ancestor exists and is not an object, or an array element does not exist.
	ErrParentKind = errors.New("a parent of the path is not an object or has no such element")
	// ErrManyValues is returned by Set for a path with [*]: such a path is written with Each.
	ErrManyValues = errors.New("the path names many values")
)

// SyntaxError says what is wrong with a document and where, without quoting it.
type SyntaxError struct {
	// Code is one of the codes of this package.
	Code string
	// Offset is the byte at which the trouble was found, counted from 0.
	Offset int
}

// Error gives the reason and the offset; it never quotes the document.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at byte %d (%s)", e.Reason(), e.Offset, e.Code)
}

// Reason says in words what the code means.
func (e *SyntaxError) Reason() string {
	switch e.Code {
	case CodeDuplicate:
		return "an object has two members of the same name"
	case CodeEncoding:
		return "a string is not valid Unicode text"
	case CodeDepth:
		return fmt.Sprintf("more than %d nested objects and arrays", MaxDepth)
	case CodeNumber:
		return fmt.Sprintf("a number has more than %d digits or an exponent beyond ±%d", MaxDigits, MaxExponent)
	case CodeTrailing:
		return "something follows the value"
	case CodeEmpty:
		return "the document is empty"
	default:
		return "malformed JSON"
	}
}

// PathError says what is wrong with the text of a path and where.
type PathError struct {
	// Path is the text as it was given.
	Path string
	// Offset is the byte of Path at which the trouble was found.
	Offset int
	// Reason says what is wrong.
	Reason string
}

// Error gives the path, the offset and the reason.
func (e *PathError) Error() string {
	return fmt.Sprintf("path %q, offset %d: %s", e.Path, e.Offset, e.Reason)
}
