// Package googlepubsub connects linkspan to Google Cloud Pub/Sub, over Watermill's Pub/Sub
// for it.
//
// In. Messages of a subscription are acknowledged strictly after the hand-over; what is not
// taken over is refused, and Pub/Sub delivers it again, or moves it to the dead-letter topic
// of the subscription when it has one.
//
// Out. A message is published when the service has answered with its id.
//
// Credentials are those of the environment (Application Default Credentials).
package googlepubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-googlecloud/v2/pkg/googlecloud"
	wm "github.com/ThreeDotsLabs/watermill/message"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/linkspan/linkspan/connectors"
	bridge "github.com/linkspan/linkspan/connectors/watermill"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// Attributes that Watermill's Pub/Sub sets, and one that is only between this package's
// parts.
const (
	attributeTime     = "publishTime"
	attributeID       = googlecloud.GoogleMessageIDHeaderKey
	attributeOrdering = "linkspan.ordering_key"
)

// Spec describes the google_pubsub connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name: "google_pubsub",
		Source: bridge.Source(bridge.Subscribing[SourceConfig]{
			Defaults:  func() SourceConfig { return SourceConfig{MaxInFlight: 1000} },
			Open:      subscribe,
			Unordered: true,
			Carries:   carries,
			Read:      read,
		}),
		Sink: bridge.Sink(bridge.Publishing[SinkConfig]{
			Defaults: func() SinkConfig {
				return SinkConfig{Out: bridge.NewOut(), OrderingKey: config.Option{Expression: true}}
			},
			Open:    publish,
			Refuses: func(err error) bool { return code(err) == codes.InvalidArgument },
			Carries: carries,
			Write:   write,
		}),
	}
}

func carries(p *connectors.Properties) {
	p.ID, p.Time, p.Key = "attribute "+googlecloud.UUIDHeaderKey+", else the message id", "publish time", "ordering key"
	p.Notes = append(p.Notes, "attributes have at most 256 bytes in a name and 1024 in a value, and are UTF-8: others are refused")
}

// Service is how the service is reached.
type Service struct {
	// Project is the id of the project.
	Project string `yaml:"project,required"`
	// Endpoint is host:port of an emulator: without TLS, and without credentials. Empty: the
	// service.
	Endpoint string `yaml:"endpoint"`
	// Create makes the topic, and the subscription, when they are missing.
	Create bool `yaml:"create"`
}

func (s *Service) options() []option.ClientOption {
	if s.Endpoint == "" {
		return nil
	}
	return []option.ClientOption{
		option.WithEndpoint(s.Endpoint), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

// SourceConfig is what a user writes under `google_pubsub:` of an input.
type SourceConfig struct {
	bridge.In
	Service

	// Subscription is the name of the subscription of the topic.
	Subscription string `yaml:"subscription,required"`
	// MaxInFlight is how many messages the service delivers before it waits for an
	// acknowledgement. Default: 1000.
	MaxInFlight int `yaml:"max_in_flight"`
}

// SinkConfig is what a user writes under `google_pubsub:` of an output.
type SinkConfig struct {
	bridge.Out
	Service

	// OrderingKey is an expression: messages with equal keys are delivered in order. Empty:
	// no order.
	OrderingKey config.Option `yaml:"ordering_key"`
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	c.In.Check(n, r)
	if c.MaxInFlight < 1 {
		r.Errorf(n.Get("max_in_flight"), "LS1150", "write a number of messages", "max_in_flight must be positive")
	}
	if c.Subscriptions > 1 {
		r.Errorf(n.Get("subscriptions"), "LS1150", "leave it out; `max_in_flight:` says how many messages are under way", "one subscription of Pub/Sub delivers many messages at once")
	}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) { c.Out.Check(n, r) }

// leaseSteps is how long a message is kept from others at a time while it is under way, and
// so how long after a crash it comes again.
const leaseSteps = 10 * time.Second

func subscribe(_ context.Context, c SourceConfig, env connectors.Env) (wm.Subscriber, error) {
	return googlecloud.NewSubscriber(googlecloud.SubscriberConfig{
		ProjectID:                        c.Project,
		GenerateSubscriptionName:         func(string) string { return c.Subscription },
		DoNotCreateSubscriptionIfMissing: !c.Create, DoNotCreateTopicIfMissing: !c.Create,
		ReceiveSettings: pubsub.ReceiveSettings{MaxOutstandingMessages: c.MaxInFlight, MaxDurationPerAckExtension: leaseSteps},
		ClientOptions:   c.options(),
		Unmarshaler:     googlecloud.NewOrderingUnmarshaler(keep),
	}, logger(env))
}

func publish(_ context.Context, c SinkConfig, env connectors.Env) (wm.Publisher, error) {
	ordered := !c.OrderingKey.IsZero()
	return googlecloud.NewPublisher(googlecloud.PublisherConfig{
		ProjectID:                 c.Project,
		DoNotCreateTopicIfMissing: !c.Create,
		EnableMessageOrdering:     ordered, EnableMessageOrderingAutoResumePublishOnError: ordered,
		PublishTimeout: c.Timeout,
		// It waits for each message, so that waiting for more of them would be for nothing.
		PublishSettings: &pubsub.PublishSettings{CountThreshold: 1, DelayThreshold: time.Millisecond, ByteThreshold: 1, NumGoroutines: 8, Timeout: c.Timeout},
		ClientOptions:   c.options(),
		Marshaler:       marshaler{},
	}, logger(env))
}

// logger lets the library say what it does in debug logs, and its failures as warnings.
func logger(env connectors.Env) watermill.LoggerAdapter {
	return watermill.NewSlogLoggerWithLevelMapping(env.Logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, slog.LevelError: slog.LevelWarn,
	})
}

// keep puts the ordering key where read finds it.
func keep(key string, m *wm.Message) error {
	if key != "" {
		m.Metadata.Set(attributeOrdering, key)
	}
	return nil
}

// read takes out what is no header.
func read(_ SourceConfig, from *wm.Message, to *message.Message) {
	if key := from.Metadata.Get(attributeOrdering); key != "" {
		to.Key = []byte(key)
	}
	if to.ID == "" {
		to.ID = from.Metadata.Get(attributeID)
	}
	const layout = "2006-01-02 15:04:05.999999999 -0700 MST" // of time.Time.String
	if t, err := time.Parse(layout, from.Metadata.Get(attributeTime)); err == nil {
		to.Time = t
	}
	for _, name := range []string{attributeTime, attributeID, attributeOrdering} {
		to.Headers.Del(name)
	}
}

// The limits of Pub/Sub.
const (
	maxAttributes = 100
	maxName       = 256
	maxValue      = 1024
	maxMessage    = 10_000_000
)

// write refuses what Pub/Sub would refuse, and adds the ordering key.
func write(c SinkConfig, from *message.Message, to *wm.Message) error {
	size := len(to.Payload)
	for name, value := range to.Metadata {
		switch {
		case name == "" || len(name) > maxName || len(value) > maxValue:
			return fmt.Errorf("a header has an empty name, or more than %d bytes in its name or %d in its value", maxName, maxValue)
		case strings.HasPrefix(name, "goog") || name == googlecloud.UUIDHeaderKey || name == attributeOrdering:
			return errors.New("a header has a name that is reserved: goog…, or the attribute of the id")
		case !utf8.ValidString(name) || !utf8.ValidString(value):
			return errors.New("a header is not UTF-8")
		}
		size += len(name) + len(value)
	}
	if len(to.Metadata) >= maxAttributes {
		return fmt.Errorf("it has more than %d headers", maxAttributes-1)
	}
	if len(to.UUID) > maxValue || !utf8.ValidString(to.UUID) {
		return fmt.Errorf("the id is not UTF-8, or has more than %d bytes", maxValue)
	}
	if size+len(to.UUID) > maxMessage-1000 {
		return fmt.Errorf("it is larger than %d bytes", maxMessage)
	}
	if c.OrderingKey.IsZero() {
		return nil
	}
	key := c.OrderingKey.Value(from.Options)
	if len(key) > maxValue || !utf8.ValidString(key) {
		return fmt.Errorf("the ordering key is not UTF-8, or has more than %d bytes", maxValue)
	}
	to.Metadata.Set(attributeOrdering, key)
	return nil
}

// marshaler moves the ordering key to its place.
type marshaler struct {
	googlecloud.DefaultMarshalerUnmarshaler
}

// Marshal implements googlecloud.Marshaler.
func (m marshaler) Marshal(topic string, from *wm.Message) (*pubsub.Message, error) {
	to, err := m.DefaultMarshalerUnmarshaler.Marshal(topic, from)
	if err != nil {
		return nil, err
	}
	to.OrderingKey = to.Attributes[attributeOrdering]
	delete(to.Attributes, attributeOrdering)
	return to, nil
}

// code returns the code of the answer of the service.
func code(err error) codes.Code {
	for ; err != nil; err = errors.Unwrap(err) {
		if s, ok := status.FromError(err); ok {
			return s.Code()
		}
	}
	return codes.OK
}
