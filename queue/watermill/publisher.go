package watermill

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// ErrClosed is returned by every call after Close.
var ErrClosed = errors.New("the publisher or subscriber is closed")

// PublisherConfig configures a Publisher. The zero value is a good choice.
type PublisherConfig struct {
	// Key returns the ordering key of a message for pipelines that read the topic; nil
	// means unordered. It has no effect on Subscribers. Default: no key.
	Key func(topic string, m *wm.Message) []byte
}

// Publisher implements Watermill's Publisher. It is safe for concurrent use.
type Publisher struct {
	engine queue.Engine
	config PublisherConfig

	// closing is held by publishes as readers, so that Close waits for them.
	closing sync.RWMutex
	closed  bool
}

// NewPublisher returns a Publisher that appends to the topics of the engine.
func NewPublisher(e queue.Engine, c PublisherConfig) *Publisher {
	return &Publisher{engine: e, config: c}
}

// Publish appends the messages to the topic as one unit, creating the topic when it is
// new, and returns when they are on stable storage. The context of the first message
// bounds the wait; when it ends first, the messages may or may not have been stored.
//
// Errors: [ErrClosed], and those of the engine: message.ErrDiskFull, message.ErrFull
// and message.ErrTooLarge mean that nothing was stored and the engine goes on,
// queue.ErrStorageFailed and queue.ErrClosed that it is over.
func (p *Publisher) Publish(topic string, messages ...*wm.Message) error {
	if len(messages) == 0 {
		return nil
	}
	p.closing.RLock()
	defer p.closing.RUnlock()
	if p.closed {
		return fmt.Errorf("publish to topic %q: %w", topic, ErrClosed)
	}
	ctx := messages[0].Context()
	t, err := p.engine.Topic(ctx, topic)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	msgs := make([]message.Message, len(messages))
	now := time.Now()
	for i, m := range messages {
		msgs[i] = p.encode(topic, m, now)
	}
	if _, err := t.Publish(ctx, msgs); err != nil {
		return fmt.Errorf("publish %d messages to topic %q: %w", len(msgs), topic, err)
	}
	return nil
}

// encode returns m for the engine, which copies what it keeps.
func (p *Publisher) encode(topic string, m *wm.Message, now time.Time) message.Message {
	out := message.Message{ID: m.UUID, Topic: topic, Time: now, Priority: 4, Attempt: 1, Payload: m.Payload}
	if p.config.Key != nil {
		out.Key = p.config.Key(topic, m)
	}
	if len(m.Metadata) > 0 {
		out.Headers = make(message.Headers, 0, len(m.Metadata))
		for _, name := range slices.Sorted(maps.Keys(m.Metadata)) {
			out.Headers.Add(name, message.String(m.Metadata[name]))
		}
	}
	return out
}

// Close waits for the publishes under way. It is idempotent, leaves the engine open
// and returns nil.
func (p *Publisher) Close() error {
	p.closing.Lock()
	defer p.closing.Unlock()
	p.closed = true
	return nil
}

// decode returns the stored message as one of Watermill, which shares no memory with
// it.
func decode(m *message.Message) *wm.Message {
	out := wm.NewMessage(m.ID, slices.Clone(m.Payload))
	for i := range slices.Backward(m.Headers) { // the first of a name is written last
		out.Metadata.Set(m.Headers[i].Name, m.Headers[i].Value.Text())
	}
	return out
}
