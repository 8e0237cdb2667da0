package schemas

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// document is a schema that is being read, and what is known of its parts.
type document struct {
	name     string
	root     any
	draft    int
	words    map[string]keyword
	places   map[string]*place // by pointer
	order    []*place
	ids      map[string]string // pointers by absolute URI
	problems Errors
}

// place is one schema within the document.
type place struct {
	pointer string
	node    any      // map or bool
	base    *url.URL // that references are relative to
	target  *place   // of its $ref
	inPlace []string // pointers of the schemas that apply to the same value
}

func newDocument(name string, root any) *document {
	return &document{name: name, root: root, places: map[string]*place{}, ids: map[string]string{}}
}

func (d *document) problem(pointer, code, what, do string) {
	d.problems = append(d.problems, &Problem{d.name, pointer, code, what, do})
}

// read checks everything and fills places.
func (d *document) read() {
	if d.draft = d.readDraft(); d.draft == 0 {
		return
	}
	d.words = vocabulary(d.draft)
	base := &url.URL{}
	d.ids[""] = ""
	d.visit("", d.root, base, d.draft > 4)
	for _, p := range d.order {
		d.resolve(p)
	}
	if len(d.problems) == 0 {
		d.findLoops()
	}
}

// readDraft is the number of the draft that $schema names, 7 without one, and 0 after an error.
func (d *document) readDraft() int {
	m, _ := d.root.(map[string]any)
	v, ok := m["$schema"]
	if !ok {
		return 7
	}
	s, ok := v.(string)
	if !ok {
		d.problem("/$schema", CodeShape, `"$schema" must be a string`, "")
		return 0
	}
	switch strings.TrimSuffix(strings.Replace(s, "https://", "http://", 1), "#") {
	case "http://json-schema.org/draft-04/schema":
		return 4
	case "http://json-schema.org/draft-06/schema":
		return 6
	case "http://json-schema.org/draft-07/schema":
		return 7
	}
	d.problem("/$schema", CodeDraft, fmt.Sprintf("the draft %q is not supported", s),
		`drafts 4, 6 and 7 are: write "http://json-schema.org/draft-07/schema#" and use only what that draft defines`)
	return 0
}

// child is the pointer one step below.
func child(pointer, name string) string {
	return pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// visit reads the schema at the pointer and those within it. It recurses by depth, which the scan bounds.
func (d *document) visit(pointer string, node any, base *url.URL, boolean bool) {
	p := &place{pointer: pointer, node: node, base: base}
	m, ok := node.(map[string]any)
	if _, isBool := node.(bool); !ok && (!isBool || !boolean) {
		do := "a schema is an object or a boolean"
		if d.draft == 4 {
			do = "a schema of draft 4 is an object"
		}
		d.problem(pointer, CodeShape, "this is not a schema", do)
		return
	}
	d.places[pointer] = p
	d.order = append(d.order, p)
	_, ref := m["$ref"]
	if !ref {
		d.identify(p, m)
	}
	for _, word := range sortedNames(m) {
		k, known := d.words[word]
		switch {
		case strings.HasPrefix(word, "x-") && !known:
		case word == "$schema" && pointer != "":
			d.problem(child(pointer, word), CodeDraft, "a part of a schema cannot have a draft of its own", "say it once, at the top")
		case !known:
			d.problem(child(pointer, word), CodeKeyword, fmt.Sprintf("draft %d does not define %q", d.draft, word), advice(word, d.draft))
		case ref && k.keep && word != "definitions", ref && (word == "id" || word == "$id"):
			d.problem(child(pointer, word), CodeKeyword, fmt.Sprintf(`%q has no effect beside "$ref"`, word),
				`drop it, or write "allOf": [{"$ref": …}, {…}]`)
		default:
			d.value(p, word, k, m[word])
		}
	}
}

// identify notes the schema's own URI and makes it the base of what is within.
func (d *document) identify(p *place, m map[string]any) {
	word := "$id"
	if d.draft == 4 {
		word = "id"
	}
	s, ok := m[word].(string)
	if !ok {
		return
	}
	u, err := url.Parse(s)
	if err != nil {
		d.problem(child(p.pointer, word), CodeIdentity, fmt.Sprintf("%q is not a URI", word), "")
		return
	}
	abs := p.base.ResolveReference(u)
	if abs.Fragment == "" || !strings.HasPrefix(s, "#") {
		base := *abs
		base.Fragment = ""
		p.base = &base
	}
	key := abs.String()
	if at, taken := d.ids[strings.TrimSuffix(key, "#")]; taken && at != p.pointer {
		d.problem(child(p.pointer, word), CodeIdentity, fmt.Sprintf("the schema at #%s has the same %q", at, word), "give each its own")
		return
	}
	d.ids[strings.TrimSuffix(key, "#")] = p.pointer
}

// value checks a keyword's value and visits the schemas in it.
func (d *document) value(p *place, word string, k keyword, v any) {
	at := child(p.pointer, word)
	bad := func(what string) { d.problem(at, CodeShape, fmt.Sprintf("%q must be %s", word, what), "") }
	switch k.shape {
	case schema, schemaOrFlag:
		d.sub(p, k, at, v, d.draft > 4 || k.shape == schemaOrFlag)
	case schemaList:
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			bad("an array of at least one schema")
		}
		d.subs(p, k, at, list)
	case itemSchemas:
		if list, ok := v.([]any); ok {
			d.subs(p, k, at, list)
		} else {
			d.sub(p, k, at, v, d.draft > 4)
		}
	case schemaMap, regexMap, depends:
		m, ok := v.(map[string]any)
		if !ok {
			bad("an object")
		}
		for _, name := range sortedNames(m) {
			list, isList := m[name].([]any)
			switch {
			case k.shape == depends && isList:
				d.names(child(at, name), list)
				continue
			case k.shape == regexMap:
				d.regex(child(at, name), name)
			}
			d.sub(p, k, child(at, name), m[name], d.draft > 4)
		}
	default:
		d.plain(p, word, k, v, bad)
	}
}

func (d *document) sub(p *place, k keyword, at string, v any, boolean bool) {
	if k.inPlace {
		p.inPlace = append(p.inPlace, at)
	}
	d.visit(at, v, p.base, boolean)
}

func (d *document) subs(p *place, k keyword, at string, list []any) {
	for i, v := range list {
		d.sub(p, k, child(at, strconv.Itoa(i)), v, d.draft > 4)
	}
}

// plain checks a value that holds no schemas.
func (d *document) plain(p *place, word string, k keyword, v any, bad func(what string)) {
	at := child(p.pointer, word)
	n, isNumber := v.(json.Number)
	s, isString := v.(string)
	_, isBool := v.(bool)
	list, isList := v.([]any)
	switch {
	case k.shape == text && !isString:
		bad("a string")
	case k.shape == flag && !isBool:
		bad("true or false")
	case k.shape == number && !isNumber:
		bad("a number")
	case k.shape == positive && (!isNumber || !above0(n)):
		bad("a number above 0")
	case k.shape == count && (!isNumber || wholeText(n) == ""):
		bad("a whole number from 0 to 2147483647")
	case k.shape == regex && !isString:
		bad("a string with a regular expression")
	case k.shape == regex:
		d.regex(at, s)
	case k.shape == names && (!isList || d.draft == 4 && len(list) == 0):
		bad("an array of names")
	case k.shape == names:
		d.names(at, list)
	case k.shape == values && (!isList || len(list) == 0):
		bad("an array of at least one value")
	case k.shape == values || k.shape == literal:
		d.exact(at, v)
	case k.shape == types && !typeNames(v):
		bad("the name of a type, or an array of them: array, boolean, integer, null, number, object, string")
	case k.shape == labels && readLabels(v) == nil:
		d.problem(at, CodeLabels, fmt.Sprintf("%q must be a label or an array of labels", word), `write ["pii.contact.email"]`)
	}
}

func (d *document) names(at string, list []any) {
	seen := map[string]bool{}
	for i, v := range list {
		s, ok := v.(string)
		if !ok || seen[s] {
			d.problem(child(at, strconv.Itoa(i)), CodeShape, "this must be a name, and each only once", "")
		}
		seen[s] = true
	}
}

func (d *document) regex(at, s string) {
	if _, err := regexp.Compile(s); err != nil {
		d.problem(at, CodePattern, "the regular expression is not supported: "+err.Error(),
			"the syntax is RE2: without look-around and back-references")
	}
}

// exact refuses numbers that the validator, which compares by float64, takes for their neighbours.
func (d *document) exact(at string, v any) {
	switch v := v.(type) {
	case json.Number:
		i, err := strconv.ParseInt(v.String(), 10, 64)
		if whole := !strings.ContainsAny(v.String(), ".eE"); whole && (err != nil || i > 1<<53 || i < -1<<53) {
			d.problem(at, CodeInexact, "the number is too large to be compared exactly", "use a string, or minimum and maximum")
		}
	case []any:
		for i := range v {
			d.exact(child(at, strconv.Itoa(i)), v[i])
		}
	case map[string]any:
		for _, k := range sortedNames(v) {
			d.exact(child(at, k), v[k])
		}
	}
}
