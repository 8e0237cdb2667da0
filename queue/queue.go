// Package queue keeps messages until every subscription has settled them.
//
// Publish returns when the messages are on stable storage, and never before:
// what was promised survives the loss of the process and of power. A storage error
// is final (ErrStorageFailed): nothing is acknowledged after a failed fsync, and
// the answer to it is a restart, which trusts the disk alone. A full disk is not an
// error of storage: Publish is refused with message.ErrDiskFull while receiving and
// acknowledging go on.
//
// Topics are logs with independent durable subscriptions; receivers of one
// subscription compete. Delivery is at least once: what was received and not
// acknowledged comes again after a release, a restart or a crash.
//
// The package holds the contract. The journal engine (queue/journal) is the
// default, the memory engine (queue/memory) is for tests and dry runs, and both
// pass queue/queuetest.
package queue

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/linkspan/linkspan/message"
)

// Errors that a caller decides on. message.ErrDiskFull, message.ErrFull and
// message.ErrTooLarge belong to the contract too.
var (
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("the queue is closed")
	// ErrStorageFailed is returned by every call after storage has failed.
	ErrStorageFailed = errors.New("the queue's storage has failed; restart to recover from disk")
	// ErrLocked means that another process holds the data directory.
	ErrLocked = errors.New("the data directory is locked by another process")
	// ErrUnknownTopic means that the topic does not exist.
	ErrUnknownTopic = errors.New("no such topic")
	// ErrUnsupported means that this engine cannot do it; see [Caps].
	ErrUnsupported = errors.New("not supported by this queue engine")
)

// Engine stores topics. It is safe for concurrent use.
type Engine interface {
	// Topic opens the topic of this name and creates it when it is new.
	Topic(ctx context.Context, name string) (Topic, error)
	// Topics lists the topics by name.
	Topics() []string
	// Atomic applies publishes and acknowledgements as one unit: after a crash all
	// of them hold or none. It returns when the unit is stable.
	Atomic(ctx context.Context, tx Tx) error
	// Health returns nil, or the error that stopped the engine.
	Health() error
	// Caps says what the engine can do.
	Caps() Caps
	// Close waits for what is under way, makes acknowledgements stable and frees the
	// storage. It is idempotent.
	Close(ctx context.Context) error
}

// Topic is a log of messages. It is safe for concurrent use.
type Topic interface {
	// Name returns the topic's name.
	Name() string
	// Publish appends the messages as one unit and returns the offset of the first;
	// the others follow without gaps. It copies what it keeps. It blocks while the
	// engine is busy and returns early when ctx ends, in which case the messages may
	// or may not become visible.
	Publish(ctx context.Context, msgs []message.Message) (first uint64, err error)
	// Subscribe opens the durable subscription of this name, creating it at the
	// earliest message that the topic holds. One subscription object per name.
	Subscribe(ctx context.Context, name string, o SubOptions) (Subscription, error)
	// Browse yields the messages that the topic holds, from an offset on, without
	// changing any state. The record is valid until the next iteration step.
	Browse(ctx context.Context, from uint64) iter.Seq2[Record, error]
	// Stats describes the topic now.
	Stats() TopicStats
}

// SubOptions configure a subscription for this opening of it.
type SubOptions struct {
	// MaxInFlight bounds the messages that are received and not settled. Default 256.
	MaxInFlight int
}

// Subscription hands out messages in order of their offsets. Receivers compete. It
// is safe for concurrent use.
type Subscription interface {
	// Receive blocks until there is at least one message and returns up to limit.
	// The records are owned by the caller until they are settled.
	Receive(ctx context.Context, limit int) ([]Record, error)
	// Ack settles messages. It returns at once; the acknowledgement is stable with
	// the next commit of the engine. A crash before that is a redelivery.
	Ack(offsets ...uint64) error
	// Release gives messages back, to be received again after delay. It does not
	// count as an attempt of the message.
	Release(delay time.Duration, offsets ...uint64) error
	// Stats describes the subscription now.
	Stats() SubStats
	// Close releases what is in flight. The durable state stays.
	Close() error
}

// Record is a message with its place in the topic.
type Record struct {
	Offset uint64
	// Appended is when the engine took the message.
	Appended time.Time
	// Delivery counts how often this opening of the subscription handed it out, from 1.
	Delivery int
	Message  message.Message
}

// Tx is a set of changes for Engine.Atomic.
type Tx struct {
	Publish []TxPublish
	Ack     []TxAck
}

// TxPublish appends messages to a topic.
type TxPublish struct {
	Topic    Topic
	Messages []message.Message
}

// TxAck settles messages of a subscription.
type TxAck struct {
	Subscription Subscription
	Offsets      []uint64
}

// Caps says what an engine can really do, so that a pipeline that needs more is
// refused before it starts.
type Caps struct {
	// Name is the engine's name in YAML.
	Name string
	// Durable: Publish returns after the messages are on stable storage.
	Durable bool
	// Atomic: Engine.Atomic holds across a crash.
	Atomic bool
}

// TopicStats describes a topic.
type TopicStats struct {
	Name string `json:"topic"`
	// First is the lowest offset held, Next the one that the next message gets.
	First uint64 `json:"first"`
	Next  uint64 `json:"next"`
	// Messages and Bytes count what is held for at least one subscription.
	Messages      uint64     `json:"messages"`
	Bytes         uint64     `json:"bytes"`
	Subscriptions []SubStats `json:"subscriptions,omitempty"`
}

// SubStats describes a subscription.
type SubStats struct {
	Name string `json:"subscription"`
	// Floor: every offset below it is settled.
	Floor uint64 `json:"floor"`
	// Backlog counts the messages that are not settled, InFlight those of them that
	// are handed out.
	Backlog  uint64 `json:"backlog"`
	InFlight int    `json:"in_flight"`
}
