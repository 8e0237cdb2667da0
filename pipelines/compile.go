package pipelines

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/routing"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
	"github.com/linkspan/linkspan/transform/validate"
)

// Registry is what a pipeline may be made of.
type Registry struct {
	Connectors []connectors.Spec
	Steps      []transform.Spec
	// Keys gives the keys of masks.
	Keys *keys.Source
	// Queue is what the queue engine can do.
	Queue queue.Caps
}

func (r *Registry) connector(name string) (connectors.Spec, bool) {
	i := slices.IndexFunc(r.Connectors, func(s connectors.Spec) bool { return s.Name == name })
	if i < 0 {
		return connectors.Spec{}, false
	}
	return r.Connectors[i], true
}

func (r *Registry) step(name string) (transform.Spec, bool) {
	i := slices.IndexFunc(r.Steps, func(s transform.Spec) bool { return s.Name == name })
	if i < 0 {
		return transform.Spec{}, false
	}
	return r.Steps[i], true
}

// pipelineFile is the shape of a pipeline file. It is decoded key by key, because
// one problem must not hide another.
type pipelineFile struct {
	Pipeline string      `yaml:"pipeline,required"`
	Schemas  config.Node `yaml:"schemas"`
	In       config.Node `yaml:"in,required"`
	Steps    config.Node `yaml:"steps"`
	Route    config.Node `yaml:"route"`
	Out      config.Node `yaml:"out"`
	Delivery config.Node `yaml:"delivery"`
}

// Compile turns a parsed file into a Plan. All problems go to the report; the Plan
// is nil when there is an error among them.
func Compile(f *config.File, data []byte, reg *Registry, r *config.Report) *Plan {
	sum := sha256.Sum256(data)
	own := &config.Report{}
	c := &planner{
		root: f.Root(), reg: reg, report: own,
		plan:  &Plan{File: f.Name, Hash: hex.EncodeToString(sum[:8])},
		paths: &jsonscan.Builder{},
	}
	c.compile()
	for _, p := range own.Problems() {
		r.Add(p)
	}
	if own.Failed() {
		return nil
	}
	return c.plan
}

type planner struct {
	root    config.Node
	reg     *Registry
	report  *config.Report
	plan    *Plan
	file    pipelineFile
	schemas map[string]*schemas.Schema
	paths   *jsonscan.Builder
	// received is the type of what the sources receive, payload after their steps. Nil:
	// not known.
	received, payload *schemas.Type
	scans             bool
	// untyped are the sources without a schema.
	untyped []config.Field
}

func (c *planner) compile() {
	config.Decode(c.root, &c.file, c.report)
	c.plan.Name = c.file.Pipeline
	if n := c.root.Get("pipeline"); n.IsReference() {
		c.report.Errorf(n, "LS1320", "write the name out", "the name of a pipeline names its topics, so it cannot be a reference")
		return
	}
	if c.plan.Name != "" && !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`).MatchString(c.plan.Name) {
		c.report.Errorf(c.root.Get("pipeline"), "LS1320", "use letters, digits, - and _, at most 100", "%q is not a pipeline name", c.plan.Name)
	}
	c.plan.Delivery = defaultDelivery(runtime.GOMAXPROCS(0))
	if !c.file.Delivery.IsZero() {
		config.Decode(c.file.Delivery, &c.plan.Delivery, c.report)
	}
	c.loadSchemas()
	c.compileSources()
	c.compileOrder()
	sc := c.stepCompiler(c.payload, c.paths)
	c.plan.Steps = c.compileSteps(c.file.Steps, "steps", sc)
	c.compileRoute(sc)
	c.scans = c.scans || sc.Payload
	c.compileSinks(sc.Scope.Payload)
	c.checkDelivery()
	c.warnUntyped()
	set, err := c.paths.Build()
	if err != nil {
		c.report.Errorf(c.root, "LS1321", "split the pipeline", "%s", err)
		return
	}
	c.plan.paths, c.plan.scans = set, c.scans
}

// warnUntyped says which fields nobody checks. A pipeline that never looks into the
// payload needs no schema.
func (c *planner) warnUntyped() {
	looks := c.scans || slices.ContainsFunc(c.plan.Sinks, func(s SinkPlan) bool { return s.scans })
	for _, f := range c.untyped {
		if looks {
			c.report.Warnf(f.Key, "LS1326", "add `as: SCHEMA` to have fields checked", "in.%s has no schema: fields of its payload are not checked", f.Name)
		}
	}
}

func (c *planner) loadSchemas() {
	c.schemas = map[string]*schemas.Schema{}
	if !c.file.Schemas.IsZero() && !c.file.Schemas.IsMapping() {
		c.report.Errorf(c.file.Schemas, "LS1110", "write NAME: FILE.json, one a line", "schemas is a mapping")
	}
	for _, f := range c.file.Schemas.Fields() {
		name := f.Value.Text()
		if name == "" {
			c.report.Errorf(f.Value, "LS1401", "write NAME: FILE.json", "the path of a schema file is needed")
			continue
		}
		full := name
		if !filepath.IsAbs(name) {
			full = filepath.Join(filepath.Dir(c.plan.File), name)
		}
		s, err := schemas.Load(os.DirFS(filepath.Dir(full)), filepath.Base(full))
		if err != nil {
			c.schemaProblems(f.Value, err)
			// The name stays known, so that its uses are not reported as well.
		}
		c.schemas[f.Name] = s
	}
}

func (c *planner) schemaProblems(n config.Node, err error) {
	var many schemas.Errors
	if !errors.As(err, &many) {
		c.report.Errorf(n, "LS1401", "check the path", "%s", config.ReadErrorText(err))
		return
	}
	for _, p := range many {
		fix := p.Fix
		if fix == "" && p.Code == schemas.CodeRead {
			fix = "check the path; it is relative to the folder of the pipeline's file"
		}
		c.report.Errorf(n, p.Code, fix, "%s#%s: %s", p.File, p.Pointer, p.What)
	}
}

func (c *planner) stepCompiler(t *schemas.Type, paths *jsonscan.Builder) *transform.Compiler {
	return &transform.Compiler{
		Report: c.report, Keys: c.reg.Keys, Schemas: c.schemas,
		Scope: expression.Scope{Payload: t, Paths: paths},
	}
}

func (c *planner) compileSteps(n config.Node, path string, sc *transform.Compiler) []StepPlan {
	if n.IsZero() || n.IsNull() {
		return nil
	}
	if !n.IsSequence() {
		c.report.Errorf(n, "LS1322", "write a list: `- keep: …`", "steps are a list")
		return nil
	}
	var steps []StepPlan
	for i, item := range n.Items() {
		if s, ok := c.compileStep(item, fmt.Sprintf("%s[%d]", path, i), sc); ok {
			steps = append(steps, s)
		}
	}
	return steps
}

func (c *planner) compileStep(item config.Node, path string, sc *transform.Compiler) (StepPlan, bool) {
	fields := item.Fields()
	if len(fields) != 1 {
		c.report.Errorf(item, "LS1322", "write one verb a step: `- keep: …`", "a step is one verb with its value")
		return StepPlan{}, false
	}
	f := fields[0]
	spec, ok := c.reg.step(f.Name)
	if !ok {
		var known []string
		for _, s := range c.reg.Steps {
			known = append(known, s.Name)
		}
		c.report.Errorf(f.Key, "LS1323", config.Suggest(f.Name, known), "there is no step %q", f.Name)
		return StepPlan{}, false
	}
	at := f.Key.Position()
	sc.Where = transform.Where{Step: path + " " + f.Name, File: at.File, Line: at.Line}
	step := spec.Compile(f.Value, sc)
	if step == nil {
		return StepPlan{}, false
	}
	return StepPlan{Verb: f.Name, Where: sc.Where, step: step}, true
}

func (c *planner) compileRoute(sc *transform.Compiler) {
	var names []string
	for _, f := range c.file.Out.Fields() {
		names = append(names, f.Name)
	}
	if c.impliesReply() {
		names = append(names, routing.Reply)
	}
	if len(names) == 0 {
		if c.file.Out.IsZero() {
			c.report.Errorf(c.root, "LS1111", "add `out:`, or a route to reply", "the key \"out\" is missing")
		}
		return
	}
	c.plan.Route = routing.Compile(c.file.Route, c.root, names, sc.Scope, c.report)
	if c.plan.Route != nil && c.plan.Route.ReadsPayload() {
		c.scans = true
	}
}

func (c *planner) compileOrder() {
	d := &c.plan.Delivery
	if d.OrderBy.IsZero() || d.OrderBy.Source == "none" {
		return
	}
	paths := &jsonscan.Builder{}
	scope := expression.Scope{Payload: c.received, Paths: paths}
	p := expression.Compile(d.OrderBy, expression.Anything, scope, "delivery.order_by", c.report)
	if p == nil {
		return
	}
	set, err := paths.Build()
	if err != nil {
		c.report.Errorf(d.OrderBy.Node, "LS1321", "shorten the expression", "%s", err)
		return
	}
	c.plan.orderBy, c.plan.orderPaths = p, set
	c.scans = c.scans || p.ReadsPayload()
}

func (c *planner) compileSources() {
	if c.file.In.IsZero() {
		return
	}
	fields := c.file.In.Fields()
	if len(fields) == 0 {
		c.report.Errorf(c.file.In, "LS1324", "write NAME: {http: {listen: 127.0.0.1:8080, path: /}}", "in needs at least one source")
	}
	for i, f := range fields {
		received, after := c.compileSource(f)
		if i == 0 {
			c.received, c.payload = received, after
		} else {
			c.received, c.payload = schemas.Join(c.received, received), schemas.Join(c.payload, after)
		}
	}
}

// compileSource returns the type of the payload as it is received and after the
// source's own steps.
func (c *planner) compileSource(f config.Field) (received, after *schemas.Type) {
	at := f.Key.Position()
	s := SourcePlan{Name: f.Name}
	sc := c.stepCompiler(nil, c.paths)
	connector, node := c.endpoint(f, []string{"as", "steps"}, func(s connectors.Spec) bool { return s.Source != nil })
	if connector.Name != "" {
		if connector.Source == nil {
			c.report.Errorf(f.Value, "LS1325", "use it under out", "%s cannot be a source", connector.Name)
		} else {
			s.Connector = connector.Name
			s.build, s.Traits = connector.Source.Decode(node, c.report)
		}
	}
	if as := f.Value.Get("as"); !as.IsZero() {
		s.Schema = as.Text()
		sc.Where = transform.Where{Step: "in." + f.Name + " as " + s.Schema, File: at.File, Line: as.Position().Line}
		if schema, ok := c.schemas[s.Schema]; ok {
			s.schema = schema
			s.Steps = append(s.Steps, StepPlan{Verb: "validate", Where: sc.Where, step: validate.New(schema, sc)})
		} else {
			validate.Spec().Compile(as, sc)
		}
	} else if s.Connector != "" {
		c.untyped = append(c.untyped, f)
	}
	received = sc.Scope.Payload
	s.Steps = append(s.Steps, c.compileSteps(f.Value.Get("steps"), "in."+f.Name+".steps", sc)...)
	c.scans = c.scans || sc.Payload
	c.plan.Sources = append(c.plan.Sources, s)
	return received, sc.Scope.Payload
}

// endpoint finds the connector among the keys of an input or output.
func (c *planner) endpoint(f config.Field, others []string, fits func(connectors.Spec) bool) (connectors.Spec, config.Node) {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`).MatchString(f.Name) || f.Name == routing.DeadLetter || f.Name == routing.Reply {
		c.report.Errorf(f.Key, "LS1320", "use letters, digits, - and _; dead_letter and reply are reserved", "%q is not a name for an input or output", f.Name)
	}
	var fitting []string
	for _, s := range c.reg.Connectors {
		if fits(s) {
			fitting = append(fitting, s.Name)
		}
	}
	known := append(slices.Clone(others), fitting...)
	var found connectors.Spec
	var node config.Node
	unknown := false
	for _, k := range f.Value.Fields() {
		spec, ok := c.reg.connector(k.Name)
		switch {
		case slices.Contains(others, k.Name):
		case !ok:
			unknown = true
			c.report.Errorf(k.Key, "LS1104", config.Suggest(k.Name, known), "unknown key %q", k.Name)
		case found.Name != "":
			c.report.Errorf(k.Key, "LS1325", "make two entries", "there are two connectors, %s and %s", found.Name, k.Name)
		default:
			found, node = spec, k.Value
		}
	}
	if found.Name == "" && !unknown {
		c.report.Errorf(f.Key, "LS1325", "add one of: "+strings.Join(fitting, ", "), "%s names no connector", f.Value.Path())
	}
	return found, node
}
