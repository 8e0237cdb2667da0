// Package redisstreams connects linkspan to Redis Streams, over Watermill's Pub/Sub for
// them.
//
// In. The input is a consumer of a consumer group: XREADGROUP, one entry at a time for
// each of its subscriptions, and XACK strictly after the hand-over. An entry that was
// delivered to a consumer that is gone is claimed after claim_after. An entry that
// Watermill did not write is a message too: its fields are headers, and its field payload
// is the payload.
//
// Out. XADD, one call after another; the entry is there when the call returns. How durable
// it then is, is a matter of the server (appendfsync, replicas).
package redisstreams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/linkspan/linkspan/connectors"
	bridge "github.com/linkspan/linkspan/connectors/watermill"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
)

// Spec describes the redis_streams connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name: "redis_streams",
		Source: bridge.Source(bridge.Subscribing[SourceConfig]{
			Defaults: func() SourceConfig { return SourceConfig{Start: "first", ClaimAfter: 30 * time.Second} },
			Open:     subscribe,
		}),
		Sink: bridge.Sink(bridge.Publishing[SinkConfig]{
			Defaults: func() SinkConfig { return SinkConfig{Out: bridge.NewOut()} },
			Open:     publish,
			Write:    reserved,
		}),
	}
}

// Server is how a server is reached.
type Server struct {
	// Connect is redis://host:6379/0, or rediss:// for TLS. The path is the database.
	Connect config.Address `yaml:"connect,required"`
	// TLS configures rediss.
	TLS *tlsconf.Client `yaml:"tls"`
	// Auth is the user and the password. Nil: none.
	Auth *Auth `yaml:"auth"`
}

// Auth is a user of Redis. Without a user it is the default one.
type Auth struct {
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password,required"`
}

// SourceConfig is what a user writes under `redis_streams:` of an input.
type SourceConfig struct {
	bridge.In
	Server

	// Group is the consumer group. It is made when it is missing.
	Group string `yaml:"group,required"`
	// Consumer is the name in the group. It must be stable, and another one in each
	// instance. Default: the host, the pipeline and the input.
	Consumer string `yaml:"consumer"`
	// Start is where a group that is made begins: first or latest. Default: first.
	Start string `yaml:"start"`
	// ClaimAfter is when an entry that a consumer has and does not acknowledge is given to
	// another one. It is longer than a hand-over takes. Default: 30s.
	ClaimAfter time.Duration `yaml:"claim_after"`
}

// SinkConfig is what a user writes under `redis_streams:` of an output.
type SinkConfig struct {
	bridge.Out
	Server

	// MaxLength is how many entries a stream keeps, about; older ones are removed, whether
	// they were read or not. Default: all.
	MaxLength int64 `yaml:"max_length"`
}

func (s *Server) check(n config.Node, r *config.Report) {
	u := s.Connect.URL()
	switch {
	case u.Scheme != "redis" && u.Scheme != "rediss":
		r.Errorf(n.Get("connect"), "LS1150", "write redis://host:6379/0 or rediss://host:6379/0", "this is not the address of a Redis server")
	case u.User != nil:
		r.Errorf(n.Get("connect"), "LS1150", "use `auth: {user: U, password: ${env:NAME}}`", "a user and a password do not belong in an address")
	case u.Scheme == "redis" && s.TLS != nil:
		r.Errorf(n.Get("tls"), "LS1150", "write rediss:// in `connect:`", "tls has no effect with redis://")
	}
	if s.TLS != nil {
		s.TLS.Check(n.Get("tls"), r)
	}
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	c.In.Check(n, r)
	c.check(n, r)
	if c.Start != "first" && c.Start != "latest" {
		r.Errorf(n.Get("start"), "LS1150", "write first or latest", "this is not a place to start")
	}
	if c.ClaimAfter <= 0 {
		r.Errorf(n.Get("claim_after"), "LS1150", "write a duration such as 30s", "claim_after must be positive")
	}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	c.Out.Check(n, r)
	c.check(n, r)
	if c.MaxLength < 0 {
		r.Errorf(n.Get("max_length"), "LS1150", "write a number of entries", "max_length is not negative")
	}
}

// dial connects, and finds wrong credentials before they look like a lost connection.
func (s *Server) dial(ctx context.Context, connections int) (*redis.Client, error) {
	u := s.Connect.URL()
	o, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", s.Connect, err)
	}
	o.PoolSize, o.MaxRetries = connections, -1 // the supervisor tries again
	o.DisableIdentity = true
	if s.Auth != nil {
		o.Username, o.Password = s.Auth.User, s.Auth.Password.Reveal()
	}
	if u.Scheme == "rediss" {
		if o.TLSConfig, err = s.TLS.Load(u.Hostname()); err != nil {
			return nil, err
		}
	}
	client := redis.NewClient(o)
	if err := client.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s: %w", s.Connect, explain(err)), client.Close())
	}
	return client, nil
}

func explain(err error) error {
	for _, prefix := range []string{"NOAUTH", "WRONGPASS", "NOPERM"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return fmt.Errorf("LS4395: the server does not accept the user or its password; check `auth`: %w", err)
		}
	}
	return err
}

func subscribe(ctx context.Context, c SourceConfig, env connectors.Env) (wm.Subscriber, error) {
	client, err := c.dial(ctx, 4*max(c.Subscriptions, 1)+4)
	if err != nil {
		return nil, err
	}
	if c.Consumer == "" {
		host, _ := os.Hostname() // "" is a name too
		c.Consumer = host + "/" + env.Pipeline + "/" + env.Name
	}
	return redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client: client, Unmarshaller: unmarshaller{}, Consumer: c.Consumer, ConsumerGroup: c.Group,
		OldestId:    map[string]string{"first": "0", "latest": "$"}[c.Start],
		MaxIdleTime: c.ClaimAfter, ClaimInterval: max(c.ClaimAfter/4, 10*time.Millisecond),
		NackResendSleep:               100 * time.Millisecond,
		DisableIndefiniteInitialBlock: true,
		ShouldStopOnReadErrors:        func(error) bool { return true }, // the supervisor starts again
	}, logger(env))
}

func publish(ctx context.Context, c SinkConfig, env connectors.Env) (wm.Publisher, error) {
	client, err := c.dial(ctx, 16)
	if err != nil {
		return nil, err
	}
	return redisstream.NewPublisher(redisstream.PublisherConfig{Client: client, DefaultMaxlen: c.MaxLength}, logger(env))
}

// logger lets the library say what it does in debug logs, and its failures as warnings.
func logger(env connectors.Env) watermill.LoggerAdapter {
	return watermill.NewSlogLoggerWithLevelMapping(env.Logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, slog.LevelError: slog.LevelWarn,
	})
}

// reserved refuses what cannot be written beside the id.
func reserved(_ SinkConfig, _ *message.Message, to *wm.Message) error {
	if _, ok := to.Metadata[redisstream.UUIDHeaderKey]; ok {
		return errors.New("the header " + redisstream.UUIDHeaderKey + " is reserved for the id")
	}
	return nil
}

// unmarshaller reads every entry: one that cannot be read would come again for ever.
type unmarshaller struct {
	redisstream.DefaultMarshallerUnmarshaller
}

// Unmarshal implements redisstream.Unmarshaller.
func (u unmarshaller) Unmarshal(values map[string]any) (*wm.Message, error) {
	if _, ok := values[redisstream.UUIDHeaderKey]; ok {
		if m, err := u.DefaultMarshallerUnmarshaller.Unmarshal(values); err == nil {
			return m, nil
		}
	}
	m := wm.NewMessage("", nil)
	for name, value := range values {
		text, _ := value.(string) // Redis has nothing else
		switch name {
		case "payload":
			m.Payload = []byte(text)
		case redisstream.UUIDHeaderKey:
			m.UUID = text
		default:
			m.Metadata.Set(name, text)
		}
	}
	return m, nil
}
