// Package schemas loads JSON Schemas, validates documents against them behind a
// strict gate, and tells the compiler what they say about fields.
package schemas
