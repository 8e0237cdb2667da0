package cmd

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/connectors"
	connectorsall "github.com/linkspan/linkspan/connectors/all"
)

const webPipeline = `pipeline: p
in:
  web:
    http: {listen: 127.0.0.1:0, path: /}
out:
  disk:
    file: {path: out.ndjson}
`

// A signal stops a run without failure, however early it comes.
func TestAStopDuringTheStartIsNoFailure(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // the output is written beside the pipeline, not in the sources
	name := filepath.Join(dir, "p.yaml")
	if err := os.WriteFile(name, []byte(webPipeline), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(after, cancel)
		if after == 0 {
			cancel()
		}
		var out, log bytes.Buffer
		data := filepath.Join(dir, "data")
		code := execute(ctx, []string{"run", name, "--data", data, "--admin", "127.0.0.1:0"}, stdio{in: strings.NewReader(""), out: &out, err: &log, start: time.Now(), specs: connectorsall.Specs()})
		timer.Stop()
		cancel()
		if code != exitOK {
			t.Errorf("stopped after %v: exit code %d: %s", after, code, log.String())
		}
		if exists(filepath.Join(data, "admin")) {
			t.Errorf("stopped after %v: the admin file is left", after)
		}
	}
}

// A program brings connectors of its own, under names that are free.
func TestExtraConnectors(t *testing.T) {
	for _, c := range []struct {
		extra []string
		want  string
	}{
		{[]string{"nats", "a_1"}, ""},
		{[]string{"kafka"}, `there are two connectors "kafka"; give one another name`},
		{[]string{"nats", "nats"}, `there are two connectors "nats"; give one another name`},
		{[]string{"Nats"}, `"Nats" is not the name of a connector; use lower-case letters, digits and _, beginning with a letter`},
		{[]string{""}, `"" is not the name of a connector; use lower-case letters, digits and _, beginning with a letter`},
	} {
		var extra []connectors.Spec
		for _, name := range c.extra {
			extra = append(extra, connectors.Spec{Name: name})
		}
		specs, err := withExtra(extra)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%v: %s", c.extra, d)
		}
		if err == nil && len(specs) != len(connectorsall.Specs())+len(extra) {
			t.Errorf("%v: %d connectors", c.extra, len(specs))
		}
	}
}
