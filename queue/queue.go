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
// A message may say when it is delivered first (NotBefore), when it loses its worth
// (Expires), how urgent it is (Priority), which others it must not overtake (Key) and
// what it is known by (ID); subscriptions and topics decide by their options which of
// these they heed.
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
	// ErrUnknownSubscription means that the topic has no such subscription.
	ErrUnknownSubscription = errors.New("no such subscription")
	// ErrHeld means that the topic lost messages to damage and waits for an operator;
	// see [TopicOptions].OnDamage.
	ErrHeld = errors.New("the topic lost messages and is held; look with `linkspan queue verify`, then let it go on with `linkspan queue resume`")
	// ErrUnsupported means that this engine cannot do it; see [Caps].
	ErrUnsupported = errors.New("not supported by this queue engine")
)

// Engine stores topics. It is safe for concurrent use.
type Engine interface {
	// Topic opens the topic of this name and creates it when it is new.
	Topic(ctx context.Context, name string) (Topic, error)
	// Topics lists the topics by name.
	Topics() []string
	// Delete deletes a topic with its messages and subscriptions for good. It returns
	// when that is stable, with ErrUnknownTopic when there is no such topic.
	Delete(ctx context.Context, name string) error
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
	// Configure changes the options of the topic, durably.
	Configure(ctx context.Context, o TopicOptions) error
	// Publish appends the messages as one unit and returns the offset of the first;
	// the others follow without gaps, and without those that the deduplication window
	// knows (see [TopicOptions].Dedup). It copies what it keeps. It blocks while the
	// engine is busy and returns early when ctx ends, in which case the messages may
	// or may not become visible.
	Publish(ctx context.Context, msgs []message.Message) (first uint64, err error)
	// Subscribe opens the durable subscription of this name, creating it at the
	// earliest message that the topic holds. One subscription object per name.
	Subscribe(ctx context.Context, name string, o SubOptions) (Subscription, error)
	// Unsubscribe deletes a subscription, with ErrUnknownSubscription when there is none.
	Unsubscribe(ctx context.Context, name string) error
	// Browse yields the messages that the topic holds, from a place on, without
	// changing any state. The record is valid until the next iteration step.
	Browse(ctx context.Context, from Start) iter.Seq2[Record, error]
	// Purge settles all messages before a place for every subscription, for good.
	Purge(ctx context.Context, before Start) error
	// Stats describes the topic now.
	Stats() TopicStats
}

// Subscription hands out messages in order of their offsets, or of their priority.
// Receivers compete. It is safe for concurrent use.
type Subscription interface {
	// Receive blocks until there is at least one message and returns up to limit.
	// The records are owned by the caller until they are settled.
	Receive(ctx context.Context, limit int) ([]Record, error)
	// Ack settles messages. It returns at once; the acknowledgement is stable with
	// the next commit of the engine. A crash before that is a redelivery.
	Ack(offsets ...uint64) error
	// Nack gives back messages whose processing failed: it counts an attempt, durably,
	// and they come again after delay, or after the subscription's backoff when delay
	// is [Backoff].
	Nack(delay time.Duration, offsets ...uint64) error
	// Release gives messages back, to be received again after delay. It does not
	// count as an attempt of the message.
	Release(delay time.Duration, offsets ...uint64) error
	// Extend moves the acknowledgement time-out of messages in flight to by from now.
	// Without [SubOptions].AckTimeout it does nothing.
	Extend(by time.Duration, offsets ...uint64) error
	// Seek makes the subscription go on at a place: what is before it is settled, what
	// is behind it comes again as far as the topic still holds it. What is in flight
	// may come twice.
	Seek(ctx context.Context, to Start) error
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
	// Attempt is one more than the attempts that ended in a Nack or a time-out, of
	// which the engine keeps count across restarts.
	Attempt int
	Message message.Message
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
	// Repeat stores the messages even if the deduplication window knows their IDs: they
	// are tried again on purpose.
	Repeat bool
}

// TxAck settles messages of a subscription.
type TxAck struct {
	Subscription Subscription
	Offsets      []uint64
}
