package schemas

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xeipuuv/gojsonschema"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

// separator cannot occur in a name, which is valid UTF-8.
const separator = "\xff"

// Validate scans the message strictly and checks it against the schema. The error is a *jsonscan.SyntaxError, an
// *Invalid or a *Fault. Of formats the validator checks date, time, date-time, email, hostname, ipv4, ipv6, uri and its
// kin, uuid, regex and JSON pointers; others are annotations.
func (s *Schema) Validate(raw []byte) error {
	if err := jsonscan.Check(raw); err != nil {
		return err
	}
	return s.ValidateScanned(raw)
}

// ValidateScanned is Validate for a message that has passed the scan.
func (s *Schema) ValidateScanned(raw []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = &Fault{}
		}
	}()
	tree, err := jsonscan.DecodeText(raw)
	if err != nil {
		return err
	}
	result, err := s.compiled.Validate(gojsonschema.NewRawLoader(tree))
	if err != nil {
		return &Fault{}
	}
	if result.Valid() {
		return nil
	}
	return s.explain(result.Errors())
}

// violation is one finding of the validator.
type violation struct {
	path    []string
	keyword string
	text    string
}

// explain picks the violation that stands first in the document's order of pointers, so that the same message always
// gets the same answer: the validator's own order changes from run to run.
func (s *Schema) explain(found []gojsonschema.ResultError) error {
	list := make([]violation, len(found))
	for i, e := range found {
		path := strings.Split(e.Context().String(separator), separator)[1:]
		keyword, text := describe(e)
		list[i] = violation{path, keyword, text}
	}
	first := slices.MinFunc(list, func(a, b violation) int {
		return cmp.Or(slices.Compare(a.path, b.path), cmp.Compare(a.keyword, b.keyword), cmp.Compare(a.text, b.text))
	})
	pointer, places := s.document.follow(first.path)
	return &Invalid{
		Pointer: pointer, Keyword: first.keyword, SchemaPointer: s.document.locate(places, first.keyword),
		Text: first.text, More: len(list) - 1,
	}
}

// follow goes down the schema along a path of the message. The pointer has * for names that no schema on the way has.
func (d *document) follow(path []string) (pointer string, places []*place) {
	places = d.spread([]*place{d.places[""]})
	for _, name := range path {
		below, declared := d.below(places, name)
		if !declared {
			name = "*"
		}
		pointer = child(pointer, name)
		places = d.spread(below)
	}
	return pointer, places
}

// spread adds all schemas that apply to the same value.
func (d *document) spread(list []*place) []*place {
	for i := 0; i < len(list); i++ {
		for _, p := range d.sameValue(list[i]) {
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}

// below lists the schemas for the member or element of that name, and whether the name may be shown.
func (d *document) below(places []*place, name string) (list []*place, declared bool) {
	_, err := strconv.Atoi(name)
	index := err == nil
	add := func(pointer string) bool {
		p := d.places[pointer]
		if p != nil {
			list = append(list, p)
		}
		return p != nil
	}
	for _, p := range places {
		m, _ := p.node.(map[string]any)
		if add(child(child(p.pointer, "properties"), name)) {
			declared = true
			continue
		}
		for _, pattern := range sortedNames(object(m["patternProperties"])) {
			add(child(child(p.pointer, "patternProperties"), pattern))
		}
		add(child(p.pointer, "additionalProperties"))
		if !index || m["items"] == nil && m["contains"] == nil {
			continue
		}
		// Only an array has positions here, as far as the schema says; a number is no name of a person.
		declared = true
		if !add(child(p.pointer, "items")) && !add(child(child(p.pointer, "items"), name)) {
			add(child(p.pointer, "additionalItems"))
		}
	}
	return list, declared
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// locate is the pointer of the keyword in the first of the schemas that has it.
func (d *document) locate(places []*place, keyword string) string {
	for _, p := range places {
		if m, ok := p.node.(map[string]any); ok && m[keyword] != nil {
			return child(p.pointer, keyword)
		}
	}
	if len(places) > 0 {
		return places[0].pointer
	}
	return ""
}

// describe names the keyword of a finding and says what it asks for. Of the validator's details only those are used
// that come from the schema or name a kind.
func describe(e gojsonschema.ResultError) (keyword, text string) {
	detail := func(format, key string) string { return fmt.Sprintf(format, e.Details()[key]) }
	switch e.Type() {
	case "required":
		return "required", detail("has no member %q, which is required", "property")
	case "invalid_type":
		return "type", detail("must be of type %v", "expected") + detail(" and is of type %v", "given")
	case "missing_dependency":
		return "dependencies", detail("has no member %q, which another member requires", "dependency")
	case "array_min_items":
		return "minItems", detail("must have at least %v elements", "min")
	case "array_max_items":
		return "maxItems", detail("must have at most %v elements", "max")
	case "array_min_properties":
		return "minProperties", detail("must have at least %v members", "min")
	case "array_max_properties":
		return "maxProperties", detail("must have at most %v members", "max")
	case "string_gte":
		return "minLength", detail("must have at least %v characters", "min")
	case "string_lte":
		return "maxLength", detail("must have at most %v characters", "max")
	case "pattern":
		return "pattern", detail("must match the regular expression %v", "pattern")
	case "format":
		return "format", detail("must have the format %v", "format")
	case "multiple_of":
		return "multipleOf", detail("must be a multiple of %v", "multiple")
	case "number_gte":
		return "minimum", detail("must be at least %v", "min")
	case "number_gt":
		return "exclusiveMinimum", detail("must be above %v", "min")
	case "number_lte":
		return "maximum", detail("must be at most %v", "max")
	case "number_lt":
		return "exclusiveMaximum", detail("must be below %v", "max")
	default:
		return describeRest(e.Type())
	}
}

// describeRest describes findings whose details are not used.
func describeRest(typ string) (keyword, text string) {
	switch typ {
	case "const":
		return "const", "must be the one value that the schema gives"
	case "enum":
		return "enum", "must be one of the values that the schema lists"
	case "unique":
		return "uniqueItems", "must not have equal elements"
	case "contains":
		return "contains", "must have an element that matches the schema of contains"
	case "array_no_additional_items":
		return "additionalItems", "has more elements than the schema allows"
	case "additional_property_not_allowed":
		return "additionalProperties", "has a member that the schema does not name"
	case "invalid_property_pattern":
		return "patternProperties", "has a member whose name matches no pattern"
	case "invalid_property_name":
		return "propertyNames", "has a member whose name is not allowed"
	case "number_any_of":
		return "anyOf", "must match at least one of the schemas of anyOf"
	case "number_one_of":
		return "oneOf", "must match exactly one of the schemas of oneOf"
	case "number_all_of":
		return "allOf", "must match all schemas of allOf"
	case "number_not":
		return "not", "must not match the schema of not"
	case "condition_then":
		return "then", "must match the schema of then"
	case "condition_else":
		return "else", "must match the schema of else"
	case "false":
		return "", "is not allowed at all"
	default:
		return "", "does not match"
	}
}
