package pipelines

import (
	"slices"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/routing"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
)

// Plan is a compiled pipeline: immutable, without connections or goroutines, and
// ready to run or to be printed.
type Plan struct {
	Name string
	// File is the YAML file as the user named it.
	File string
	// Hash identifies the source text of the file, in hexadecimal. Dead letters name it.
	Hash string

	Sources  []SourcePlan
	Steps    []StepPlan
	Route    *routing.Table
	Sinks    []SinkPlan
	Delivery Delivery
	// Guarantee is what the pipeline really gives, with the weakest link.
	Guarantee Guarantee

	paths      *jsonscan.Set
	orderPaths *jsonscan.Set
	orderBy    *expression.Program
	// scans: some step, rule or key reads the payload, so that it must be JSON.
	scans bool
}

// SourcePlan is one input.
type SourcePlan struct {
	Name      string
	Connector string
	Traits    connectors.Traits
	// Schema is the name after as:, or "".
	Schema string
	Steps  []StepPlan

	schema *schemas.Schema
	build  func(connectors.Env) (connectors.Source, error)
}

// StepPlan is one step with its place.
type StepPlan struct {
	Verb  string
	Where transform.Where
	step  transform.Step
}

// SinkPlan is one output.
type SinkPlan struct {
	Name      string
	Connector string
	Traits    connectors.Traits
	Steps     []StepPlan
	// Headers are the source headers that may leave through this sink.
	Headers []string

	build   func(connectors.Env) (connectors.Sink, error)
	options []optionPlan
	paths   *jsonscan.Set
	scans   bool
	// shares: the options read the document of the pipeline's steps, which is the same,
	// because the sink has no steps of its own. So the payload is scanned once.
	shares bool
}

// optionPlan computes one option of a sink per message.
type optionPlan struct {
	program *expression.Program
	allow   []string
	where   transform.Where
}

// Delivery is how a pipeline delivers.
type Delivery struct {
	// Guarantee is what the file asserts: at-most-once, at-least-once,
	// effectively-once. Empty: nothing.
	Guarantee string `yaml:"guarantee"`
	// OrderBy is the ordering key. `none` frees the order, and without it the source's
	// own order holds.
	OrderBy config.Expr `yaml:"order_by"`
	// Retry says how often and how long a refused message is tried again.
	Retry Retry `yaml:"retry"`
	// DeadLetter configures the dead letter topic.
	DeadLetter DeadLetterConfig `yaml:"dead_letter"`
	// Queue is empty for the queue of the deployment, or none: sources and sinks are joined
	// directly, and a source may acknowledge upstream only when the sinks have taken the
	// message. Dead letters are stored all the same.
	Queue string `yaml:"queue"`
	// Priority reads the highest priority first, as far as messages wait in the queue.
	// Default: in the order of arrival.
	Priority bool `yaml:"priority"`
	// Dedup is how long the IDs of messages are remembered: another message with a known
	// ID is taken from its sender and not processed again. Default 0: not at all.
	Dedup time.Duration `yaml:"dedup"`
	// Keep is how long messages stay in the queue after they were delivered, so that
	// they can be read again. Default 0: not at all.
	Keep time.Duration `yaml:"keep"`
	// OnDamage says what the pipeline's topics do when messages were lost to damage of the
	// storage: serve_rest reports it and goes on, hold waits for an operator.
	OnDamage string `yaml:"on_damage"`
	// MaxInFlight bounds the messages that are read from the queue and not settled. It
	// bounds the duplicates after a crash, too. Default 256.
	MaxInFlight int `yaml:"max_in_flight"`
	// Lanes is the number of ordered workers. Default: the number of cores.
	Lanes int `yaml:"lanes"`
	// StopTimeout bounds how long a stop waits for lanes. What is not delivered by
	// then stays in the queue. Default 10s.
	StopTimeout time.Duration `yaml:"stop_timeout"`
}

// Retry is a retry policy.
type Retry struct {
	// Attempts bounds the deliveries of one message to one sink that refuses it; an
	// unavailable sink counts none. Default 8.
	Attempts int `yaml:"attempts"`
	// Backoff is the range of waits between them. Default 200ms..30s.
	Backoff config.Backoff `yaml:"backoff"`
}

// DeadLetterConfig configures the dead letter topic.
type DeadLetterConfig struct {
	// Keep is how long dead letters are kept. Default 30d.
	Keep time.Duration `yaml:"keep"`
}

// Guarantee is a delivery guarantee with its reason.
type Guarantee struct {
	// Level is at-most-once, at-least-once or effectively-once.
	Level string `json:"level"`
	// Because names the weakest link.
	Because string `json:"because"`
}

func (p *Plan) hasSource(name string) bool {
	return slices.ContainsFunc(p.Sources, func(s SourcePlan) bool { return s.Name == name })
}

// compute returns the values of the sink's computed options for a message.
func (p *SinkPlan) compute(env *expression.Env) ([]string, error) {
	if len(p.options) == 0 {
		return nil, nil
	}
	values := make([]string, len(p.options))
	for i := range p.options {
		o := &p.options[i]
		text, ok, err := o.program.Text(env)
		if err != nil {
			return nil, err
		}
		if !ok || len(o.allow) > 0 && !slices.Contains(o.allow, text) {
			return nil, o.where.Reason("LS2502", "the computed option is null or not in its allow list")
		}
		values[i] = text
	}
	return values, nil
}

// Topic is the name of the pipeline's topic in the queue.
func (p *Plan) Topic() string { return p.Name }

// DeadLetterTopic is the name of the topic that holds the pipeline's dead letters.
func (p *Plan) DeadLetterTopic() string { return DeadLetterTopic(p.Name) }

// DeadLetterTopic is the name of the topic that holds a pipeline's dead letters.
func DeadLetterTopic(pipeline string) string { return pipeline + ".dead" }

func defaultDelivery(lanes int) Delivery {
	return Delivery{
		Retry:       Retry{Attempts: 8, Backoff: config.Backoff{Min: 200 * time.Millisecond, Max: 30 * time.Second}},
		DeadLetter:  DeadLetterConfig{Keep: 30 * 24 * time.Hour},
		MaxInFlight: 256,
		Lanes:       lanes,
		StopTimeout: 10 * time.Second,
	}
}
