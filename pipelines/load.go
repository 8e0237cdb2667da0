package pipelines

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
)

// Deployment is what a set of files describes.
type Deployment struct {
	Settings Settings
	Plans    []*Plan
}

// Settings are the contents of linkspan.yaml, the file that starts with
// `deployment:`.
type Settings struct {
	// Deployment is its name.
	Deployment string `yaml:"deployment,required"`
	// Keys is the master key of masks and of the queue, 64 hexadecimal digits. Default: a random key in
	// the data directory.
	Keys config.Secret `yaml:"keys"`
	// Queue configures the queue.
	Queue QueueSettings `yaml:"queue"`
	// Telemetry configures traces.
	Telemetry TelemetrySettings `yaml:"telemetry"`
}

// QueueSettings configure the queue.
type QueueSettings struct {
	// Encrypt encrypts what is stored, under the master key. A queue that is encrypted
	// stays so. Default false.
	Encrypt bool `yaml:"encrypt"`
}

// TelemetrySettings configure OpenTelemetry. Without an endpoint nothing is exported.
type TelemetrySettings struct {
	// OTLP is the address of an OTLP/HTTP receiver, such as http://localhost:4318.
	OTLP config.Address `yaml:"otlp"`
	// Sample is the share of new traces that are kept, 0 to 1. Default 1.
	Sample *float64 `yaml:"sample"`
}

// kinds are the first keys that say what a file is.
func kinds() []string { return []string{"pipeline", "deployment"} }

// Source is one parsed file of a deployment.
type sourceFile struct {
	file *config.File
	data []byte
	kind string
}

// Load reads files and folders and compiles every pipeline in them. All problems of
// all files go to the report. Keys may be nil: then masks compile with the key of the
// settings, or with a placeholder that fails every message when there is none. It
// must not be nil when the plans are run.
func Load(paths []string, reg Registry, lookup config.Lookup, r *config.Report) *Deployment {
	d := &Deployment{}
	var files []sourceFile
	for _, name := range expand(paths, r) {
		if f, ok := parse(name, lookup, r); ok {
			files = append(files, f)
		}
	}
	settings := ""
	for _, f := range files {
		if f.kind != "deployment" {
			continue
		}
		if settings != "" {
			r.Errorf(f.file.Root().Get("deployment"), "LS1329", "keep one of them", "the deployment has settings in %s too", settings)
			continue
		}
		settings = f.file.Name
		d.Settings.read(f.file.Root(), &reg, r)
	}
	seen := map[string]string{}
	for _, f := range files {
		if f.kind != "pipeline" {
			continue
		}
		p := Compile(f.file, f.data, &reg, r)
		name := f.file.Root().Get("pipeline")
		if other, dup := seen[name.Text()]; dup {
			r.Errorf(name, "LS1329", "rename one of them", "the pipeline %q is in %s too", name.Text(), other)
		}
		seen[name.Text()] = f.file.Name
		if p != nil {
			d.Plans = append(d.Plans, p)
		}
	}
	if len(seen) == 0 && !r.Failed() {
		r.Add(config.Problem{
			Position: config.Position{File: strings.Join(paths, " ")}, Code: "LS1113",
			Message: "there is no pipeline", Fix: "name a YAML file that starts with `pipeline: NAME`, or a folder with one",
		})
	}
	return d
}

func (s *Settings) read(n config.Node, reg *Registry, r *config.Report) {
	config.Decode(n, s, r)
	s.Telemetry.check(n.Get("telemetry"), r)
	if s.Keys.IsZero() {
		return
	}
	source, err := keys.Parse(s.Keys.Reveal())
	if err != nil {
		r.Errorf(n.Get("keys"), "LS1112", "make one with `openssl rand -hex 32`", "%s", err)
		return
	}
	reg.Keys = source
}

func (t *TelemetrySettings) check(n config.Node, r *config.Report) {
	if u := t.OTLP.URL(); u != nil && u.Scheme != "http" && u.Scheme != "https" {
		r.Errorf(n.Get("otlp"), "LS1115", "write the address of an OTLP/HTTP receiver, such as http://localhost:4318", "traces are exported over http or https, not %s", u.Scheme)
	}
	if t.Sample != nil && (*t.Sample < 0 || *t.Sample > 1) {
		r.Errorf(n.Get("sample"), "LS1115", "write a share, such as 0.1", "sample must be between 0 and 1")
	}
}

// expand lists the YAML files of folders, not of folders in them.
func expand(paths []string, r *config.Report) []string {
	var names []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			r.Add(config.Problem{Position: config.Position{File: p}, Code: "LS1101", Message: config.ReadErrorText(err), Fix: "check the path"})
			continue
		}
		if !info.IsDir() {
			names = append(names, p)
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			r.Add(config.Problem{Position: config.Position{File: p}, Code: "LS1101", Message: config.ReadErrorText(err)})
			continue
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
				names = append(names, filepath.Join(p, e.Name()))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func parse(name string, lookup config.Lookup, r *config.Report) (sourceFile, bool) {
	data, err := os.ReadFile(name)
	if err != nil {
		r.Add(config.Problem{Position: config.Position{File: name}, Code: "LS1101", Message: config.ReadErrorText(err), Fix: "check the path"})
		return sourceFile{}, false
	}
	f := config.Parse(name, data, lookup, r)
	if f == nil {
		return sourceFile{}, false
	}
	fields := f.Root().Fields()
	if len(fields) == 0 {
		r.Errorf(f.Root(), "LS1110", "start with `pipeline: NAME`", "a file is a mapping")
		return sourceFile{}, false
	}
	if !slices.Contains(kinds(), fields[0].Name) {
		fix := "the first key says what a file is: pipeline or deployment"
		if slices.ContainsFunc(fields, func(x config.Field) bool { return x.Name == "pipeline" }) {
			fix = "move `pipeline:` to the top of the file"
		} else if s := config.Suggest(fields[0].Name, kinds()); strings.HasPrefix(s, "did you mean") {
			fix = s
		}
		r.Errorf(fields[0].Key, "LS1114", fix, "a file cannot start with %q", fields[0].Name)
		return sourceFile{}, false
	}
	return sourceFile{file: f, data: data, kind: fields[0].Name}, true
}
