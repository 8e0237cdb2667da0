package schemas

import (
	"maps"
	"slices"
)

// shape is the kind of value that a keyword takes.
type shape uint8

const (
	anyValue     shape = iota // not looked at
	text                      // string
	flag                      // boolean
	number                    // number
	positive                  // number above 0
	count                     // integer from 0
	regex                     // regular expression
	names                     // strings, distinct
	values                    // anything, in an array of at least one
	types                     // name of a type or array of them
	schema                    // a schema
	schemaOrFlag              // a schema or, in draft 4 too, a boolean
	schemaList                // schemas, at least one
	schemaMap                 // schemas by name
	regexMap                  // schemas by regular expression
	itemSchemas               // a schema, or schemas by position
	depends                   // schemas or arrays of strings by name
	labels                    // classification labels
	literal                   // compared with values of the message
)

// keyword is what a draft says about one keyword.
type keyword struct {
	shape shape
	// keep: the validator needs it. The others are annotations, or are dealt with here.
	keep bool
	// inPlace: its schemas apply to the same value.
	inPlace bool
}

// vocabulary returns the keywords of a draft.
func vocabulary(draft int) map[string]keyword {
	v := map[string]keyword{
		"$schema": {shape: text}, "$ref": {shape: text}, "title": {shape: text}, "description": {shape: text}, "default": {},
		"format": {text, true, false}, "definitions": {schemaMap, true, false},
		"type": {types, true, false}, "enum": {values, true, false},
		"multipleOf": {positive, true, false}, "maximum": {number, true, false}, "minimum": {number, true, false},
		"maxLength": {count, true, false}, "minLength": {count, true, false}, "pattern": {regex, true, false},
		"items": {itemSchemas, true, false}, "additionalItems": {schemaOrFlag, true, false},
		"maxItems": {count, true, false}, "minItems": {count, true, false}, "uniqueItems": {flag, true, false},
		"maxProperties": {count, true, false}, "minProperties": {count, true, false}, "required": {names, true, false},
		"properties": {schemaMap, true, false}, "patternProperties": {regexMap, true, false},
		"additionalProperties": {schemaOrFlag, true, false}, "dependencies": {depends, true, true},
		"allOf": {schemaList, true, true}, "anyOf": {schemaList, true, true}, "oneOf": {schemaList, true, true},
		"not": {schema, true, true}, "x-classification": {shape: labels}, "confluent:tags": {shape: labels},
		"x-data-classification": {shape: labels}, "$comment": {}, "examples": {}, "contentEncoding": {}, "contentMediaType": {},
	}
	if draft == 4 {
		v["id"] = keyword{shape: text}
		v["exclusiveMaximum"], v["exclusiveMinimum"] = keyword{flag, true, false}, keyword{flag, true, false}
		return v
	}
	v["$id"] = keyword{shape: text}
	v["exclusiveMaximum"], v["exclusiveMinimum"] = keyword{number, true, false}, keyword{number, true, false}
	v["contains"], v["propertyNames"] = keyword{schema, true, false}, keyword{schema, true, false}
	v["const"] = keyword{literal, true, false}
	if draft == 7 {
		v["if"], v["then"], v["else"] = keyword{schema, true, true}, keyword{schema, true, true}, keyword{schema, true, true}
		v["readOnly"], v["writeOnly"] = keyword{shape: flag}, keyword{shape: flag}
	}
	return v
}

// advice says what to write in place of a keyword of another draft or another dialect.
func advice(word string, draft int) string {
	switch word {
	case "$defs":
		return `write "definitions"`
	case "dependentRequired", "dependentSchemas":
		return `write "dependencies"`
	case "prefixItems":
		return `write "items" with an array of schemas, and "additionalItems" for the rest`
	case "unevaluatedProperties", "unevaluatedItems", "minContains", "maxContains", "$dynamicRef", "$recursiveRef", "$vocabulary":
		return "it belongs to draft 2019-09 or later, which is not supported; drafts 4, 6 and 7 are"
	case "$anchor", "$dynamicAnchor":
		return `write "$id": "#name", or refer by "#/definitions/name"`
	case "deprecated", "example", "nullable", "discriminator", "xml", "externalDocs":
		return `it is not of JSON Schema; "nullable" is written "type": ["string", "null"], an annotation of your own "x-` + word + `"`
	case "const":
		return `draft 4 has no "const": write "enum" with one value`
	case "if", "then", "else", "contains", "propertyNames", "readOnly", "writeOnly":
		return `a later draft defines it: add "$schema": "http://json-schema.org/draft-07/schema#"`
	case "id":
		return `since draft 6 it is written "$id"; as an annotation of your own, "x-id"`
	case "$id":
		return `draft 4 writes it "id"`
	case "any", "divisibleBy", "extends", "disallow":
		return "it belongs to draft 3, which is not supported"
	}
	if near := nearest(word, slices.Sorted(maps.Keys(vocabulary(draft)))); near != "" {
		return `did you mean "` + near + `"?`
	}
	return `write annotations of your own as "x-` + word + `"`
}

// nearest is the word of the list that differs from w by at most two letters, or empty.
func nearest(w string, list []string) string {
	best, found := 3, ""
	for _, c := range list {
		if n := distance(w, c); n < best && n < len(w)-1 {
			best, found = n, c
		}
	}
	return found
}

// distance is the number of letters to add, drop or change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
