// Package watermill makes any Watermill Pub/Sub an input and an output of pipelines.
//
// A Go program that has a message.Subscriber and a message.Publisher gets a linkspan that
// knows them under a name in YAML:
//
//	os.Exit(cmd.Main(watermill.Of("nats", subscriber, publisher)))
//
// A connector with options of its own is built by Source and Sink.
//
// Delivery, in. A message is acknowledged strictly after it was handed on, which for a
// pipeline with a queue means: it is on stable storage. What is not taken over is handed
// back with Nack, and the subscription stays: Watermill then delivers it again.
//
// Delivery, out. The messages of a batch are one call of Publish. An error of it means
// that an unknown number of them was sent, so all of them are sent again: at least once.
//
// Watermill's Message is here and nowhere else; one costs more than linkspan's own way
// from end to end.
package watermill

import (
	"context"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// Of returns a connector over a Subscriber and a Publisher. Nil for one of them: the
// connector has no such end. Both stay the caller's, who closes them, if at all, when
// nothing runs any more. The options are those of In and Out.
func Of(name string, sub wm.Subscriber, pub wm.Publisher) connectors.Spec {
	spec := connectors.Spec{Name: name}
	if sub != nil {
		spec.Source = sourceSpec(Subscribing[In]{
			Open: func(context.Context, In, connectors.Env) (wm.Subscriber, error) { return lentSubscriber{sub}, nil },
		})
	}
	if pub != nil {
		spec.Sink = sinkSpec(Publishing[Out]{
			Open: func(context.Context, Out, connectors.Env) (wm.Publisher, error) { return lentPublisher{pub}, nil },
		})
	}
	return spec
}

// lentSubscriber is not closed here.
type lentSubscriber struct{ wm.Subscriber }

// Close implements wm.Subscriber.
func (lentSubscriber) Close() error { return nil }

// lentPublisher is not closed here.
type lentPublisher struct{ wm.Publisher }

// Close implements wm.Publisher.
func (lentPublisher) Close() error { return nil }

// Subscribing describes an input over a Subscriber that is made from a configuration C.
type Subscribing[C Inbound] struct {
	// Defaults returns the configuration that YAML is decoded over. Nil: the zero value.
	Defaults func() C
	// Open connects. It is called at each start of the input, and the Subscriber is closed
	// at its end.
	Open func(ctx context.Context, c C, env connectors.Env) (wm.Subscriber, error)
	// Unordered says that the Pub/Sub keeps no order, so that messages have no key.
	Unordered bool
	// Carries adds to what Watermill carries. Nil: nothing.
	Carries func(*connectors.Properties)
	// Read sets more of a message than its ID, headers and payload. Nil: nothing.
	Read func(c C, from *wm.Message, to *message.Message)
}

// Publishing describes an output over a Publisher that is made from a configuration C.
type Publishing[C Outbound] struct {
	// Defaults returns the configuration that YAML is decoded over. Nil: the zero value.
	Defaults func() C
	// Open connects. The Publisher is closed once, at the end.
	Open func(ctx context.Context, c C, env connectors.Env) (wm.Publisher, error)
	// Refuses says whether an error of Publish means that the message can never be sent.
	// Nil: no error means that, and a message that is always refused is tried for ever.
	Refuses func(error) bool
	// Carries adds to what Watermill carries. Nil: nothing.
	Carries func(*connectors.Properties)
	// Write sets more of a message than its UUID, metadata and payload. An error refuses
	// the message for good. Nil: nothing.
	Write func(c C, from *message.Message, to *wm.Message) error
}

// Source builds the input of a connector. C embeds In.
func Source[C Inbound](s Subscribing[C]) *connectors.SourceSpec { return sourceSpec(s) }

// Sink builds the output of a connector. C embeds Out.
func Sink[C Outbound](p Publishing[C]) *connectors.SinkSpec { return sinkSpec(p) }

func sourceSpec[C Inbound](s Subscribing[C]) *connectors.SourceSpec {
	t := connectors.Traits{Redelivers: true, Brokered: true, Headers: true, Carries: carries(s.Carries), OrderKey: "topic"}
	if s.Unordered {
		t.OrderKey = ""
	}
	return connectors.SourceOf(t, defaults(s.Defaults), func(c C, env connectors.Env) (connectors.Source, error) {
		src := &source{
			in: c.inbound().complete(), env: env,
			open: func(ctx context.Context) (wm.Subscriber, error) { return s.Open(ctx, c, env) },
		}
		if !s.Unordered && src.in.Subscriptions == 1 {
			src.key = []byte(src.in.Topic)
		}
		if s.Read != nil {
			src.read = func(from *wm.Message, to *message.Message) { s.Read(c, from, to) }
		}
		return src, nil
	})
}

func sinkSpec[C Outbound](p Publishing[C]) *connectors.SinkSpec {
	t := connectors.Traits{Confirms: true, Headers: true, Carries: carries(p.Carries)}
	return connectors.SinkOf(t, defaults(p.Defaults), func(c C, env connectors.Env) (connectors.Sink, error) {
		k := &sink{
			out:     c.outbound().complete(),
			open:    func(ctx context.Context) (wm.Publisher, error) { return p.Open(ctx, c, env) },
			refuses: p.Refuses,
		}
		if p.Write != nil {
			k.write = func(from *message.Message, to *wm.Message) error { return p.Write(c, from, to) }
		}
		return k, nil
	})
}

func defaults[C any](own func() C) func() C {
	if own != nil {
		return own
	}
	return func() (zero C) { return zero }
}

// metadataCorrelation is where Watermill's own middleware keeps the correlation id.
const metadataCorrelation = "correlation_id"

func carries(more func(*connectors.Properties)) connectors.Properties {
	p := connectors.Properties{
		ID: "UUID", CorrelationID: "metadata " + metadataCorrelation, Kinds: connectors.TextOnly(),
		Notes: []string{
			"metadata is text and has each name once, in no order: headers arrive sorted by name",
			"a message without an id gets a random UUID",
		},
	}
	if more != nil {
		more(&p)
	}
	return p
}
