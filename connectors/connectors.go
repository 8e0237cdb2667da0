// Package connectors is what a protocol provides to linkspan, and what it is lent.
//
// A connector folder exports Spec(). Its source acknowledges upstream only after
// the handler returned nil, and redelivers, nacks or refuses when it did not. Its
// sink returns nil only when the peer has taken responsibility. Neither retries,
// reconnects in a loop, measures or traces: the pipeline does that around them, the
// same for all. A source or sink that loses its peer returns an error and is started
// again by the supervisor with backoff.
package connectors

import (
	"context"
	"log/slog"
	"reflect"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// Source brings messages in.
type Source interface {
	// Run receives until ctx ends or the peer is lost, and hands every message to
	// next. It is called once per Source, and returns after everything that it started.
	//
	// It acknowledges a message upstream only after next returned nil for it. When ctx
	// ends it stops taking, finishes the calls under way as far as the peer allows, and
	// returns nil. A source whose input ends for good returns ErrEnd.
	Run(ctx context.Context, next message.Handler) error
}

// Binder is a Source or Sink that holds an address of this machine. Bind is called
// before anything starts: a port in use ends the start at once.
type Binder interface {
	Bind(ctx context.Context) error
}

// Sink takes messages out. Handle is called concurrently by several lanes; messages
// with equal Keys come from one lane. It keeps their order: when a message with a Key
// is not taken, the later ones of the batch with the same Key are not taken either,
// and are reported with message.ErrBehind.
type Sink interface {
	message.Handler
	// Open connects. It is called before the first Handle, and again, with backoff,
	// after Open failed or Handle returned an error that is no *message.PartialError;
	// other lanes may be in Handle then. It does nothing while the connection is good.
	Open(ctx context.Context) error
	// Close frees the connection, after the last Handle has returned.
	Close(ctx context.Context) error
}

// ErrEnd is returned by a Source whose input has ended for good, such as a file
// that is not followed.
var ErrEnd = endError{}

type endError struct{}

// Error implements error.
func (endError) Error() string { return "the input has ended" }

// Env is what the runtime lends to a source or sink.
type Env struct {
	// Pipeline and Name say whose it is: in.Name or out.Name of Pipeline.
	Pipeline, Name string
	// Dir is a directory of the connector's own for state that must outlive the
	// process (file offsets, MQTT sessions). It exists.
	Dir string
	// Logger already carries pipeline and name. Payloads, keys and header values are
	// never logged.
	Logger *slog.Logger
	// Listeners opens the addresses of the deployment.
	Listeners *Listeners
	// MaxMessage is the largest payload that the queue takes, in bytes.
	MaxMessage int64
	// Replies joins the replies of the pipeline to requests that wait for them.
	Replies *Replies
}

// Spec describes a connector: one value per folder, collected in connectors/all.
type Spec struct {
	// Name is the key in YAML: mqtt, http, file.
	Name string
	// Source and Sink build the two ends. Nil: the connector has no such end.
	Source *SourceSpec
	Sink   *SinkSpec
}

// Traits are what the compiler must know about an end to compute the guarantee of
// a route and to refuse what cannot work.
type Traits struct {
	// Redelivers: a message that was not acknowledged comes again (source).
	Redelivers bool
	// Answers: the sender waits for the outcome and can be told what is wrong with the
	// content, so that it is checked before it is stored (source).
	Answers bool
	// Brokered: messages come from a broker, which cannot be told what is wrong with one
	// (source). What can never be processed is then taken over and becomes a dead letter,
	// instead of being refused.
	Brokered bool
	// Confirms: nil from Handle means that the peer has it (sink).
	Confirms bool
	// Transacts: the messages are read and acknowledged, or written, in a transaction that
	// the input and the outputs of a pipeline share.
	Transacts bool
	// Headers: the protocol carries user headers.
	Headers bool
	// Carries says where the protocol has the properties of a message.
	Carries Properties
	// OrderKey names what orders messages by default (source): "client and topic",
	// "file", "" for none. The source puts it into Message.Key.
	OrderKey string
}

// SourceSpec builds sources.
type SourceSpec struct {
	Traits Traits
	// Config is the zero configuration struct, for the reference and the editor schema.
	Config any
	decode func(config.Node, *config.Report) (func(Env) (Source, error), any)
}

// SinkSpec builds sinks.
type SinkSpec struct {
	Traits Traits
	// Config is the zero configuration struct, for the reference and the editor schema.
	Config any
	decode func(config.Node, *config.Report) (func(Env) (Sink, error), any)
}

// Checker is a configuration that checks itself after decoding: combinations,
// ranges, what a protocol forbids.
type Checker interface {
	Check(n config.Node, r *config.Report)
}

// Traited is a configuration that changes what its end can do, such as QoS 0.
type Traited interface {
	Traits(t Traits) Traits
}

func traits(t Traits, c any) Traits {
	if own, ok := c.(Traited); ok {
		return own.Traits(t)
	}
	return t
}

// SourceOf describes the source end of a connector with configuration type C.
// Defaults returns the configuration that YAML is decoded over; build makes a source
// without side effects.
func SourceOf[C any](t Traits, defaults func() C, build func(C, Env) (Source, error)) *SourceSpec {
	return &SourceSpec{
		Traits: t,
		Config: defaults(),
		decode: func(n config.Node, r *config.Report) (func(Env) (Source, error), any) {
			c := decodeInto(n, defaults(), r)
			return func(e Env) (Source, error) { return build(*c, e) }, c
		},
	}
}

// SinkOf describes the sink end of a connector with configuration type C.
func SinkOf[C any](t Traits, defaults func() C, build func(C, Env) (Sink, error)) *SinkSpec {
	return &SinkSpec{
		Traits: t,
		Config: defaults(),
		decode: func(n config.Node, r *config.Report) (func(Env) (Sink, error), any) {
			c := decodeInto(n, defaults(), r)
			return func(e Env) (Sink, error) { return build(*c, e) }, c
		},
	}
}

func decodeInto[C any](n config.Node, c C, r *config.Report) *C {
	before := len(r.Problems())
	config.Decode(n, &c, r)
	if checker, ok := any(&c).(Checker); ok && len(r.Problems()) == before {
		checker.Check(n, r)
	}
	return &c
}

// Decode reads the source's YAML and returns what builds it, and what it can do.
func (s *SourceSpec) Decode(n config.Node, r *config.Report) (func(Env) (Source, error), Traits) {
	build, c := s.decode(n, r)
	return build, traits(s.Traits, c)
}

// Decode reads the sink's YAML and returns what builds it, what it can do, and the
// computed options that it found. The compiler sets their Index before it calls the
// builder.
func (s *SinkSpec) Decode(n config.Node, r *config.Report) (func(Env) (Sink, error), Traits, []*config.Option) {
	build, c := s.decode(n, r)
	return build, traits(s.Traits, c), options(reflect.ValueOf(c).Elem(), nil)
}

// options finds every config.Option with an expression in a configuration.
func options(v reflect.Value, found []*config.Option) []*config.Option {
	if v.CanAddr() && v.CanInterface() {
		if o, ok := reflect.TypeAssert[*config.Option](v.Addr()); ok {
			if !o.Expr.IsZero() {
				found = append(found, o)
			}
			return found
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				found = options(v.Field(i), found)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			found = options(v.Index(i), found)
		}
	default:
	}
	return found
}
