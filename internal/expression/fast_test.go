package expression

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
)

const mixed = `{"s":"abc","e":"","i":7,"z":0,"f":7.0,"g":2.5,"t":true,"u":false,"n":null,"o":{"s":"abc","i":-1},"a":[1,2],"q":"a\\n"}`

// source draws an expression of the simple kind, with all the ways that types may
// fail to fit.
func source(depth int) *rapid.Generator[string] {
	atoms := rapid.SampledFrom([]string{
		"payload.s", "payload.e", "payload.i", "payload.z", "payload.f", "payload.g", "payload.t", "payload.u", "payload.n",
		"payload.o", "payload.o.s", "payload.o.i", "payload.o?.x", "payload.n?.x", "payload.n.x", "payload.a", "payload.missing", "payload.q",
		`headers.tenant`, `headers.count`, `headers.none`, `headers["flag"]`, "message.topic", "message.priority", "message.time",
		"1", "7", "0", "2.5", "7.0", "true", "false", "nil", `"abc"`, `""`, `"a"`, "-1", "payload",
	})
	if depth == 0 {
		return atoms
	}
	return rapid.Custom(func(t *rapid.T) string {
		sub := source(depth - 1)
		switch rapid.IntRange(0, 5).Draw(t, "form") {
		case 0:
			return atoms.Draw(t, "atom")
		case 1:
			return "not (" + sub.Draw(t, "x") + ")"
		case 2:
			set := rapid.SampledFrom([]string{`["abc", "x"]`, "[1, 7]", `["abc", 7]`, "[nil, 1]", "[]", "[2.5]"}).Draw(t, "set")
			return "(" + sub.Draw(t, "x") + ") in " + set
		case 3:
			return "((" + sub.Draw(t, "c") + ") ? (" + sub.Draw(t, "x") + ") : (" + sub.Draw(t, "y") + "))"
		default:
			op := rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">=", "and", "or", "??", "contains", "startsWith", "endsWith"}).Draw(t, "op")
			return "(" + sub.Draw(t, "l") + ") " + op + " (" + sub.Draw(t, "r") + ")"
		}
	})
}

// What the closures answer, the engine answers too.
func TestFastAgreesWithEngine(t *testing.T) {
	fast := 0
	check := func(t *rapid.T) {
		src := source(3).Draw(t, "source")
		var report config.Report
		file := config.Parse("t.yaml", []byte("x: "+fmt.Sprintf("%q", src)+"\n"), config.Lookup{}, &report)
		node := file.Root().Get("x")
		paths := &jsonscan.Builder{}
		p := Compile(config.Expr{Source: node.Text(), Node: node}, Anything, Scope{Paths: paths}, "test", &report)
		if p == nil || p.fast == nil {
			return
		}
		set, err := paths.Build()
		if err != nil {
			t.Fatal(err)
		}
		e := &Env{Doc: &jsonscan.Doc{}, Message: &message.Message{
			Topic: "abc", Priority: 7, Time: time.Unix(7, 0).UTC(),
			Headers: message.Headers{{Name: "tenant", Value: message.String("abc")}, {Name: "count", Value: message.Int(7)}, {Name: "flag", Value: message.Bool(true)}},
		}}
		e.Doc.Reset(set, []byte(mixed))
		if err := e.Doc.Scan(); err != nil {
			t.Fatal(err)
		}
		v, err := p.fast(e)
		if err != nil {
			return
		}
		fast++
		want, err := p.run(e)
		if err != nil {
			t.Fatalf("%s: closures gave %v, the engine %v", src, v.any(), err)
		}
		if diff := cmp.Diff(want, v.any()); diff != "" {
			t.Fatalf("%s: %s", src, diff)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 20 {
			check(t)
		}
	})
	if fast < 100 {
		t.Errorf("only %d of some 2,000 programs ran as closures", fast)
	}
}
