package mqtt

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// maxAliases is the topic alias maximum that is announced.
	maxAliases = 16
	// maxTopics bounds the topics that a connection remembers.
	maxTopics = 256
	// batchBytes bounds a batch that waits for the one before it, and tightBytes when
	// all connections of the source together hold more than heldBytes.
	batchBytes = 1 << 20
	tightBytes = 64 << 10
	heldBytes  = 256 << 20
)

// receiver turns the PUBLISH packets of one connection into batches, hands them on
// one at a time and in order, and answers each when its batch was taken over. While
// a batch is being handed on, the next one fills; when that is full, reading stops.
type receiver struct {
	link *link
	next message.Handler
	// start runs a function under the group that owns the connection.
	start func(name string, f func(ctx context.Context) error)
	// source and clientID name where messages come from.
	source, clientID string
	// allowed says whether a topic may be published to. Nil: all.
	allowed func(topic string) bool
	// refuse says how to answer a message that was not taken over, or that it cannot be
	// answered, which ends the connection.
	refuse func(err error, version byte) (reason byte, ok bool)
	// receipts are the QoS 2 identifiers of the session.
	receipts *receipts
	bundles  *sync.Pool
	// limit is the receive maximum.
	limit int
	// lenient receivers stop reading when the peer exceeds it, the others end the
	// connection. A broker gets no better by being left: Mosquitto 2.0.11 sends its
	// whole queue once something was acknowledged, and would send it again.
	lenient bool
	// held counts the bytes that all receivers of the source hold.
	held *atomic.Int64
	log  *slog.Logger

	// These belong to the reading goroutine.
	pub     publication
	now     time.Time
	topics  map[string]*topicInfo
	aliases map[uint16]*topicInfo

	mu   sync.Mutex
	room sync.Cond
	// filling is the batch that takes what arrives. Busy: one is being handed on.
	filling *bundle
	busy    bool
	// open counts what was published with QoS 1 or 2 and is not acknowledged.
	open int
	err  error
}

// topicInfo is what is known of a topic on this connection.
type topicInfo struct {
	name    string
	key     []byte
	allowed bool
}

func (r *receiver) init() *receiver {
	r.room.L = &r.mu
	return r
}

// publish takes one PUBLISH. It blocks while there is no room.
func (r *receiver) publish(p packet) error {
	if err := r.pub.decode(p, r.link.version); err != nil {
		return err
	}
	topic, err := r.topic()
	if err != nil {
		return err
	}
	a := answer{id: r.pub.id, qos: r.pub.qos, index: -1}
	switch {
	case !topic.allowed && (r.link.version < version5 || a.qos == 0):
		return &protocolError{reasonNotAuthorized, "publish to a topic that is not received here"}
	case !topic.allowed:
		a.reason = reasonNotAuthorized
		return r.add(a, nil)
	case a.qos == 2:
		switch r.receipts.begin(a.id) {
		case receiptHeld: // taken over before, its PUBREC was lost
			return r.add(a, nil)
		case receiptOpen: // under way on this connection
			return nil
		case receiptNew:
		}
	}
	return r.add(a, topic)
}

// topic returns the topic of the publication, resolving and learning an alias.
func (r *receiver) topic() (*topicInfo, error) {
	alias := r.pub.props.topicAlias
	hasAlias := r.pub.props.has(propTopicAlias)
	if hasAlias && (alias == 0 || alias > maxAliases) {
		return nil, &protocolError{reasonTopicAlias, "topic alias out of range"}
	}
	if len(r.pub.topic) == 0 {
		if t, ok := r.aliases[alias]; ok && hasAlias {
			return t, nil
		}
		return nil, violation("publish without topic")
	}
	t, ok := r.topics[string(r.pub.topic)]
	if !ok {
		name := string(r.pub.topic)
		if !validTopic(name) {
			return nil, &protocolError{reasonTopicName, "the topic has wildcards"}
		}
		t = &topicInfo{name: name, key: []byte(r.clientID + "\x00" + name), allowed: r.allowed == nil || r.allowed(name)}
		if r.topics == nil || len(r.topics) >= maxTopics {
			r.topics = map[string]*topicInfo{}
		}
		r.topics[name] = t
	}
	if hasAlias {
		if r.aliases == nil {
			r.aliases = map[uint16]*topicInfo{}
		}
		r.aliases[alias] = t
	}
	return t, nil
}

// add puts an answer, and the message when topic is not nil, into the batch that
// fills.
func (r *receiver) add(a answer, topic *topicInfo) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil && r.filling != nil && r.full(r.filling) {
		if r.busy {
			r.room.Wait()
			continue
		}
		r.dispatch()
	}
	if r.err != nil {
		return r.err
	}
	if a.qos > 0 {
		if r.open++; r.open > r.limit && r.link.version == version5 && !r.lenient {
			return &protocolError{reasonReceiveMaximum, "more unacknowledged messages than the receive maximum"}
		}
	}
	if r.filling == nil {
		r.filling = r.bundles.Get().(*bundle)
	}
	if r.now.IsZero() {
		r.now = time.Now()
	}
	if topic != nil {
		before := r.filling.bytes
		a.index = r.filling.add(&r.pub, topic, r.source, r.now)
		r.held.Add(int64(r.filling.bytes - before))
	}
	r.filling.answers = append(r.filling.answers, a)
	return nil
}

func (r *receiver) full(b *bundle) bool {
	limit := batchBytes
	if r.held.Load() > heldBytes {
		limit = tightBytes
	}
	return len(b.answers) >= r.limit || b.bytes > 0 && b.bytes+len(r.pub.payload) > limit
}

// flush hands on what has gathered, unless a batch is under way; then that one's
// goroutine goes on with it.
func (r *receiver) flush() {
	r.now = time.Time{}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy && r.filling != nil && r.err == nil {
		r.dispatch()
	}
}

// dispatch starts a goroutine that works until nothing is left, so that an idle
// connection has none. The caller holds the lock.
func (r *receiver) dispatch() {
	r.busy = true
	r.start("mqtt hand-over", func(ctx context.Context) error {
		for r.step(ctx) {
		}
		return nil
	})
}

// step hands on one batch and reports whether to go on.
func (r *receiver) step(ctx context.Context) bool {
	r.mu.Lock()
	b := r.filling
	r.filling = nil
	if b == nil || r.err != nil {
		r.busy = false
		r.room.Broadcast()
		r.mu.Unlock()
		return false
	}
	r.room.Broadcast()
	r.mu.Unlock()
	err := r.settle(ctx, b)
	r.held.Add(-int64(b.bytes))
	b.reset()
	r.bundles.Put(b)
	if err != nil {
		r.fail(err)
	}
	return true
}

// fail ends the connection: reads return, and nothing more is handed on.
func (r *receiver) fail(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.room.Broadcast()
	r.mu.Unlock()
	r.link.stop()
}

// failure returns why the hand-over ended, if it did.
func (r *receiver) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// drain hands on what has gathered and waits until nothing is under way.
func (r *receiver) drain() {
	r.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.busy {
		r.room.Wait()
	}
}

// settle hands a batch on and answers its messages, in the order of their arrival.
func (r *receiver) settle(ctx context.Context, b *bundle) error {
	var failed failedMessages
	if b.batch.Len() > 0 {
		err := r.handOn(ctx, &b.batch)
		failed = failures(err, b.batch.Len())
	}
	b.out = b.out[:0]
	closed, end := r.answer(ctx, b, failed)
	r.mu.Lock()
	r.open = max(0, r.open-closed)
	r.mu.Unlock()
	if len(b.out) > 0 {
		if err := r.link.send(b.out); err != nil && end == nil {
			end = err
		}
	}
	return end
}

// answer encodes what is owed for a batch, and returns how many exchanges that
// closes. End is the reason why a message cannot be answered, if there is one:
// nothing is answered after it, because the order of answers is the order of the
// messages.
func (r *receiver) answer(ctx context.Context, b *bundle, failed failedMessages) (closed int, end error) {
	gone := 0
	for _, a := range b.answers {
		reason := failed.of(a.index)
		if reason != nil {
			var ok bool
			if a.reason, ok = r.refuse(reason, r.link.version); !ok {
				end = reason
			}
			if ok || a.qos == 0 {
				gone++
			}
		}
		if a.qos == 2 && a.index >= 0 {
			r.receipts.end(a.id, reason == nil)
		}
		if end == nil && b.answer(a, r.link.version) {
			closed++
		}
	}
	if gone > 0 {
		r.log.LogAttrs(ctx, slog.LevelWarn, "messages were refused, or lost with QoS 0", slog.Int("messages", gone))
	}
	return closed, end
}

// handOn turns a panic of the pipeline into an error, so that it ends this
// connection and no other.
func (r *receiver) handOn(ctx context.Context, b *message.Batch) (err error) {
	defer func() {
		if recover() != nil {
			err = &run.PanicError{Name: "mqtt hand-over", Stack: debug.Stack()}
		}
	}()
	return r.next.Handle(ctx, b)
}

// pubrel answers PUBREL: the identifier is free again.
func (r *receiver) pubrel(p packet) error {
	id, _, err := decodeAck(p, r.link.version)
	if err != nil {
		return err
	}
	reason := byte(reasonUnknownID)
	if r.receipts.release(id) {
		reason = reasonSuccess
		r.mu.Lock()
		r.open = max(0, r.open-1)
		r.mu.Unlock()
	}
	return r.link.send(appendAck(nil, r.link.version, kindPubcomp, id, reason))
}

// failedMessages are the reasons by index; nil: all messages were taken.
type failedMessages []error

// of returns why the message at index was not taken, or nil.
func (f failedMessages) of(index int) error {
	if f == nil || index < 0 {
		return nil
	}
	return f[index]
}

// failures spreads the error of a hand-over over the messages. Nil: all were taken.
func failures(err error, n int) failedMessages {
	if err == nil {
		return nil
	}
	failed := make(failedMessages, n)
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, f := range partial.Failed {
			failed[f.Index] = f.Err
		}
		return failed
	}
	for i := range failed {
		failed[i] = err
	}
	return failed
}
