package cloud_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	connectorsall "github.com/linkspan/linkspan/connectors/all"
	"github.com/linkspan/linkspan/connectors/cloud"
	"github.com/linkspan/linkspan/connectors/watermill"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

// The documents' blocks with the info `yaml full` compile with the connectors of
// linkspan-full, and one that a program brings.
func TestDocs(t *testing.T) {
	pubsub := gochannel.NewGoChannel(gochannel.Config{}, nil)
	registry := pipelines.Registry{
		Connectors: append(append(connectorsall.Specs(), cloud.Specs()...), watermill.Of("nats", pubsub, pubsub)),
		Queue:      queue.Caps{Name: "journal", Durable: true, Atomic: true},
	}
	lookup := config.Lookup{Env: func(string) (string, bool) { return "x", true }}
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, after := range strings.Split(string(text), "\n```yaml full\n")[1:] {
			block, _, _ := strings.Cut(after, "\n```")
			file := filepath.Join(t.TempDir(), "doc.yaml")
			if err := os.WriteFile(file, []byte(block+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			tried++
			var r config.Report
			pipelines.Load([]string{file}, registry, lookup, &r)
			for _, p := range r.Problems() {
				if p.Severity == config.Error {
					t.Errorf("%s: %s\n%s", name, p.Text(), block)
				}
			}
		}
	}
	if tried < 5 {
		t.Errorf("only %d blocks were found", tried)
	}
}
