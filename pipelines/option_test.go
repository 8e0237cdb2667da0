package pipelines_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A computed option sees the message as the steps leave it. A sink without steps reads
// it from the document of the pipeline's steps, one with steps from its own: both give
// the same.
func TestComputedOptions(t *testing.T) {
	inputs := payloads(
		`{"type":"order","region":"eu","email":"a@b.c","customer":{"name":"Ada","id":7},"list":[1,2],"old":"x"}`,
		`{"type":"order","region":"us","email":null,"customer":{"name":null,"id":8},"list":[],"old":"y"}`,
		` { "old" : "z" , "type" : "order" , "customer" : {"id":9}, "email":"ada@example.com", "region":"ca","list":[3] } `,
	)
	for _, expr := range []string{
		`payload.region`, `payload.tag`, `payload.email ?? "none"`, `"n-" + (payload.customer.name ?? "none")`, `payload.old ?? "gone"`,
		`toJSON(payload.customer)`, `toJSON(payload)`, `payload.added.deep`, `string(len(payload.list))`, `headers["x-region"] + payload.tag`,
		`payload.missing`, `message.topic`,
	} {
		results := map[string][]string{}
		for name, steps := range map[string]string{"shared": "[]", "own": "[{unset: [payload.nowhere]}]"} {
			f := &fake{input: inputs}
			dead := runPipeline(t, f, fmt.Sprintf(`
pipeline: p
in: {i: {fake: {}}}
steps:
  - keep: payload.type == "order"
  - set:
      payload.tag: '"t-" + payload.region'
      payload.added.deep: payload.customer.id
      headers.x-region: payload.region
  - mask: {payload.email: hash, payload.customer.name: {partial: {last: 1}}}
  - unset: [payload.old]
out:
  one:
    fake: {id: one, opt: {expr: %q}}
    steps: %s
delivery: {order_by: none, lanes: 1}
`, `"x" + (`+expr+`)`, steps))
			results[name] = f.got["one"]
			for _, d := range dead {
				results[name] = append(results[name], d.Code+" "+d.Step+" "+d.Reason)
			}
		}
		if len(results["shared"]) != len(inputs) {
			t.Errorf("%s: %d of %d messages ended", expr, len(results["shared"]), len(inputs))
		}
		if diff := cmp.Diff(results["own"], results["shared"]); diff != "" {
			t.Errorf("%s: %s", expr, diff)
		}
	}
}

// When only the option of one sink reads the payload, what is not JSON fails for that
// sink alone.
func TestComputedOptionAlone(t *testing.T) {
	f := &fake{input: payloads(`{"region":"eu"}`, `not json`)}
	dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
route: [{else: [one, two]}]
out:
  one: {fake: {id: one, opt: {expr: '"x" + payload.region'}}}
  two: {fake: {id: two}}
delivery: {order_by: none, lanes: 1}
`)
	want := map[string][]string{"one": {`xeu {"region":"eu"}`}, "two": {`{"region":"eu"}`, `not json`}}
	if diff := cmp.Diff(want, f.got); diff != "" {
		t.Error(diff)
	}
	if len(dead) != 1 || dead[0].Code != "LS2101" || string(dead[0].Message.Payload) != "not json" {
		t.Errorf("dead letters: %+v", dead)
	}
}
