package queue

import (
	"time"
)

// Start is a place in a topic. The zero value is the earliest message.
type Start struct {
	// Offset is the first message meant.
	Offset uint64
	// Time, when it is not zero, means the first message that the engine took at or
	// after it; Offset is ignored.
	Time time.Time
	// Latest means the end: only what is published from now on.
	Latest bool
}

// At is the place of an offset.
func At(offset uint64) Start { return Start{Offset: offset} }

// Since is the place of the first message that the engine took at or after t.
func Since(t time.Time) Start { return Start{Time: t} }

// Latest is the end of the topic.
func Latest() Start { return Start{Latest: true} }

// TopicOptions configure a topic. They are stored with it.
type TopicOptions struct {
	// Dedup is how long the topic remembers the IDs of its messages: a message whose ID
	// it knows is taken as published and not stored again. 0 turns it off.
	Dedup time.Duration `json:"dedup,omitempty"`
	// Keep is how long settled messages stay, for Seek and Browse. Default 0: until
	// every subscription has settled them.
	Keep time.Duration `json:"keep,omitempty"`
	// KeepBytes bounds what Keep keeps; 0 is no bound. Without Keep it keeps messages
	// of any age.
	KeepBytes uint64 `json:"keep_bytes,omitempty"`
	// OnDamage says what happens when messages were lost to damage of the storage.
	OnDamage DamagePolicy `json:"on_damage,omitempty"`
}

// DamagePolicy says what a topic does that lost messages to damage.
type DamagePolicy string

// The policies.
const (
	// ServeRest reports the loss and goes on with the other messages. The default.
	ServeRest DamagePolicy = ""
	// Hold reports the loss and refuses to publish and to deliver with ErrHeld until an
	// operator lets the topic go on.
	Hold DamagePolicy = "hold"
)

// Order is the order in which a subscription hands out what waits.
type Order int

// The orders.
const (
	// ByOffset hands out in the order of publishing.
	ByOffset Order = iota
	// ByPriority hands out the highest priority first, each in the order of publishing.
	ByPriority
	// ByKey hands out in the order of publishing, and no message of a key before those
	// of its key that were handed out earlier are settled. Messages without a key, and
	// those that wait for their NotBefore, hold up nobody.
	ByKey
)

// Backoff as the delay of a Nack means the subscription's own.
const Backoff time.Duration = -1

// SubOptions configure a subscription for this opening of it.
type SubOptions struct {
	// MaxInFlight bounds the messages that are received and not settled. Default 256.
	MaxInFlight int
	// Order is the order of delivery. Default ByOffset.
	Order Order
	// AckTimeout is when a message that is neither settled nor extended counts as
	// failed, as if by Nack. Default 0: never.
	AckTimeout time.Duration
	// MinBackoff is the wait after the first failed attempt; it doubles with each one up
	// to MaxBackoff. Default 0: failed messages come again at once.
	MinBackoff, MaxBackoff time.Duration
	// MaxAttempts is after how many failed attempts a message goes to DeadLetter, which
	// must be set then. Default 0: no bound.
	MaxAttempts int
	// DeadLetter takes what MaxAttempts gives up, and what expired. The move is atomic.
	DeadLetter Topic
	// DeliverExpired hands out expired messages like others. Default: they go to
	// DeadLetter, or are dropped when there is none, and are counted.
	DeliverExpired bool
}

// Headers that a dead letter gets from the engine.
const (
	// HeaderReason is "expired" or "max attempts".
	HeaderReason = "linkspan-reason"
	// HeaderTopic is the topic that the message came from.
	HeaderTopic = "linkspan-topic"
	// HeaderAttempts is how many attempts had failed.
	HeaderAttempts = "linkspan-attempts"
)

// Caps says what an engine can really do, so that a pipeline that needs more is
// refused before it starts.
type Caps struct {
	// Name is the engine's name in YAML.
	Name string
	// Durable: Publish returns after the messages are on stable storage.
	Durable bool
	// Atomic: Engine.Atomic holds across a crash.
	Atomic bool
	// Delay: NotBefore and the delay of Nack and Release are heeded.
	Delay bool
	// Priority and KeyOrder: the orders ByPriority and ByKey.
	Priority, KeyOrder bool
	// Expiry: expired messages are not handed out.
	Expiry bool
	// Dedup: TopicOptions.Dedup.
	Dedup bool
	// Seek: by offset and time, as far back as TopicOptions.Keep says.
	Seek bool
}

// TopicStats describes a topic.
type TopicStats struct {
	Name string `json:"topic"`
	// First is the lowest offset held, Next the one that the next message gets.
	First uint64 `json:"first"`
	Next  uint64 `json:"next"`
	// Messages and Bytes count what is held for at least one subscription.
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	// Duplicates counts what the deduplication window held back, since the engine was
	// opened.
	Duplicates uint64 `json:"duplicates,omitempty"`
	// Held: see ErrHeld.
	Held          bool         `json:"held,omitempty"`
	Options       TopicOptions `json:"options,omitzero"`
	Subscriptions []SubStats   `json:"subscriptions,omitempty"`
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
	// Delayed counts those that are known to wait for their time, Waiting those that wait
	// for an earlier message of their key.
	Delayed int `json:"delayed,omitempty"`
	Waiting int `json:"waiting,omitempty"`
	// Expired and DeadLettered count what was never handed out because its time was over,
	// and what was given up after MaxAttempts, since the engine was opened.
	Expired      uint64 `json:"expired,omitempty"`
	DeadLettered uint64 `json:"dead_lettered,omitempty"`
}
