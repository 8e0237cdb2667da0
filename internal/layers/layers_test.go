// Package layers holds the rules of the tree that a compiler does not check: imports
// point down only, each engine has one door, and goroutines have an owner.
package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/linkspan/linkspan/"

// mayImport says, for each package, which packages of this module it may import. A
// pattern that ends in /… stands for the packages below. A package that no line names
// fails the test: whoever adds one decides where it stands.
func mayImport() []struct {
	pkg     string
	imports []string
} {
	type line = struct {
		pkg     string
		imports []string
	}
	low := []string{"message", "internal/config", "internal/run", "internal/vfs", "internal/tlsconf", "internal/keys", "internal/jsonscan"}
	step := append(slices.Clone(low), "transform", "schemas", "internal/expression")
	connector := append(slices.Clone(low), "connectors", "connectors/internal/…")
	return []line{
		{"message", nil},
		{"internal/config", nil},
		{"internal/run", nil},
		{"internal/vfs", nil},
		{"internal/keys", nil},
		{"internal/jsonscan", nil},
		{"internal/tlsconf", []string{"internal/config"}},
		{"schemas", []string{"internal/jsonscan"}},
		{"internal/expression", []string{"message", "internal/config", "internal/jsonscan", "schemas"}},
		{"connectors", []string{"message", "internal/config"}},
		{"connectors/all", []string{"connectors", "connectors/…"}},
		{"connectors/connectortest", connector},
		{"connectors/internal/…", low},
		{"connectors/…", connector},
		{"queue", []string{"message"}},
		{"queue/internal/keyring", []string{"internal/vfs", "internal/keys"}},
		{"queue/internal/…", []string{"message", "queue", "queue/internal/…"}},
		{"queue/queuetest", []string{"message", "queue", "internal/run"}},
		{"queue/…", []string{"message", "queue", "queue/internal/…", "internal/vfs", "internal/run", "internal/keys"}},
		{"transform", append(slices.Clone(low), "schemas", "internal/expression")},
		{"transform/all", []string{"transform", "transform/…"}},
		{"transform/…", step},
		{"routing", []string{"message", "internal/config", "internal/expression"}},
		{"pipelines", append(slices.Clone(step), "transform/validate", "connectors", "routing", "queue")},
		{"internal/telemetry", []string{"internal/config", "internal/run", "pipelines"}},
		{"internal/console", append(slices.Clone(low), "pipelines", "queue")},
		{"internal/layers", nil},
		{"cmd", append(slices.Clone(low), "pipelines", "internal/console", "internal/telemetry", "connectors", "connectors/all", "transform/all", "queue", "queue/journal")},
		{"cmd/linkspan", []string{"cmd"}},
		{"test", nil},
		{"test/brokers/brokersenv", nil},
		{"test/pairs", nil},
	}
}

// doors says which packages may import an engine that is kept behind one door.
func doors() map[string][]string {
	return map[string][]string{
		"github.com/expr-lang/expr":           {"internal/expression"},
		"github.com/xeipuuv/gojsonschema":     {"schemas"},
		"go.yaml.in/yaml":                     {"internal/config"},
		"github.com/prometheus/client_golang": {"internal/console"},
		"github.com/spf13/cobra":              {"cmd"},
		"go.opentelemetry.io/otel/sdk":        {"internal/telemetry"},
		"go.opentelemetry.io/otel/exporters":  {"internal/telemetry"},
		"github.com/mochi-mqtt/server":        {"connectors/mqtt"},
		"github.com/eclipse/paho.golang":      {"connectors/mqtt"},
		"github.com/eclipse/paho.mqtt.golang": {"connectors/mqtt"},
		"github.com/ThreeDotsLabs/watermill":  {"connectors/watermill", "queue/watermill"},
		"github.com/go-stomp/stomp":           {"connectors/stomp"},
		"github.com/rabbitmq/amqp091-go":      {"connectors/amqp091"},
		"github.com/Azure/go-amqp":            {"connectors/amqp1"},
		"github.com/twmb/franz-go":            {"connectors/kafka"},
		"golang.org/x/oauth2":                 {"connectors/http", "connectors/kafka"},
		"github.com/coreos/go-oidc":           {"connectors/http"},
		"github.com/klauspost/compress":       {"queue/journal"},
		"github.com/pkg/errors":               {},
		"github.com/stretchr/testify":         {},
		"math/rand":                           {},
		"log":                                 {},
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func matches(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "…"); ok {
		return strings.HasPrefix(pkg, below)
	}
	return pattern == pkg
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		rules := mayImport()
		i := slices.IndexFunc(rules, func(l struct {
			pkg     string
			imports []string
		},
		) bool {
			return matches(l.pkg, name)
		})
		if i < 0 {
			t.Errorf("%s is in no layer; add it to the table", name)
			continue
		}
		for _, imported := range p.Imports {
			own, ok := strings.CutPrefix(imported, module)
			if ok && !slices.ContainsFunc(rules[i].imports, func(allowed string) bool { return matches(allowed, own) }) {
				t.Errorf("%s must not import %s", name, own)
			}
		}
	}
}

func TestEnginesHaveOneDoor(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			for engine, allowed := range doors() {
				if (imported == engine || strings.HasPrefix(imported, engine+"/")) && imported != "math/rand/v2" && imported != "log/slog" && !slices.Contains(allowed, name) {
					t.Errorf("%s must not import %s; its door is %v", name, imported, allowed)
				}
			}
		}
	}
}

// Only internal/run starts goroutines, so that each has an owner who waits for it.
func TestGoroutinesHaveAnOwner(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata" || rel == filepath.Join("internal", "run") || rel == "tools" || rel == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: start goroutines through internal/run", set.Position(g.Pos()))
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("only %d files were looked at", files)
	}
}

// Every package says what it guarantees.
func TestPackagesAreDocumented(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}}\t{{.Doc}}", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		name, doc, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if doc == "" && !strings.HasSuffix(name, "internal/layers") {
			t.Errorf("%s has no package comment", name)
		}
	}
}
