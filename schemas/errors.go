package schemas

import (
	"fmt"
	"strings"
)

// Codes of errors of this package.
const (
	CodeRead      = "LS1401" // the file cannot be read
	CodeNotJSON   = "LS1402" // the schema is not strict JSON
	CodeDraft     = "LS1403" // $schema names a draft that is not supported
	CodeKeyword   = "LS1404" // a keyword that the draft does not define, or that a $ref hides
	CodeShape     = "LS1405" // a keyword's value is of the wrong kind
	CodeExternal  = "LS1406" // $ref leads to another document
	CodeTarget    = "LS1407" // $ref leads to nothing, or to no schema
	CodeLoop      = "LS1408" // a schema applies itself to the same value
	CodePattern   = "LS1409" // a regular expression is not one of RE2
	CodeInexact   = "LS1410" // a number that the validator cannot compare exactly
	CodeValidator = "LS1411" // the validator refuses the schema
	CodeLabels    = "LS1412" // classification labels are not text
	CodeIdentity  = "LS1413" // two schemas have the same $id, or it is no URI
	CodeInvalid   = "LS1420" // a message does not match the schema
	CodeFault     = "LS1421" // the validator failed on a message
)

// Problem is one thing that is wrong with a schema.
type Problem struct {
	// File is the name the schema was loaded by.
	File string
	// Pointer is the JSON pointer of the place; empty for the whole schema.
	Pointer string
	// Code is one of the codes of this package.
	Code string
	// What says what is wrong, Fix what to write instead.
	What, Fix string
}

// Error gives file, pointer, code and what is wrong; Fix is not in it.
func (e *Problem) Error() string {
	return fmt.Sprintf("%s#%s: %s: %s", e.File, e.Pointer, e.Code, e.What)
}

// Errors is everything that is wrong with a schema, in the order of the pointers' walk.
type Errors []*Problem

// Error gives one line a problem, with what to do.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		if lines[i] = e[i].Error(); e[i].Fix != "" {
			lines[i] += "; " + e[i].Fix
		}
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single problems.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i := range e {
		list[i] = e[i]
	}
	return list
}

// Invalid says where and by which rule a message does not match its schema. It holds no value of the message.
type Invalid struct {
	// Pointer is the JSON pointer of the value in the message. A member whose name is not in the schema is written *.
	Pointer string
	// Keyword is the keyword that refuses the value; empty if the schema is the literal false.
	Keyword string
	// SchemaPointer is the JSON pointer of the keyword in the schema, as well as it can be told.
	SchemaPointer string
	// Text says what the rule asks for.
	Text string
	// More is the number of other violations that were found.
	More int
}

// Code is CodeInvalid.
func (e *Invalid) Code() string { return CodeInvalid }

// Error gives place and rule.
func (e *Invalid) Error() string {
	at := e.Pointer
	if at == "" {
		at = "the document"
	}
	text := fmt.Sprintf("%s %s (schema#%s)", at, e.Text, e.SchemaPointer)
	if e.More > 0 {
		text += fmt.Sprintf(" and %d more", e.More)
	}
	return text
}

// Fault says that the validator itself failed on a message. The message counts as not valid.
type Fault struct{}

// Code is CodeFault.
func (*Fault) Code() string { return CodeFault }

// Error says so; the cause is not quoted since it may hold data.
func (*Fault) Error() string { return "the validator failed on the message (" + CodeFault + ")" }
