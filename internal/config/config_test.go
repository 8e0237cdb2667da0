package config_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/config"
)

type sample struct {
	Name    string            `yaml:"name,required"`
	Port    int               `yaml:"port"`
	On      bool              `yaml:"on"`
	Wait    time.Duration     `yaml:"wait"`
	Size    config.Size       `yaml:"size"`
	List    []string          `yaml:"list"`
	Map     map[string]string `yaml:"map"`
	Secret  config.Secret     `yaml:"secret"`
	Expr    config.Expr       `yaml:"expr"`
	Backoff config.Backoff    `yaml:"backoff"`
	Option  config.Option     `yaml:"option"`
	Address config.Address    `yaml:"address"`
	Nested  *struct {
		A int `yaml:"a"`
	} `yaml:"nested"`
}

func decode(yaml string, lookup config.Lookup) (sample, *config.Report) {
	var r config.Report
	var s sample
	if f := config.Parse("x.yaml", []byte(yaml), lookup, &r); f != nil {
		config.Decode(f.Root(), &s, &r)
	}
	return s, &r
}

func TestDecode(t *testing.T) {
	lookup := config.Lookup{
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{"PASS": "a#b: c", "PORT": "8080"}[name]
			return v, ok
		},
		ReadFile: func(string) ([]byte, error) { return []byte("from file\n"), nil },
	}
	s, r := decode(`
name: ${file:/etc/name}
port: ${env:PORT}
on: true
wait: 30d
size: 4MiB
list: one
map: {a: "1", b: two}
secret: ${env:PASS}
expr: true
backoff: 200ms..30s
option: {expr: payload.x, allow: [a, b]}
address: https://user:secret@host/path
nested: {a: 3}
`, lookup)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	got := fmt.Sprintln(s.Name, s.Port, s.On, s.Wait, s.Size, s.List, s.Map, s.Expr.Source, s.Backoff, s.Option.Expr.Source, s.Option.Allow, s.Nested.A)
	if want := "from file 8080 true 720h0m0s 4194304 [one] map[a:1 b:two] true {200ms 30s} payload.x [a b] 3\n"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s.Secret.Reveal() != "a#b: c" {
		t.Errorf("secret: %q", s.Secret.Reveal())
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("secret", s.Secret), slog.Any("all", s), slog.String("address", s.Address.String()))
	for _, text := range []string{log.String(), fmt.Sprintf("%v %+v %#v", s.Secret, s, s.Secret), s.Address.String()} {
		if strings.Contains(text, "a#b") || strings.Contains(text, ":secret@") {
			t.Errorf("a secret was printed: %s", text)
		}
	}
}

// Each broken file gives its problems, all at once, each with its place.
func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"empty":           {"", []string{"1:1 LS1102"}},
		"only a comment":  {"# hi\n", []string{"1:1 LS1102"}},
		"not a mapping":   {"- a\n", []string{"1:1 LS1110"}},
		"broken":          {"name: [a\n", []string{"2:1 LS1102"}},
		"tab":             {"name: a\nnested:\n\ta: 1\n", []string{"3:1 LS1102"}},
		"second document": {"name: a\n---\nname: b\n", []string{"2:1 LS1103"}},
		"unknown key":     {"nam: a\nname: b\n", []string{"1:1 LS1104 did you mean `name`?"}},
		"duplicate key":   {"name: a\nname: b\n", []string{"2:1 LS1107"}},
		"merge key":       {"nested: &x {a: 1}\nname: b\nmap:\n  <<: *x\n", []string{"4:3 LS1107"}},
		"unknown tag":     {"name: !foo a\n", []string{"1:7 LS1106"}},
		"missing":         {"port: 1\n", []string{"1:1 LS1111"}},
		"wrong types": {"name: [a]\nport: x\non: yes\nwait: 5\nsize: big\nlist: {}\nmap: []\nbackoff: 1s\nnested: 3\n", []string{
			"1:7 LS1110", "2:7 LS1110", "3:5 LS1110 write true", "4:7 LS1110", "5:7 LS1110", "6:7 LS1110", "7:6 LS1110", "9:9 LS1110",
		}},
		"octal":             {"name: a\nport: 0123\n", []string{"2:7 LS1110 octal"}},
		"inner reference":   {"name: a-${env:X}\n", []string{"1:7 LS1108"}},
		"unset variable":    {"name: ${env:NO}\n", []string{"1:7 LS1109"}},
		"unreadable file":   {"name: ${file:/no}\n", []string{"1:7 LS1109"}},
		"ternary":           {"name: a ? b : c\n", []string{"1:13 LS1102 quoted"}},
		"quoted then more":  {"name: \"a\" == b\n", []string{"1:7 LS1102 single quotes"}},
		"leading bang":      {"expr: !payload.x\nname: a\n", []string{"1:7 LS1106 single quotes"}},
		"leading star":      {"name: *x\n", []string{"1:7 LS1102 single quotes"}},
		"bad address":       {"name: a\naddress: host:1883\n", []string{"2:10 LS1110"}},
		"expr needs a text": {"name: a\nexpr: {a: b}\n", []string{"2:7 LS1110"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := decode(c.yaml, config.Lookup{
				Env:      func(string) (string, bool) { return "", false },
				ReadFile: func(string) ([]byte, error) { return nil, errors.New("no") },
			})
			problems := r.Problems()
			if len(problems) != len(c.want) {
				t.Fatalf("%d problems, want %d: %v", len(problems), len(c.want), problems)
			}
			for i, p := range problems {
				place, rest, _ := strings.Cut(c.want[i], " ")
				code, fix, _ := strings.Cut(rest, " ")
				if got := fmt.Sprintf("%d:%d", p.Line, p.Column); got != place || p.Code != code || !strings.Contains(p.Text(), fix) {
					t.Errorf("got  %s\nwant %s", p.Text(), c.want[i])
				}
			}
		})
	}
}

func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	began := time.Now()
	_, r := decode(b.String(), config.Lookup{})
	if !r.Failed() || time.Since(began) > 5*time.Second {
		t.Errorf("an alias bomb took %v and gave %d problems", time.Since(began), len(r.Problems()))
	}
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	if _, r := decode("name: "+deep, config.Lookup{}); !r.Failed() {
		t.Error("a deep document was accepted")
	}
}

// Positions inside a scalar are those of the file, whatever the style of the scalar.
func TestPositionAt(t *testing.T) {
	for _, c := range []struct {
		yaml string
		want string
	}{
		{"x: abcXdef\n", "1:7"},
		{"x: 'abcXdef'\n", "1:8"},
		{"x: 'a''cXdef'\n", "1:9"},
		{"x: \"abcXdef\"\n", "1:8"},
		{"x: |\n  abcXdef\n", "2:6"},
		{"x: |-\n    one\n    abcXdef\n", "3:8"},
		{"x: äbcXdef\n", "1:7"},
	} {
		var r config.Report
		n := config.Parse("x.yaml", []byte(c.yaml), config.Lookup{}, &r).Root().Get("x")
		p := n.PositionAt(strings.Index(n.Text(), "X"))
		if got := fmt.Sprintf("%d:%d", p.Line, p.Column); got != c.want {
			t.Errorf("%q: %s, want %s", c.yaml, got, c.want)
		}
	}
}

func TestProblemText(t *testing.T) {
	_, r := decode("name: a\n\tport: 1\n", config.Lookup{})
	_, r2 := decode("name: a\nprot: 1\n", config.Lookup{})
	if len(r.Problems()) == 0 {
		t.Fatal("no problem")
	}
	want := "x.yaml:2:1: LS1104: unknown key \"prot\"\n  2 | prot: 1\n    | ^^^^\n  fix: did you mean `port`?"
	if diff := cmp.Diff(want, r2.Problems()[0].Text()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("name: a\nexpr: payload.x == \"y\" # c\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("x: |\n  y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r config.Report
		var s sample
		if file := config.Parse("f.yaml", data, config.Lookup{}, &r); file != nil {
			config.Decode(file.Root(), &s, &r)
		}
		for _, p := range r.Problems() {
			_ = p.Text()
		}
	})
}

// A line that is shown with a problem does not show the secrets on it.
func TestProblemsHideSecrets(t *testing.T) {
	for _, yaml := range []string{
		"name: a\nauth: {usr: x, password: hunter2}\n",
		"name: a\npassword: hunter2\n",
		"name: a\nprot: mqtt://user:hunter2@host:1883\n",
		"name: a\nbearer: \"hunter2\" x\n",
		"name: a\npassword: *hunter2\n",
		"name: a\nkeys: hunter2\n",
	} {
		_, r := decode(yaml, config.Lookup{})
		if !r.Failed() {
			t.Errorf("%q: no problem", yaml)
		}
		for _, p := range r.Problems() {
			if strings.Contains(p.Text(), "hunter2") {
				t.Errorf("a secret is shown:\n%s", p.Text())
			}
		}
	}
	if _, r := decode("name: a\npasswrod: ${env:X}\n", config.Lookup{}); !strings.Contains(r.Problems()[0].Text(), "${env:X}") {
		t.Error("a reference was hidden")
	}
}

// An option that is an expression by nature takes it as a plain text, whatever tag YAML
// gives it, and the long form too. Another one takes a plain text as it is.
func TestOptionsThatAreExpressions(t *testing.T) {
	for _, c := range []struct{ yaml, literal, expr string }{
		{"key: payload.customer.id", "", "payload.customer.id"},
		{"key: true", "", "true"},
		{"key: {expr: message.key}", "", "message.key"},
		{"topic: payload.customer.id", "payload.customer.id", ""},
	} {
		var into struct {
			Key   config.Option `yaml:"key"`
			Topic config.Option `yaml:"topic"`
		}
		into.Key.Expression = true
		var r config.Report
		config.Decode(config.Parse("x.yaml", []byte(c.yaml), config.Lookup{}, &r).Root(), &into, &r)
		got := into.Key
		if c.literal != "" {
			got = into.Topic
		}
		if got.Literal != c.literal || got.Expr.Source != c.expr || len(r.Problems()) > 0 {
			t.Errorf("%s: literal %q, expression %q, %v", c.yaml, got.Literal, got.Expr.Source, r.Problems())
		}
	}
}

// The keys of an embedded struct are keys of the struct that embeds it.
func TestDecodeEmbedded(t *testing.T) {
	type Common struct {
		Topic string `yaml:"topic,required"`
	}
	type Own struct {
		Common

		Group string `yaml:"group"`
	}
	for _, c := range []struct{ yaml, want string }{
		{"{topic: t, group: g}", ""},
		{"{group: g}", `the key "topic" is missing`},
		{"{topic: t, grup: g}", "did you mean"},
	} {
		var r config.Report
		var got Own
		config.Decode(config.Parse("x.yaml", []byte(c.yaml), config.Lookup{}, &r).Root(), &got, &r)
		var problems strings.Builder
		for _, p := range r.Problems() {
			problems.WriteString(p.Text())
		}
		text := problems.String()
		if c.want == "" && (text != "" || got.Topic != "t" || got.Group != "g") || !strings.Contains(text, c.want) {
			t.Errorf("%s: %+v %s", c.yaml, got, text)
		}
	}
}
