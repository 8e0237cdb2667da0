package stomp

import (
	"sync"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/message"
)

const (
	firstArena = 4 << 10
	keepArena  = 256 << 10
	keepHeader = 4096
)

// answer is what is owed for one frame: the acknowledgement of a broker's message, or
// the receipt of a client's frame.
type answer struct {
	// id is the receipt, or what ACK names the message by. Empty: nothing is owed.
	id string
	// subscription is the index of a broker's subscription.
	subscription int
	// from and to bound the messages of the batch that it stands for.
	from, to int
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

// add copies a frame's body into the batch, with its properties. It reports whether
// all of them could be read.
func (b *bundle) add(f *frame.Frame, d *destination, source string, now time.Time) (ok bool) {
	b.batch.Messages = append(b.batch.Messages, message.Message{
		Key: d.key, Topic: d.name, Time: now, Priority: message.NormalPriority, Source: source, Attempt: 1,
	})
	m := &b.batch.Messages[len(b.batch.Messages)-1]
	m.Payload = b.copy(f.Body)
	want := f.Header.Len() + 1
	if cap(b.headers)-len(b.headers) < want {
		b.headers = make(message.Headers, 0, max(64, 2*cap(b.headers), want))
	}
	at := len(b.headers)
	m.Headers = b.headers[at : at : at+want]
	ok = describe(m, f, now)
	b.headers = b.headers[:at+len(m.Headers)]
	b.bytes += m.Size()
	return ok
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
	clear(b.answers)
	b.batch.Messages, b.answers, b.bytes = b.batch.Messages[:0], b.answers[:0], 0
	b.arena, b.headers, b.out = b.arena[:0], b.headers[:0], b.out[:0]
	if cap(b.arena) > keepArena {
		b.arena = nil
	}
	if cap(b.headers) > keepHeader {
		b.headers = nil
	}
}

// destination is what is known of one on a connection.
type destination struct {
	name string
	key  []byte
	// refused: it is not received here.
	refused bool
}

// maxDestinations bounds the destinations that a connection remembers.
const maxDestinations = 256

// destinations are those of a connection.
type destinations struct {
	// prefix is put before the name to make a key.
	prefix string
	// allowed says whether a destination is received. Nil: all are.
	allowed func(name string) bool
	known   map[string]*destination
}

func (d *destinations) get(name string) *destination {
	if got, ok := d.known[name]; ok {
		return got
	}
	clean := valid(name)
	got := &destination{name: clean, key: []byte(d.prefix + clean), refused: d.allowed != nil && !d.allowed(name)}
	if d.known == nil || len(d.known) >= maxDestinations {
		d.known = map[string]*destination{}
	}
	d.known[string([]byte(name))] = got // a copy: name is a part of its whole frame
	return got
}
