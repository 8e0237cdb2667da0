package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	connectorsall "github.com/linkspan/linkspan/connectors/all"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
	stepsall "github.com/linkspan/linkspan/transform/all"
)

// docsKey is the key of the quickstart, so that the hashes in the documents are those
// of the README.
const docsKey = "2b7e151628aed2a6abf7158809cf4f3c762e7160f38b4da56a784d9045190cfe"

// arrow separates what is tried from what comes of it, in examples that are run.
const arrow = " → "

// block is a fenced block of a document.
type block struct {
	file string
	line int
	info string
	text string
}

func (b *block) errorf(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Errorf("%s:%d: "+format, append([]any{b.file, b.line}, args...)...)
}

// whole reports whether the block is a file of its own.
func (b *block) whole() bool {
	first, _, _ := strings.Cut(b.text, ":")
	return first == "pipeline" || first == "deployment"
}

// documents returns the blocks of the README and of docs with one of these infos.
func documents(t *testing.T, infos ...string) []block {
	t.Helper()
	names, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	for _, name := range append(names, "../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var open *block
		for i, line := range strings.Split(string(text), "\n") {
			info, isFence := strings.CutPrefix(line, "```")
			switch {
			case isFence && open == nil:
				open = &block{file: name, line: i + 1, info: info}
			case isFence:
				if slices.Contains(infos, open.info) {
					all = append(all, *open)
				}
				open = nil
			case open != nil:
				open.text += line + "\n"
			}
		}
		if open != nil {
			open.errorf(t, "the block has no end")
		}
	}
	return all
}

func docsRegistry(t *testing.T) pipelines.Registry {
	t.Helper()
	key, err := keys.Parse(docsKey)
	if err != nil {
		t.Fatal(err)
	}
	return pipelines.Registry{
		Connectors: connectorsall.Specs(), Steps: stepsall.Specs(), Keys: key,
		Queue: queue.Caps{Name: "journal", Durable: true, Atomic: true},
	}
}

// docsDir returns a folder with the schema that the documents use.
func docsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	schema, err := os.ReadFile("../examples/quickstart/schemas/order.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "schemas"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "schemas", "order.json"), schema, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// docsCheck compiles text as a file in dir. References resolve to a text that is
// valid as a key too.
func docsCheck(t *testing.T, dir, text string) *config.Report {
	t.Helper()
	name := filepath.Join(dir, "doc.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{name}
	if strings.HasPrefix(text, "deployment:") {
		other := filepath.Join(dir, "other.yaml")
		if err := os.WriteFile(other, []byte("pipeline: p\nin: {a: {stdio: {}}}\nout: {b: {stdio: {}}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, other)
	}
	lookup := config.Lookup{
		Env:      func(string) (string, bool) { return docsKey, true },
		ReadFile: func(string) ([]byte, error) { return []byte(docsKey + "\n"), nil },
	}
	var report config.Report
	pipelines.Load(paths, docsRegistry(t), lookup, &report)
	return &report
}

// Every YAML block of a document compiles, or is an excerpt of a file that does.
func TestDocsYAML(t *testing.T) {
	dir := docsDir(t)
	blocks := documents(t, "yaml")
	sources := map[string][]string{}
	for _, name := range exampleFiles(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources[""] = append(sources[""], string(text))
	}
	wholes := 0
	for i := range blocks {
		b := &blocks[i]
		if !b.whole() {
			continue
		}
		wholes++
		sources[b.file] = append(sources[b.file], b.text)
		for _, p := range docsCheck(t, dir, b.text).Problems() {
			if p.Severity == config.Error {
				b.errorf(t, "%s", p.Text())
			}
		}
	}
	if wholes < 8 {
		t.Errorf("only %d whole blocks were found", wholes)
	}
	for i := range blocks {
		b := &blocks[i]
		among := slices.Concat(sources[""], sources[b.file])
		if !b.whole() && !slices.ContainsFunc(among, func(s string) bool { return excerptOf(b.text, s) }) {
			b.errorf(t, "the block is no excerpt of an example or of another block:\n%s", b.text)
		}
	}
}

// excerptOf reports whether the lines of part stand in whole in this order, all
// moved by the same indentation.
func excerptOf(part, whole string) bool {
	all := strings.Split(whole, "\n")
	lines := slices.DeleteFunc(strings.Split(part, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	for start, line := range all {
		indent, ok := strings.CutSuffix(line, lines[0])
		if !ok || strings.TrimSpace(indent) != "" {
			continue
		}
		rest := lines[1:]
		for _, l := range all[start+1:] {
			if len(rest) > 0 && l == indent+rest[0] {
				rest = rest[1:]
			}
		}
		if len(rest) == 0 {
			return true
		}
	}
	return false
}

func exampleFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir("../examples", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (filepath.Ext(path) == ".yaml" || filepath.Ext(path) == ".yml") {
			names = append(names, path)
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("examples: %v, %v", names, err)
	}
	return names
}

// exampleEnv is the environment that examples/README.md sets.
func exampleEnv(name string) (string, bool) {
	v, ok := map[string]string{
		"MOSQUITTO": "mqtt://127.0.0.1:1883", "KAFKA": "127.0.0.1:9092", "RABBITMQ": "amqp://127.0.0.1:5672",
		"ARTEMIS": "amqp://127.0.0.1:5673", "ACTIVEMQ": "stomp://127.0.0.1:61613",
		"BROKER_USER": "app", "BROKER_PASSWORD": "secret", "WEBHOOK_SECRET": "secret",
	}[name]
	return v, ok
}

// Every folder of examples passes check.
func TestExamplesPassCheck(t *testing.T) {
	folders := map[string]bool{}
	for _, name := range exampleFiles(t) {
		folders[filepath.Dir(name)] = true
	}
	for folder := range folders {
		var report config.Report
		pipelines.Load([]string{folder}, docsRegistry(t), config.Lookup{Env: exampleEnv}, &report)
		for _, p := range report.Problems() {
			t.Error(p.Text())
		}
	}
}

// cases returns the lines `tried → result` of a block, and the text before them.
func (b *block) cases(t *testing.T) (before string, cases [][2]string) {
	t.Helper()
	for line := range strings.Lines(b.text) {
		line = strings.TrimRight(line, "\n")
		at := strings.LastIndex(line, arrow)
		switch {
		case at >= 0:
			cases = append(cases, [2]string{strings.TrimRight(line[:at], " "), strings.TrimSpace(line[at+len(arrow):])})
		case strings.TrimSpace(line) != "":
			before += line + "\n"
		}
	}
	if len(cases) == 0 {
		b.errorf(t, "the block has no example")
	}
	return before, cases
}

// Blocks `check` hold lines of YAML and the code of the problem that check reports: a
// step, or a top-level key with its value.
func TestDocsChecks(t *testing.T) {
	dir := docsDir(t)
	for _, b := range documents(t, "check") {
		_, cases := b.cases(t)
		for _, c := range cases {
			parts := map[string]string{
				"schemas": "{order: schemas/order.json}", "in": "{a: {stdio: {}, as: order}}", "out": "{b: {stdio: {}}}",
			}
			if strings.HasPrefix(c[0], "- ") {
				parts["steps"] = "\n  " + c[0]
			} else {
				key, value, _ := strings.Cut(c[0], ": ")
				parts[key] = value
			}
			text := "pipeline: p\n"
			var textSb271 strings.Builder
			for _, key := range slices.Sorted(maps.Keys(parts)) {
				textSb271.WriteString(key + ": " + parts[key] + "\n")
			}
			text += textSb271.String()
			problems := docsCheck(t, dir, text).Problems()
			if !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Code == c[1] }) {
				b.errorf(t, "%s: the document says %s, check says %v", c[0], c[1], problems)
			}
		}
	}
}

// docsMessage reads the message that the examples of expressions run against.
func docsMessage(t *testing.T) *message.Message {
	t.Helper()
	for _, b := range documents(t, "json") {
		if filepath.Base(b.file) != "expressions.md" {
			continue
		}
		var doc struct {
			Message struct {
				ID          string    `json:"id"`
				Key         string    `json:"key"`
				Topic       string    `json:"topic"`
				Time        time.Time `json:"time"`
				ContentType string    `json:"content_type"`
				Priority    uint8     `json:"priority"`
				Source      string    `json:"source"`
				Attempt     int       `json:"attempt"`
			} `json:"message"`
			Headers map[string]string `json:"headers"`
			Payload json.RawMessage   `json:"payload"`
		}
		if err := json.Unmarshal([]byte(b.text), &doc); err != nil {
			t.Fatalf("%s:%d: %v", b.file, b.line, err)
		}
		m := &message.Message{
			ID: doc.Message.ID, Key: []byte(doc.Message.Key), Topic: doc.Message.Topic, Time: doc.Message.Time,
			ContentType: doc.Message.ContentType, Priority: doc.Message.Priority, Source: doc.Message.Source,
			Attempt: doc.Message.Attempt, Payload: doc.Payload,
		}
		for name, value := range doc.Headers {
			m.Headers.Add(name, message.String(value))
		}
		return m
	}
	t.Fatal("docs/expressions.md has no message")
	return nil
}

// Blocks `expr` hold expressions and what they give for the message of the document:
// JSON, or a code. In blocks `expr order` the payload has the type of the schema.
func TestDocsExpressions(t *testing.T) {
	schema, err := schemas.Load(os.DirFS("../examples/quickstart/schemas"), "order.json")
	if err != nil {
		t.Fatal(err)
	}
	m := docsMessage(t)
	tried := 0
	for _, b := range documents(t, "expr", "expr order") {
		_, cases := b.cases(t)
		for _, c := range cases {
			tried++
			var typ *schemas.Type
			if b.info == "expr order" {
				typ = schema.Type()
			}
			if got := evaluate(t, c[0], typ, m); got != c[1] {
				b.errorf(t, "%s gives %s, the document says %s", c[0], got, c[1])
			}
		}
	}
	if tried < 50 {
		t.Errorf("only %d expressions were found", tried)
	}
}

func evaluate(t *testing.T, source string, typ *schemas.Type, m *message.Message) string {
	t.Helper()
	var report config.Report
	file := config.Parse("x.yaml", []byte("x: |-\n  "+source+"\n"), config.Lookup{}, &report)
	if file == nil {
		return report.Problems()[0].Code
	}
	paths := &jsonscan.Builder{}
	node := file.Root().Get("x")
	scope := expression.Scope{Payload: typ, Paths: paths}
	p := expression.Compile(config.Expr{Source: node.Text(), Node: node}, expression.Anything, scope, "test", &report)
	if p == nil {
		return report.Problems()[0].Code
	}
	set, err := paths.Build()
	if err != nil {
		t.Fatal(err)
	}
	env := expression.Env{Message: m, Doc: &jsonscan.Doc{}}
	env.Doc.Reset(set, m.Payload)
	if err := env.Doc.Scan(); err != nil {
		t.Fatal(err)
	}
	out, err := p.AppendJSON(nil, &env)
	if reason, ok := errors.AsType[*message.Reason](err); ok {
		return reason.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Blocks `steps` hold steps, and payloads with what becomes of them: JSON, `dropped`
// or a code.
func TestDocsSteps(t *testing.T) {
	dir := docsDir(t)
	schema, err := schemas.Load(os.DirFS(filepath.Join(dir, "schemas")), "order.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range documents(t, "steps") {
		text, cases := b.cases(t)
		var report config.Report
		file := config.Parse("x.yaml", []byte("steps:\n"+text), config.Lookup{}, &report)
		if file == nil {
			b.errorf(t, "%v", report.Problems())
			continue
		}
		reg := docsRegistry(t)
		c := &transform.Compiler{
			Report: &report, Keys: reg.Keys, Scope: expression.Scope{Paths: &jsonscan.Builder{}},
			Schemas: map[string]*schemas.Schema{"order": schema}, Where: transform.Where{Step: "doc"},
		}
		var steps []transform.Step
		for _, item := range file.Root().Get("steps").Items() {
			for _, f := range item.Fields() {
				i := slices.IndexFunc(reg.Steps, func(s transform.Spec) bool { return s.Name == f.Name })
				if i < 0 {
					b.errorf(t, "there is no step %s", f.Name)
					continue
				}
				steps = append(steps, reg.Steps[i].Compile(f.Value, c))
			}
		}
		set, err := c.Scope.Paths.Build()
		if err != nil || report.Failed() {
			b.errorf(t, "%v %v", err, report.Problems())
			continue
		}
		for _, x := range cases {
			if got := apply(t, steps, set, x[0]); got != x[1] {
				b.errorf(t, "%s becomes %s, the document says %s", x[0], got, x[1])
			}
		}
	}
}

func apply(t *testing.T, steps []transform.Step, set *jsonscan.Set, payload string) string {
	t.Helper()
	it := &transform.Item{}
	it.Reset(&message.Message{Payload: []byte(payload)}, set)
	if err := it.Doc.Scan(); err != nil {
		code, _ := jsonscan.IsSyntax(err)
		return code
	}
	b := &transform.Batch{Items: []*transform.Item{it}}
	for _, s := range steps {
		s.Apply(t.Context(), b)
	}
	switch {
	case it.Failed() != nil:
		return it.Failed().Code
	case it.Dropped() != "":
		return "dropped"
	default:
		return string(it.Payload())
	}
}

// Every code in the sources is explained in docs/errors.md, and every code there is
// in the sources.
func TestDocsErrors(t *testing.T) {
	code := regexp.MustCompile(`LS[0-9]{4}`)
	used := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if name := d.Name(); name == "testdata" || name == "bin" || len(name) > 2 && name[0] == '.' {
				return filepath.SkipDir
			}
			return nil
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, c := range code.FindAllString(string(text), -1) {
			used[c] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for line := range bytes.Lines(text) {
		if m := regexp.MustCompile("^\\| `(LS[0-9]{4})` \\|").FindSubmatch(line); m != nil {
			if c := string(m[1]); explained[c] {
				t.Errorf("%s is explained twice in docs/errors.md", c)
			} else {
				explained[c] = true
			}
		}
	}
	for c, path := range used {
		if !explained[c] {
			t.Errorf("%s is used in %s and not explained in docs/errors.md", c, path)
		}
	}
	for c := range explained {
		if used[c] == "" {
			t.Errorf("%s is explained in docs/errors.md and not used", c)
		}
	}
}

// Links between documents lead somewhere.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	names, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
