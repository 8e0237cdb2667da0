package watermill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/queue"
)

// SubscriberConfig configures a Subscriber. Only Group has to be set.
type SubscriberConfig struct {
	// Group is the name of the durable subscription. Required.
	Group string
	// MaxInFlight bounds the messages of one Subscribe call that are handed out and not
	// settled. With 1 they keep their order; with more they are handed out in order, and
	// a refused one comes again while others are under way. The group as a whole has at
	// most 256, or what the first Subscribe call of the process for its topic asks for
	// when that is more. Default 1.
	MaxInFlight int
	// NackResendDelay is how long a refused message waits before it comes again. With
	// MaxInFlight 1 the Subscribe call waits with it, which keeps the order. Default
	// 100 ms; negative means no wait.
	NackResendDelay time.Duration
	// CloseTimeout is how long messages that are being handled may still be
	// acknowledged after Close or after the end of the subscription's context. Then they
	// go back to the group. Default 5 s; negative means no wait.
	CloseTimeout time.Duration
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger watermill.LoggerAdapter
}

const (
	defaultNackResendDelay = 100 * time.Millisecond
	defaultCloseTimeout    = 5 * time.Second
	// groupInFlight is the least that a group is opened with, because the first
	// Subscribe call decides for those that will compete with it.
	groupInFlight = 256
)

func (c SubscriberConfig) withDefaults() SubscriberConfig {
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 1
	}
	if c.NackResendDelay == 0 {
		c.NackResendDelay = defaultNackResendDelay
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = defaultCloseTimeout
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

// Subscriber implements Watermill's Subscriber and SubscribeInitializer. It is safe
// for concurrent use.
type Subscriber struct {
	engine queue.Engine
	config SubscriberConfig
	group  *run.Group // of all feeds and the messages they handed out

	mu     sync.Mutex
	closed bool
}

// NewSubscriber returns a Subscriber for one consumer group. It fails when the group
// has no name.
func NewSubscriber(e queue.Engine, c SubscriberConfig) (*Subscriber, error) {
	if c.Group == "" {
		return nil, errors.New("new subscriber: the consumer group has no name")
	}
	return &Subscriber{engine: e, config: c.withDefaults(), group: run.NewGroup(noContext())}, nil
}

// noContext stands for the context that Watermill's interfaces do not pass.
func noContext() context.Context {
	return context.Background() //nolint:forbidigo // NewSubscriber and SubscribeInitialize have no caller's context
}

// SubscribeInitialize creates the topic and the group, so that the group gets what is
// published from now on. Messages that the topic already holds come to it as well.
//
// Errors: [ErrClosed], and those of the engine.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	_, err := s.open(noContext(), topic)
	return err
}

// Subscribe returns the channel on which the group's messages of the topic come,
// creating topic and group when they are new. The next message comes after Ack or Nack
// of the one before, unless MaxInFlight says otherwise.
//
// The channel is closed when ctx ends, when the Subscriber or the engine is closed,
// and when the engine's storage fails. The context of a message is derived from ctx and
// ends with its Ack or Nack, and when the channel is closed.
//
// Errors: [ErrClosed], the error of ctx, and those of the engine.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *wm.Message, error) {
	sub, err := s.open(ctx, topic)
	if err != nil {
		return nil, err
	}
	f := newFeed(sub, s.group, s.config, topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe to topic %q: %w", topic, ErrClosed)
	}
	s.group.Go("subscription of topic "+topic, func(closing context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(closing, cancel)()
		f.run(ctx)
		return nil
	})
	return f.out, nil
}

// open returns the group's subscription. It is shared by all Subscribers of the group
// and therefore closed by none of them, only by the engine.
func (s *Subscriber) open(ctx context.Context, topic string) (queue.Subscription, error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("subscribe to topic %q: %w", topic, ErrClosed)
	}
	t, err := s.engine.Topic(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	sub, err := t.Subscribe(ctx, s.config.Group, queue.SubOptions{MaxInFlight: max(groupInFlight, s.config.MaxInFlight)})
	if err != nil {
		return nil, fmt.Errorf("subscribe %q to topic %q: %w", s.config.Group, topic, err)
	}
	return sub, nil
}

// Close closes all channels of this Subscriber and ends the contexts of the messages
// that it handed out. Those may still be acknowledged for CloseTimeout; Close waits for
// it, and what is left goes back to the group. It is idempotent, leaves the engine open
// and returns an error only when a goroutine has panicked.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.group.Stop()
	if err := s.group.Wait(); err != nil {
		return fmt.Errorf("close subscriber %q: %w", s.config.Group, err)
	}
	return nil
}
