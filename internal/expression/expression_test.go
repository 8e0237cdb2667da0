package expression_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/schemas"
)

// fixture compiles one expression and points an Env at one message.
type fixture struct {
	program *expression.Program
	env     expression.Env
	report  config.Report
}

func compile(t *testing.T, source string, want expression.Want, typ *schemas.Type, payload string) *fixture {
	t.Helper()
	f := &fixture{}
	yaml := "x: |-\n  " + strings.ReplaceAll(source, "\n", "\n  ") + "\n"
	file := config.Parse("test.yaml", []byte(yaml), config.Lookup{}, &f.report)
	if file == nil {
		t.Fatalf("parse: %v", f.report.Problems())
	}
	paths := &jsonscan.Builder{}
	node := file.Root().Get("x")
	f.program = expression.Compile(config.Expr{Source: node.Text(), Node: node}, want, expression.Scope{Payload: typ, Paths: paths}, "steps[0] test", &f.report)
	if f.program == nil {
		return f
	}
	set, err := paths.Build()
	if err != nil {
		t.Fatal(err)
	}
	f.env.Message = &message.Message{
		ID: "id-1", Topic: "orders/eu", Key: []byte("k"), Priority: 4, Attempt: 1,
		Time:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Headers: message.Headers{{Name: "tenant", Value: message.String("acme")}, {Name: "n", Value: message.Int(7)}, {Name: "x-y", Value: message.Bool(true)}},
	}
	f.env.Doc = &jsonscan.Doc{}
	f.env.Doc.Reset(set, []byte(payload))
	if err := f.env.Doc.Scan(); err != nil {
		t.Fatal(err)
	}
	return f
}

const order = `{"type":"order","total":12.50,"big":9007199254740993,"neg":-3,"n":null,"t":true,
	"customer":{"email":"a@b.c","id":7},"items":[{"sku":"A","qty":2},{"sku":"B","qty":3}],"esc":"a\"b","huge":123456789012345678901234567890}`

func TestEval(t *testing.T) {
	for _, c := range []struct {
		source string
		want   any
	}{
		{`payload.type == "order"`, true},
		{`payload.type != "order"`, false},
		{`payload.total >= 12.5 and payload.customer.id < 8`, true},
		{`payload.total > 20 || payload.t`, true},
		{`not payload.t`, false},
		{`payload.type in ["a", "order"]`, true},
		{`payload.customer.id in [1, 7]`, true},
		{`payload.missing`, nil},
		{`payload.missing == nil`, true},
		{`payload?.missing?.deep`, nil},
		{`payload.n?.deep`, nil},
		{`payload.missing ?? "none"`, "none"},
		{`payload.big`, 9007199254740993},
		{`payload.big == 9007199254740993`, true},
		{`payload.big == 9007199254740992`, false},
		{`payload.neg + 1`, -2},
		{`payload.huge > 1`, true},
		{`payload.esc`, `a"b`},
		{`payload["type"]`, "order"},
		{`payload.items[1].sku`, "B"},
		{`len(payload.items)`, 2},
		{`sum(payload.items, .qty)`, 5},
		{`any(payload.items, .qty > 2)`, true},
		{`all(payload.items, .qty > 2)`, false},
		{`map(payload.items, .sku)`, []any{"A", "B"}},
		{`join(map(payload.items, .sku), ",")`, "A,B"},
		{`keys(payload.customer)`, []any{"email", "id"}},
		{`headers.tenant ?? "none"`, "acme"},
		{`headers["x-y"]`, true},
		{`headers.absent ?? "none"`, "none"},
		{`headers.n + 1`, 8},
		{`"tenant" in headers`, true},
		{`message.topic startsWith "orders/"`, true},
		{`message.priority == 4`, true},
		{`now() == message.time`, true},
		{`int(decimal(payload.total) * 100)`, 1250},
		{`int(decimal("19.99") * 100)`, 1999},
		{`decimal("0.1") + decimal("0.2") == decimal("0.3")`, true},
		{`string(decimal("10") / 4)`, "2.5"},
		{`upper(payload.type)`, "ORDER"},
		{`payload.type matches "^ord"`, true},
		{`payload.t ? "yes" : "no"`, "yes"},
		{`let x = payload.total; x * 2`, 25.0},
		{`payload.customer`, map[string]any{"email": "a@b.c", "id": 7}},
		{`string(payload.customer)`, `{"email":"a@b.c","id":7}`},
		{`payload[payload.type == "order" ? "t" : "n"]`, true},
		{`7 / 2`, 3.5},
		{`payload.n contains "x"`, false},
	} {
		f := compile(t, c.source, expression.Anything, nil, order)
		if f.program == nil {
			t.Errorf("%s: %v", c.source, f.report.Problems())
			continue
		}
		got, err := f.program.Eval(&f.env)
		if err != nil {
			t.Errorf("%s: %v", c.source, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.source, diff)
		}
	}
}

// Values that stand in the message must not appear in the error of a run.
func TestRunErrorsCarryNoData(t *testing.T) {
	const canary = "078-05-1120"
	for source, code := range map[string]string{
		`int(payload.ssn)`:                                  "LS2205",
		`date(payload.ssn)`:                                 "LS2201",
		`duration(payload.ssn)`:                             "LS2201",
		`payload.ssn + 1`:                                   "LS2205",
		`payload.ssn > 1`:                                   "LS2205",
		`payload.ssn.x`:                                     "LS2205",
		`payload.missing.deep`:                              "LS2202",
		`payload.list[5]`:                                   "LS2203",
		`payload.ssn matches payload.bad`:                   "LS2201",
		`1 / payload.zero`:                                  "LS2207",
		`payload.max + 1`:                                   "LS2207",
		`payload.max * 2`:                                   "LS2207",
		`0 - payload.max - 2`:                               "LS2207",
		`1 % payload.zero`:                                  "LS2207",
		`reduce(1..30, #acc + #acc, payload.ssn)`:           "LS2206",
		`repeat(payload.ssn, 9000000)`:                      "LS2206",
		`replace(payload.long, "", payload.long)`:           "LS2206",
		`all(1..1000, all(1..1000, # > 0))`:                 "LS2206",
		`payload.list[0].x`:                                 "LS2205",
		`fromJSON(payload.ssn)`:                             "LS2205",
		`float("1e999")`:                                    "LS2205",
		`2.0 ** 5000`:                                       "LS2207",
		`decimal(payload.ssn)`:                              "LS2205",
		`toJSON(reduce(1..40, [#acc, #acc], payload.ssn))`:  "LS2206",
		`int(payload.float)`:                                "LS2207",
		`string(reduce(1..28, [#acc, #acc], payload.list))`: "LS2206",
	} {
		payload := `{"ssn":"` + canary + `","list":["` + canary + `"],"zero":0,"max":9223372036854775807,"bad":"[` + canary + `","float":1e300,"long":"` + strings.Repeat("ab", 4000) + `"}`
		f := compile(t, source, expression.Anything, nil, payload)
		if f.program == nil {
			t.Errorf("%s: %v", source, f.report.Problems())
			continue
		}
		out, err := f.program.AppendJSON(nil, &f.env)
		var reason *message.Reason
		if !errors.As(err, &reason) {
			t.Errorf("%s: no reason but %v %.80v", source, err, string(out))
			continue
		}
		if reason.Code != code {
			t.Errorf("%s: %s, want %s", source, reason, code)
		}
		if strings.Contains(reason.Error(), canary) {
			t.Errorf("%s: the error quotes the value: %s", source, reason)
		}
	}
}

func orderType() *schemas.Type {
	str := &schemas.Type{Kind: schemas.String}
	return &schemas.Type{Kind: schemas.Object, Fields: map[string]*schemas.Type{
		"type": str, "total": {Kind: schemas.Number},
		"customer": {Kind: schemas.Object, Fields: map[string]*schemas.Type{"email": str, "id": {Kind: schemas.Integer}}},
		"items": {Kind: schemas.Array, Items: &schemas.Type{Kind: schemas.Object, Fields: map[string]*schemas.Type{
			"sku": str, "qty": {Kind: schemas.Integer},
		}}},
	}}
}

func TestCompileProblems(t *testing.T) {
	for _, c := range []struct {
		source, code, contains string
		column                 int
	}{
		{`payload.totl > 0`, "LS1205", "did you mean `total`", 11},
		{`payload.customer.emial == "x"`, "LS1205", "did you mean `email`", 20},
		{`payload.total > "x"`, "LS1201", "", 17},
		{`payload.type = "order"`, "LS1201", "==", 16},
		{`paylod.type == "order"`, "LS1201", "did you mean `payload`", 3},
		{`any(payload.items, .qyt > 1)`, "LS1201", "", 23},
		{`headers.x-debug`, "LS1204", `headers["x-debug"]`, 12},
		{`message.tpoic`, "LS1205", "did you mean `topic`", 11},
		{`$env`, "LS1203", "", 3},
		{`payload.type.Foo()`, "LS1203", "", 16},
		{`now().Year()`, "LS1203", "", 9},
		{`__get(1, 2)`, "LS1203", "", 3},
		{`"abc`, "LS1201", "", 7},
		{strings.Repeat("(", 1000) + "1", "LS1202", "", 4},
		{strings.Repeat("!", 2000) + "true", "LS1202", "", 4},
		{`1..3 == [` + strings.Repeat("1,", 10000) + `]`, "LS1202", "", 4},
	} {
		f := compile(t, c.source, expression.Anything, orderType(), order)
		if f.program != nil {
			t.Errorf("%.40s: compiled", c.source)
			continue
		}
		p := f.report.Problems()[0]
		if p.Code != c.code || p.Column != c.column || !strings.Contains(p.Text(), c.contains) {
			t.Errorf("%.40s:\n%s\nwant %s at column %d with %q", c.source, p.Text(), c.code, c.column, c.contains)
		}
	}
	if f := compile(t, `payload.type`, expression.Condition, orderType(), order); f.program != nil {
		t.Error("a text was accepted as a condition")
	}
}

func TestReads(t *testing.T) {
	f := compile(t, `payload.customer.id > 1 && headers["x-y"] && any(payload.items, .qty > payload.total) && message.topic != ""`, expression.Condition, nil, order)
	var got []string
	for _, r := range f.program.Reads() {
		got = append(got, r.Root+":"+r.Path.String()+r.Name)
	}
	want := []string{"payload:customer.id", "headers:x-y", "payload:items", "payload:total", "message:topic"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, ok := compile(t, `payload.customer`, expression.Anything, nil, order).program.Copy(); !ok {
		t.Error("a plain copy was not recognised")
	}
	if _, ok := compile(t, `payload.total + 1`, expression.Anything, nil, order).program.Copy(); ok {
		t.Error("a computation was taken for a plain copy")
	}
}
