package mqtt

import (
	"sync"
	"time"

	"github.com/linkspan/linkspan/message"
)

const (
	firstArena = 4 << 10
	keepArena  = 256 << 10
	keepHeader = 4096
)

// answer is what is owed for one PUBLISH.
type answer struct {
	id     uint16
	qos    byte
	reason byte
	// index is the message's place in the batch; -1: there is none, because it was
	// refused or is there already.
	index int
}

// bundle is a batch with the answers that are owed for it, and the memory behind it.
type bundle struct {
	batch   message.Batch
	answers []answer
	bytes   int
	// arena and headers hold what the messages point to. When one is used up a new one
	// is begun; the old one lives on through the messages.
	arena   []byte
	headers message.Headers
	out     []byte
}

func newBundles() *sync.Pool { return &sync.Pool{New: func() any { return &bundle{} }} }

// add copies a publication into the batch and returns its index.
func (b *bundle) add(p *publication, topic *topicInfo, source string, now time.Time) int {
	b.batch.Messages = append(b.batch.Messages, message.Message{
		Key: topic.key, Topic: topic.name, Time: now, Priority: message.NormalPriority, Source: source, Attempt: 1,
	})
	i := len(b.batch.Messages) - 1
	m := &b.batch.Messages[i]
	m.Payload = b.copy(p.payload)
	if want := len(p.props.user) + 2; p.retain || p.props.set != 0 {
		if cap(b.headers)-len(b.headers) < want {
			b.headers = make(message.Headers, 0, max(64, 2*cap(b.headers), want))
		}
		at := len(b.headers)
		m.Headers = b.headers[at : at : at+want]
		p.describe(m, now)
		b.headers = b.headers[:at+len(m.Headers)]
	}
	b.bytes += m.Size()
	return i
}

// answer encodes an answer and reports whether it closes the exchange.
func (b *bundle) answer(a answer, version byte) (closes bool) {
	switch a.qos {
	case 1:
		b.out = appendAck(b.out, version, kindPuback, a.id, a.reason)
		return true
	case 2:
		b.out = appendAck(b.out, version, kindPubrec, a.id, a.reason)
		return a.reason != reasonSuccess // else PUBREL closes it
	default:
		return false
	}
}

func (b *bundle) copy(p []byte) []byte {
	if cap(b.arena)-len(b.arena) < len(p) {
		b.arena = make([]byte, 0, max(firstArena, min(2*cap(b.arena), keepArena), len(p)))
	}
	at := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[at:len(b.arena):len(b.arena)]
}

func (b *bundle) reset() {
	clear(b.batch.Messages)
	clear(b.headers)
	b.batch.Messages, b.answers, b.bytes = b.batch.Messages[:0], b.answers[:0], 0
	b.arena, b.headers, b.out = b.arena[:0], b.headers[:0], b.out[:0]
	if cap(b.arena) > keepArena {
		b.arena = nil
	}
	if cap(b.headers) > keepHeader {
		b.headers = nil
	}
}

// receipts are the packet identifiers of a session that were received with QoS 2
// and not released. A retransmission of one of them is not handed on again.
type receipts struct {
	mu   sync.Mutex
	held map[uint16]bool
}

type receiptState uint8

const (
	receiptNew receiptState = iota
	receiptOpen
	receiptHeld
)

// begin notes an identifier that is about to be handed on.
func (r *receipts) begin(id uint16) receiptState {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch held, ok := r.held[id]; {
	case held:
		return receiptHeld
	case ok:
		return receiptOpen
	}
	if r.held == nil {
		r.held = map[uint16]bool{}
	}
	r.held[id] = false
	return receiptNew
}

// end notes what became of it.
func (r *receipts) end(id uint16, taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if taken {
		r.held[id] = true
	} else {
		delete(r.held, id)
	}
}

// release frees an identifier and reports whether it was held.
func (r *receipts) release(id uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.held[id]
	delete(r.held, id)
	return held
}

// abandon forgets what was under way when a connection ended without an outcome.
func (r *receipts) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, held := range r.held {
		if !held {
			delete(r.held, id)
		}
	}
}
