package schemas

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/jsonscan"
)

func load(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Load(fstest.MapFS{"s.json": {Data: []byte(text)}}, "s.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	draft4 = `"$schema":"http://json-schema.org/draft-04/schema#"`
	draft6 = `"$schema":"http://json-schema.org/draft-06/schema#"`
)

func TestRefusedSchemas(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 2000) + "{}" + strings.Repeat("}", 2000)
	tests := []struct{ name, schema, code, pointer string }{
		{"not JSON", `{"type": "object",}`, CodeNotJSON, ""},
		{"duplicate keyword", `{"type":"object","type":"array"}`, CodeNotJSON, ""},
		{"something after it", `{} {}`, CodeNotJSON, ""},
		{"huge exponent", `{"maximum": 1e999999}`, CodeNotJSON, ""},
		{"too deep", deep, CodeNotJSON, ""},
		{"not a schema", `[]`, CodeShape, ""},
		{"boolean in draft 4", `{` + draft4 + `,"not":true}`, CodeShape, "/not"},
		{"draft 2020-12", `{"$schema":"https://json-schema.org/draft/2020-12/schema"}`, CodeDraft, "/$schema"},
		{"draft 2019-09", `{"$schema":"https://json-schema.org/draft/2019-09/schema"}`, CodeDraft, "/$schema"},
		{"own meta-schema", `{"$schema":"http://example.com/schema"}`, CodeDraft, "/$schema"},
		{"a draft for a part", `{"not":{"$schema":"http://json-schema.org/draft-07/schema#"}}`, CodeDraft, "/not/$schema"},
		{"$schema of the wrong kind", `{"$schema":7}`, CodeShape, "/$schema"},
		{"misspelt keyword", `{"properties":{"a":{"minLenght":1}}}`, CodeKeyword, "/properties/a/minLenght"},
		{"keyword of a later draft", `{"unevaluatedProperties":false}`, CodeKeyword, "/unevaluatedProperties"},
		{"const in draft 4", `{` + draft4 + `,"const":1}`, CodeKeyword, "/const"},
		{"if in draft 6", `{` + draft6 + `,"if":{}}`, CodeKeyword, "/if"},
		{"$defs", `{"$defs":{}}`, CodeKeyword, "/$defs"},
		{"nullable", `{"nullable":true}`, CodeKeyword, "/nullable"},
		{"keyword beside $ref", `{"definitions":{"a":{}},"properties":{"x":{"$ref":"#/definitions/a","minLength":1}}}`, CodeKeyword, "/properties/x/minLength"},
		{"type of the wrong kind", `{"type":"text"}`, CodeShape, "/type"},
		{"type with an object in it", `{"type":[{}]}`, CodeShape, "/type"},
		{"type twice", `{"type":["string","string"]}`, CodeShape, "/type"},
		{"no types", `{"type":[]}`, CodeShape, "/type"},
		{"minLength fractional", `{"minLength":2.5}`, CodeShape, "/minLength"},
		{"minLength negative", `{"minLength":-1}`, CodeShape, "/minLength"},
		{"minLength huge", `{"minLength":1e300}`, CodeShape, "/minLength"},
		{"minLength text", `{"minLength":"2"}`, CodeShape, "/minLength"},
		{"multipleOf nothing", `{"multipleOf":0.0}`, CodeShape, "/multipleOf"},
		{"exclusiveMinimum as a boolean", `{"minimum":1,"exclusiveMinimum":true}`, CodeShape, "/exclusiveMinimum"},
		{"exclusiveMinimum as a number in draft 4", `{` + draft4 + `,"exclusiveMinimum":1}`, CodeShape, "/exclusiveMinimum"},
		{"required as a boolean", `{"properties":{"a":{"required":true}}}`, CodeShape, "/properties/a/required"},
		{"required twice", `{"required":["a","a"]}`, CodeShape, "/required/1"},
		{"properties as an array", `{"properties":[]}`, CodeShape, "/properties"},
		{"allOf empty", `{"allOf":[]}`, CodeShape, "/allOf"},
		{"allOf as a schema", `{"allOf":{}}`, CodeShape, "/allOf"},
		{"enum empty", `{"enum":[]}`, CodeShape, "/enum"},
		{"items as a number", `{"items":1}`, CodeShape, "/items"},
		{"dependency as a number", `{"dependencies":{"a":1}}`, CodeShape, "/dependencies/a"},
		{"dependency on a number", `{"dependencies":{"a":[1]}}`, CodeShape, "/dependencies/a/0"},
		{"$ref as a number", `{"$ref":1}`, CodeShape, "/$ref"},
		{"title as a number", `{"title":1}`, CodeShape, "/title"},
		{"$ref over the network", `{"$ref":"http://127.0.0.1:1/x.json"}`, CodeExternal, "/$ref"},
		{"$ref to a file", `{"$ref":"file:///etc/passwd"}`, CodeExternal, "/$ref"},
		{"$ref to a file beside it", `{"$ref":"other.json#/definitions/a"}`, CodeExternal, "/$ref"},
		{"$ref to the meta-schema", `{"$ref":"http://json-schema.org/draft-07/schema#"}`, CodeExternal, "/$ref"},
		{"$ref to nothing", `{"$ref":"#/definitions/a"}`, CodeTarget, "/$ref"},
		{"$ref to no anchor", `{"properties":{"a":{"$ref":"#a"}}}`, CodeTarget, "/properties/a/$ref"},
		{"$ref to no schema", `{"properties":{"a":{"$ref":"#/properties"}}}`, CodeTarget, "/properties/a/$ref"},
		{"$ref into an annotation", `{"default":{"x":{}},"properties":{"a":{"$ref":"#/default/x"}}}`, CodeTarget, "/properties/a/$ref"},
		{"$ref is no URI", `{"$ref":"%"}`, CodeTarget, "/$ref"},
		{"$ref to itself", `{"$ref":"#"}`, CodeLoop, ""},
		{"loop of two", `{"definitions":{"a":{"$ref":"#/definitions/b"},"b":{"$ref":"#/definitions/a"}}}`, CodeLoop, "/definitions/b"},
		{"loop through allOf", `{"allOf":[{"$ref":"#"}]}`, CodeLoop, "/allOf/0"},
		{"loop through anyOf", `{"definitions":{"a":{"anyOf":[{},{"$ref":"#/definitions/a"}]}}}`, CodeLoop, "/definitions/a/anyOf/1"},
		{"loop through oneOf", `{"oneOf":[{"$ref":"#"}]}`, CodeLoop, "/oneOf/0"},
		{"loop through not", `{"not":{"$ref":"#"}}`, CodeLoop, "/not"},
		{"loop through if", `{"if":{"$ref":"#"}}`, CodeLoop, "/if"},
		{"loop through then", `{"if":{},"then":{"$ref":"#"}}`, CodeLoop, "/then"},
		{"loop through else", `{"if":{},"else":{"$ref":"#"}}`, CodeLoop, "/else"},
		{"loop through dependencies", `{"dependencies":{"a":{"$ref":"#"}}}`, CodeLoop, "/dependencies/a"},
		{"loop through an anchor", `{"$id":"http://example.com/a","definitions":{"x":{"$id":"#x","allOf":[{"$ref":"#x"}]}}}`, CodeLoop, "/definitions/x/allOf/0"},
		{"look-ahead", `{"pattern":"^(?=a)"}`, CodePattern, "/pattern"},
		{"broken pattern of names", `{"patternProperties":{"(":{}}}`, CodePattern, "/patternProperties/("},
		{"inexact const", `{"const":9007199254740993}`, CodeInexact, "/const"},
		{"inexact enum", `{"enum":[{"a":[-99999999999999999999]}]}`, CodeInexact, "/enum/0/a/0"},
		{"labels of the wrong kind", `{"x-classification":{"a":1}}`, CodeLabels, "/x-classification"},
		{"the same $id twice", `{"definitions":{"a":{"$id":"http://a/"},"b":{"$id":"http://a/"}}}`, CodeIdentity, "/definitions/b/$id"},
		{"minLength above maxLength", `{"minLength":3,"maxLength":2}`, CodeValidator, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(fstest.MapFS{"s.json": {Data: []byte(tt.schema)}}, "s.json")
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatalf("got %v", err)
			}
			if p.Code != tt.code || p.Pointer != tt.pointer || p.File != "s.json" || !strings.Contains(err.Error(), tt.code) {
				t.Errorf("got %v, want %s at %s", err, tt.code, tt.pointer)
			}
		})
	}
}

func TestAdvice(t *testing.T) {
	_, err := Parse("s.json", []byte(`{"$defs":{},"requird":[],"foo":1,"pattern":"(?!a)"}`))
	for _, want := range []string{`write "definitions"`, `did you mean "required"?`, `"x-foo"`, "RE2", "s.json#/requird"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	var all Errors
	if !errors.As(err, &all) || len(all) != 4 {
		t.Errorf("got %d problems, want 4", len(all))
	}
	if _, err := Load(fstest.MapFS{}, "none.json"); !strings.Contains(fmt.Sprint(err), CodeRead) {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("s.json", []byte("{\n \"a\": x}")); !strings.Contains(fmt.Sprint(err), "line 2, column 7") {
		t.Errorf("got %v", err)
	}
}

func TestAcceptedSchemas(t *testing.T) {
	for name, schema := range map[string]string{
		"annotations": `{"title":"t","description":"d","default":{"$ref":"http://x"},"examples":[{"$id":"%"}],"$comment":"c","format":"date","x-own":{"$ref":1},
			"contentEncoding":"base64","contentMediaType":"text/plain","readOnly":true}`,
		"size with a point":       `{"minLength":2.0,"maxItems":1e1}`,
		"recursion through items": `{"properties":{"kids":{"items":{"$ref":"#"}}}}`,
		"names like keywords":     `{"properties":{"$ref":{"type":"string"},"properties":{"type":"object"},"id":{},"const":{}},"required":["$ref"]}`,
		"escaped pointers":        `{"definitions":{"a/b~c%25 d":{}},"properties":{"x":{"$ref":"#/definitions/a~1b~0c%2525%20d"}}}`,
		"identifiers":             `{"$id":"http://example.com/root.json","definitions":{"a":{"$id":"#a"},"b":{"$id":"b.json","items":{"$ref":"#"}}},"properties":{"x":{"$ref":"#a"},"y":{"$ref":"b.json"},"z":{"$ref":"http://example.com/b.json#/items"}}}`,
		"relative $id":            `{"$id":"order.json","definitions":{"a":{}},"items":{"$ref":"order.json#/definitions/a"}}`,
		"urn":                     `{"$id":"urn:example:order","definitions":{"a":{}},"items":{"$ref":"#/definitions/a"}}`,
		"true":                    `true`,
		"draft 4":                 `{` + draft4 + `,"id":"http://example.com/x","minimum":1,"exclusiveMinimum":true,"additionalProperties":false}`,
		"https $schema":           `{"$schema":"https://json-schema.org/draft-07/schema"}`,
		"definitions beside $ref": `{"$ref":"#/definitions/a","definitions":{"a":{"type":"object"}}}`,
	} {
		if _, err := Parse(name, []byte(schema)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const order = `{
	"type":"object","additionalProperties":false,"required":["id","items"],"x-classification":["internal"],
	"definitions":{"email":{"type":"string","format":"email","x-classification":["pii.contact.email"]},"node":{"properties":{"next":{"$ref":"#/definitions/node"},"v":{"type":"integer"}}}},
	"properties":{
		"id":{"type":"string","pattern":"^ORD-[0-9]+$"},
		"status":{"enum":["paid","open"]},
		"total":{"type":["number","null"],"minimum":0,"multipleOf":0.01},
		"customer":{"type":"object","required":["email"],"properties":{"email":{"$ref":"#/definitions/email"},"backup":{"$ref":"#/definitions/email","x-classification":"secret"}},"additionalProperties":true},
		"items":{"type":"array","minItems":1,"items":{"type":"object","required":["qty"],"properties":{"qty":{"type":"integer","maximum":9},"sku":{"type":"string","minLength":2.0}}}},
		"tree":{"$ref":"#/definitions/node"},
		"tags":{"additionalProperties":{"type":"string","x-classification":["pii.tag"]}}
	}
}`

func TestValidate(t *testing.T) {
	s := load(t, order)
	tests := []struct{ name, doc, pointer, keyword, schema string }{
		{"valid", `{"id":"ORD-1","items":[{"qty":1}],"total":0.29,"customer":{"email":"a@example.com","x":1}}`, "", "-", ""},
		{"null allowed", `{"id":"ORD-1","items":[{"qty":1}],"total":null}`, "", "-", ""},
		{"wrong kind of document", `[]`, "", "type", "/type"},
		{"missing", `{"id":"ORD-1"}`, "", "required", "/required"},
		{"unknown member", `{"id":"ORD-1","items":[{"qty":1}],"secret-name":1}`, "", "additionalProperties", "/additionalProperties"},
		{"pattern", `{"id":"secret","items":[{"qty":1}]}`, "/id", "pattern", "/properties/id/pattern"},
		{"enum", `{"id":"ORD-1","items":[{"qty":1}],"status":"secret"}`, "/status", "enum", "/properties/status/enum"},
		{"through $ref", `{"id":"ORD-1","items":[{"qty":1}],"customer":{"email":"secret"}}`, "/customer/email", "format", "/definitions/email/format"},
		{"element", `{"id":"ORD-1","items":[{"qty":1},{"qty":10}]}`, "/items/1/qty", "maximum", "/properties/items/items/properties/qty/maximum"},
		{"size with a point", `{"id":"ORD-1","items":[{"qty":1,"sku":"x"}]}`, "/items/0/sku", "minLength", "/properties/items/items/properties/sku/minLength"},
		{"empty", `{"id":"ORD-1","items":[]}`, "/items", "minItems", "/properties/items/minItems"},
		{"recursion", `{"id":"ORD-1","items":[{"qty":1}],"tree":{"next":{"next":{"v":"secret"}}}}`, "/tree/next/next/v", "type", "/definitions/node/properties/v/type"},
		{"name that is data", `{"id":"ORD-1","items":[{"qty":1}],"tags":{"secret@example.com":1}}`, "/tags/*", "type", "/properties/tags/additionalProperties/type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := s.Validate([]byte(tt.doc))
			if tt.keyword == "-" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var i *Invalid
			if !errors.As(err, &i) || i.Code() != CodeInvalid {
				t.Fatalf("got %v", err)
			}
			got := []string{i.Pointer, i.Keyword, i.SchemaPointer}
			if diff := cmp.Diff([]string{tt.pointer, tt.keyword, tt.schema}, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds data: %v", err)
			}
		})
	}
}

func TestGate(t *testing.T) {
	s := load(t, `{"properties":{"n":{"multipleOf":3,"minimum":1}}}`)
	for doc, code := range map[string]string{
		`{"n":1e2000000}`: jsonscan.CodeNumber, `{"n":3,"n":3}`: jsonscan.CodeDuplicate, `{"n":3}x`: jsonscan.CodeTrailing, ``: jsonscan.CodeEmpty,
	} {
		if got, _ := jsonscan.IsSyntax(s.Validate([]byte(doc))); got != code {
			t.Errorf("%s: got %q, want %q", doc, got, code)
		}
	}
	if err := s.ValidateScanned([]byte(`{"n":`)); err == nil {
		t.Error("no error")
	}
	s.compiled = nil // stands for any fault of the validator
	var fault *Fault
	if err := s.Validate([]byte(`{}`)); !errors.As(err, &fault) || fault.Code() != CodeFault {
		t.Errorf("got %v", err)
	}
}

func TestSameAnswerForSameMessage(t *testing.T) {
	s := load(t, order)
	doc := []byte(`{"id":1,"status":"x","total":-1.001,"items":[{},{"qty":99}],"zzz":1}`)
	want := s.Validate(doc).Error()
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			for range 50 {
				if got := s.Validate(doc).Error(); got != want {
					t.Errorf("got %s, then %s", want, got)
					return
				}
			}
		})
	}
	g.Wait()
}

func TestType(t *testing.T) {
	email := &Type{Kind: String, Required: true, Labels: []string{"pii.contact.email"}}
	want := &Type{
		Kind: Object, Closed: true, Labels: []string{"internal"},
		Fields: map[string]*Type{
			"id":     {Kind: String, Required: true},
			"status": {Kind: String},
			"total":  {Kind: Number, Nullable: true},
			"customer": {Kind: Object, Open: true, Fields: map[string]*Type{
				"email": email, "backup": {Kind: String, Labels: []string{"pii.contact.email", "secret"}},
			}},
			"items": {Kind: Array, Required: true, Items: &Type{Kind: Object, Fields: map[string]*Type{
				"qty": {Kind: Integer, Required: true}, "sku": {Kind: String},
			}}},
			"tree": {Kind: Object, Fields: map[string]*Type{"v": {Kind: Integer}, "next": {Kind: Object, Fields: map[string]*Type{
				"v": {Kind: Integer}, "next": {Kind: Any, Open: true},
			}}}},
			"tags": {Kind: Object, Open: true, Rest: &Type{Kind: String, Labels: []string{"pii.tag"}}},
		},
	}
	if diff := cmp.Diff(want, load(t, order).Type()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTypeOfCombinations(t *testing.T) {
	tests := []struct {
		name, schema string
		want         *Type
	}{
		{"nothing", `{}`, &Type{}},
		{"false", `false`, &Type{}},
		{"several types", `{"type":["string","integer"]}`, &Type{}},
		{"integer or number", `{"type":["integer","number","null"]}`, &Type{Kind: Number, Nullable: true}},
		{"null", `{"type":"null"}`, &Type{Kind: Null}},
		{"const", `{"const":1}`, &Type{Kind: Integer}},
		{"enum with null", `{"enum":[null,"a"]}`, &Type{Kind: String, Nullable: true}},
		{"enum of several kinds", `{"enum":[1,"a"]}`, &Type{}},
		{"allOf narrows", `{"allOf":[{"type":"number"},{"type":"integer","x-classification":"a"},{"x-classification":["b"]}]}`, &Type{Kind: Integer, Labels: []string{"a", "b"}}},
		{"anyOf of one kind", `{"anyOf":[{"type":"string"},{"type":"string","x-classification":"a"}]}`, &Type{Kind: String, Labels: []string{"a"}}},
		{"anyOf that only requires", `{"type":"object","properties":{"a":{"type":"string"}},"anyOf":[{"required":["a"]},{"required":["b"]}]}`, &Type{Kind: Object, Fields: map[string]*Type{"a": {Kind: String}}}},
		{"oneOf keeps labels in branches", `{"oneOf":[{"type":"string"},{"type":"object","additionalProperties":false,"properties":{"x":{"type":"string","x-classification":"a"}}}]}`, &Type{Fields: map[string]*Type{"x": {Labels: []string{"a"}}}}},
		{"then without else", `{"type":"object","if":{},"then":{"properties":{"x":{"type":"string","x-classification":"a"}},"required":["x"]}}`, &Type{Kind: Object, Fields: map[string]*Type{"x": {Labels: []string{"a"}}}}},
		{"patternProperties", `{"patternProperties":{"^x":{"type":"string","x-classification":"a"}},"additionalProperties":false}`, &Type{Kind: Object, Open: true, Rest: &Type{Kind: String, Labels: []string{"a"}}}},
		{"items by position", `{"items":[{"type":"string"},{"type":"string","confluent:tags":["a"]}],"additionalItems":false}`, &Type{Kind: Array, Items: &Type{Kind: String, Labels: []string{"a"}}}},
		{"contains", `{"type":"array","contains":{"type":"string","x-data-classification":{"category":"a"}}}`, &Type{Kind: Array, Items: &Type{Labels: []string{"a"}}}},
		{"propertyNames", `{"type":"object","propertyNames":{"x-classification":"a"}}`, &Type{Kind: Object, Rest: &Type{Labels: []string{"a"}}}},
		{"a loop keeps its labels", `{"definitions":{"n":{"properties":{"n":{"$ref":"#/definitions/n"},"e":{"x-classification":"a"}}}},"$ref":"#/definitions/n"}`, &Type{Kind: Object, Fields: map[string]*Type{
			"e": {Labels: []string{"a"}}, "n": {Kind: Object, Fields: map[string]*Type{"e": {Labels: []string{"a"}}, "n": {Open: true, Labels: []string{"a"}}}},
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, load(t, tt.schema).Type()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestTypeStaysSmall checks that schemas made to grow have a bounded type.
func TestTypeStaysSmall(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"definitions":{`)
	for i := range 30 {
		fmt.Fprintf(&b, `"d%d":{"allOf":[{"properties":{"a":{"$ref":"#/definitions/d%d"},"b":{"$ref":"#/definitions/d%d"}}},{"properties":{"a":{"$ref":"#/definitions/d%d"},"c":{"x-classification":"l"}}}]},`, i, (i+1)%30, (i*7+3)%30, (i*11+5)%30)
	}
	b.WriteString(`"z":{}},"$ref":"#/definitions/d0"}`)
	count := 0
	var walk func(*Type)
	walk = func(t *Type) {
		if t == nil {
			return
		}
		count++
		for _, f := range t.Fields {
			walk(f)
		}
		walk(t.Items)
		walk(t.Rest)
	}
	walk(load(t, b.String()).Type())
	if count < 1000 || count > 10*maxFields {
		t.Errorf("%d types", count)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(order, `{"id":"ORD-1"}`)
	f.Add(`{"allOf":[{"$ref":"#/definitions/a"}],"definitions":{"a":{"items":{"$ref":"#"}}}}`, `[[1]]`)
	f.Add(`{`+draft4+`,"id":"http://a/","dependencies":{"a":["b"]},"exclusiveMinimum":true,"minimum":1}`, `{"a":1}`)
	f.Fuzz(func(_ *testing.T, schema, doc string) {
		s, err := Parse("s.json", []byte(schema))
		if err != nil {
			return
		}
		s.Type()
		_ = s.Validate([]byte(doc))
	})
}

func BenchmarkValidate(b *testing.B) {
	s := load(b, order)
	doc := []byte(`{"id":"ORD-1","items":[{"qty":1,"sku":"SKU-1"},{"qty":2,"sku":"SKU-2"}],"total":0.29,"customer":{"email":"a@example.com"}}`)
	for b.Loop() {
		if err := s.Validate(doc); err != nil {
			b.Fatal(err)
		}
	}
}
