package schemas

import (
	"encoding/json"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// resolve finds the target of the place's $ref within the document.
func (d *document) resolve(p *place) {
	m, _ := p.node.(map[string]any)
	s, ok := m["$ref"].(string)
	if !ok {
		return // absent, or reported already
	}
	at := child(p.pointer, "$ref")
	u, err := url.Parse(s)
	if err != nil {
		d.problem(at, CodeTarget, `"$ref" is not a URI reference`, `write "#/definitions/name"`)
		return
	}
	u = p.base.ResolveReference(u)
	fragment := u.Fragment
	u.Fragment, u.RawFragment = "", ""
	key := u.String()
	pointer, known := d.ids[key]
	if !known {
		d.problem(at, CodeExternal, "references to other documents are not followed: nothing is fetched from a network or from disk",
			`copy the other schema under "definitions" and write "#/definitions/name"`)
		return
	}
	if fragment != "" && fragment[0] != '/' {
		pointer, known = d.ids[key+"#"+fragment]
	} else {
		pointer += canonical(fragment)
	}
	if p.target = d.places[pointer]; p.target == nil || !known {
		d.problem(at, CodeTarget, `"$ref" leads to nothing, or to something that is not a schema`,
			`write "#/definitions/name", with the name as it stands under "definitions"`)
	}
}

// canonical writes a JSON pointer with the escapes that child uses.
func canonical(pointer string) string {
	if pointer == "" {
		return ""
	}
	out := ""
	for token := range strings.SplitSeq(pointer[1:], "/") {
		out = child(out, strings.NewReplacer("~1", "/", "~0", "~").Replace(token))
	}
	return out
}

// findLoops reports schemas that come to apply to one value for ever: the validator would never end.
func (d *document) findLoops() {
	const open, done = 1, 2
	state := map[*place]int{}
	var walk func(p *place)
	walk = func(p *place) {
		state[p] = open
		for _, next := range d.sameValue(p) {
			switch state[next] {
			case open:
				d.problem(p.pointer, CodeLoop, "the schema leads back to #"+next.pointer+" without going into the value, so validation would never end",
					`let a reference back to itself stand under "properties" or "items"`)
			case 0:
				walk(next)
			}
		}
		state[p] = done
	}
	for _, p := range d.order {
		if state[p] == 0 {
			walk(p)
		}
	}
}

// sameValue lists the schemas that apply to the same value as p.
func (d *document) sameValue(p *place) []*place {
	if p.target != nil {
		return []*place{p.target}
	}
	list := make([]*place, 0, len(p.inPlace))
	for _, pointer := range p.inPlace {
		if q := d.places[pointer]; q != nil {
			list = append(list, q)
		}
	}
	return list
}

// clean is a copy of the schema for the validator: without annotations, with references as pointers into the copy and
// sizes as plain integers.
func (d *document) clean(pointer string, node any) any {
	m, ok := node.(map[string]any)
	if !ok {
		return node
	}
	out := map[string]any{}
	if p := d.places[pointer]; p.target != nil {
		out["$ref"] = "#"
		if p.target.pointer != "" {
			out["$ref"] = (&url.URL{Fragment: p.target.pointer}).String()
		}
	}
	for word, v := range m {
		if k := d.words[word]; k.keep {
			out[word] = d.cleanValue(child(pointer, word), k, v)
		}
	}
	return out
}

func (d *document) cleanValue(at string, k keyword, v any) any {
	switch k.shape {
	case schema, schemaOrFlag:
		return d.clean(at, v)
	case schemaList, itemSchemas:
		list, ok := v.([]any)
		if !ok {
			return d.clean(at, v)
		}
		list = slices.Clone(list)
		for i := range list {
			list[i] = d.clean(child(at, strconv.Itoa(i)), list[i])
		}
		return list
	case schemaMap, regexMap, depends:
		out := map[string]any{}
		for name, v := range v.(map[string]any) {
			if list, ok := v.([]any); ok {
				out[name] = list
			} else {
				out[name] = d.clean(child(at, name), v)
			}
		}
		return out
	case count:
		return json.Number(wholeText(v.(json.Number)))
	default:
		return v
	}
}

// wholeText is a size as a plain integer, or empty if it is none: 2.0 and 2e1 are whole numbers too.
func wholeText(n json.Number) string {
	r, ok := new(big.Rat).SetString(n.String())
	if !ok || !r.IsInt() || r.Sign() < 0 || r.Num().BitLen() > 31 {
		return ""
	}
	return r.Num().String()
}

func above0(n json.Number) bool {
	r, ok := new(big.Rat).SetString(n.String())
	return ok && r.Sign() > 0
}

// typeNames reports whether v is the name of a type or an array of distinct ones.
func typeNames(v any) bool {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	seen := map[string]bool{}
	for _, t := range list {
		s, ok := t.(string)
		if !ok || kindOf(s) == Any || seen[s] {
			return false
		}
		seen[s] = true
	}
	return len(list) > 0
}

// readLabels is the labels that an annotation gives: a text, an array of texts, or an object with a category. It is nil
// if it is none of these.
func readLabels(v any) []string {
	if m, ok := v.(map[string]any); ok {
		v = m["category"]
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := make([]string, 0, len(list))
	for _, l := range list {
		s, ok := l.(string)
		if !ok || s == "" {
			return nil
		}
		out = append(out, s)
	}
	return out
}
