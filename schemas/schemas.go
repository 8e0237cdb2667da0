// Package schemas loads JSON Schemas and validates messages with them. It is the only package that knows the validator.
//
// Guarantees:
//
//   - A schema that loads means what it says: a keyword that its draft does not define, a keyword beside $ref (which
//     the drafts ignore), a value of the wrong shape, a draft that is not supported, a reference to another document and
//     a reference that leads back to itself without going into the message are all refused at load, each with file,
//     JSON pointer, reason and advice. Nothing is fetched, neither from disk nor from a network.
//   - Schemas and messages pass the strict scan of jsonscan: no duplicate names, nothing after the value, bounded depth
//     and numbers.
//   - Validation never ends the process: a fault of the validator is an error of that message.
//   - What is reported of an invalid message is where and by which rule, never a value and never a member's name that
//     the schema does not have.
//
// A Schema is immutable and may be used by any number of goroutines.
package schemas

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/xeipuuv/gojsonschema"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

// Schema is a loaded JSON Schema.
type Schema struct {
	name     string
	compiled *gojsonschema.Schema
	document *document
	typ      *Type
}

// Load reads the schema in the file. What is wrong with it is an Errors with everything that was found.
func Load(fsys fs.FS, name string) (*Schema, error) {
	raw, err := fs.ReadFile(fsys, name)
	if err != nil {
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			err = path.Err
		}
		return nil, Errors{{File: name, Code: CodeRead, What: "the schema cannot be read: " + err.Error()}}
	}
	return Parse(name, raw)
}

// Parse is Load for the text of a schema; the name is used in errors.
func Parse(name string, raw []byte) (*Schema, error) {
	if err := jsonscan.Check(raw); err != nil {
		return nil, notJSON(name, raw, err)
	}
	root, err := jsonscan.DecodeText(raw)
	if err != nil {
		return nil, notJSON(name, raw, err)
	}
	d := newDocument(name, root)
	d.read()
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	compiled, err := compile(d)
	if err != nil {
		return nil, Errors{{File: name, Code: CodeValidator, What: "the validator refuses the schema: " + err.Error()}}
	}
	return &Schema{name: name, compiled: compiled, document: d, typ: newTypes(d).root()}, nil
}

// Name is the name that the schema was loaded by.
func (s *Schema) Name() string { return s.name }

// Type is what the schema says about the fields of a message. It must not be changed.
func (s *Schema) Type() *Type { return s.typ }

func notJSON(name string, raw []byte, err error) error {
	e := &Problem{File: name, Code: CodeNotJSON, What: "the schema is not strict JSON: " + err.Error()}
	if syntax, ok := errors.AsType[*jsonscan.SyntaxError](err); ok {
		line, column := 1, 1
		for _, c := range string(raw[:min(syntax.Offset, len(raw))]) {
			if column++; c == '\n' {
				line, column = line+1, 1
			}
		}
		e.What = fmt.Sprintf("line %d, column %d: the schema is not strict JSON: %s (%s)", line, column, syntax.Reason(), syntax.Code)
	}
	return Errors{e}
}

// noLoader hands the validator a document and no way to get another.
type noLoader struct{ gojsonschema.JSONLoader }

// LoaderFactory returns a factory whose loaders refuse.
func (noLoader) LoaderFactory() gojsonschema.JSONLoaderFactory { return refusing{} }

type refusing struct{}

// New returns a loader that refuses.
func (refusing) New(string) gojsonschema.JSONLoader {
	return refusal{noLoader{gojsonschema.NewRawLoader(nil)}}
}

type refusal struct{ noLoader }

// LoadJSON refuses.
func (refusal) LoadJSON() (any, error) {
	return nil, errors.New("references to other documents are not followed")
}

// compile gives the validator a cleaned copy of the schema, with all references local.
func compile(d *document) (s *gojsonschema.Schema, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("it panics: %v", r)
		}
	}()
	loader := gojsonschema.NewSchemaLoader()
	loader.AutoDetect = false
	loader.Draft = gojsonschema.Draft(d.draft)
	return loader.Compile(noLoader{gojsonschema.NewRawLoader(d.clean("", d.root))})
}
