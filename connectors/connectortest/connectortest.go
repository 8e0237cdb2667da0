// Package connectortest is the suite that every connector passes, against its
// in-process peer: what its contract promises, tested the same way for all.
//
// A source acknowledges a message only after it was handed on; one that was not
// taken over comes again, or its sender is told; order, payloads and headers are kept;
// a slow pipeline slows the sender down; Run returns when its context ends, and hands
// on nothing afterwards. A sink has delivered what it returned nil for, refuses what
// its protocol cannot carry, waits for a peer that is away and ends with its context.
package connectortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// patience is how long the suite waits for something that must happen.
const patience = 10 * time.Second

// Harness is a connector with its peer. An end that it does not have is nil.
type Harness struct {
	Source *Source
	Sink   *Sink
}

// Source is the receiving end.
type Source struct {
	// New returns a source that receives from the peer. Each one that is made goes on
	// where the one before stopped, if the protocol can.
	New func(t *testing.T) connectors.Source
	// Ready blocks until the source, which runs, can receive. Nil: it can at once.
	Ready func(t *testing.T)
	// Send makes the peer send a message to the source. It returns nil when the sender
	// was told that the message was taken, or is not told at all.
	Send func(ctx context.Context, m message.Message) error
	// Intruder makes a source or a sender with wrong credentials and returns why it was
	// refused. Nil: the protocol has no credentials.
	Intruder func(t *testing.T) error
}

// Sink is the sending end.
type Sink struct {
	// New returns a sink that sends to the peer.
	New func(t *testing.T) connectors.Sink
	// Received returns what the peer has, at least n messages of it.
	Received func(t *testing.T, n int) []message.Message
	// Away returns a sink whose peer does not answer. Nil: it always does.
	Away func(t *testing.T) connectors.Sink
}

// Features are what a protocol can do.
type Features struct {
	// Acknowledges: the sender waits for the acknowledgement of the source.
	Acknowledges bool
	// Redelivers: a message that was not taken over comes again, from the peer.
	Redelivers bool
	// Ends: the input ends by itself, with connectors.ErrEnd.
	Ends bool
	// Headers: user headers are carried.
	Headers bool
	// LowerCase: header names are not case-sensitive.
	LowerCase bool
	// Single: a header name occurs once in a message.
	Single bool
	// LineBreaks: a header value may have line breaks. Otherwise the sink refuses it.
	LineBreaks bool
	// NUL: a header value may have NUL. Otherwise the sink refuses it.
	NUL bool
	// Lines: a payload is a line of text, not any bytes, and an empty one is nothing.
	Lines bool
	// LargePayload is a size, in bytes, that is carried. Default: 512 KiB.
	LargePayload int
	// Swaps: the peer is known to send neighbours in the wrong order, so that the order in
	// which a source hands on says nothing.
	Swaps bool
	// Unordered: messages of different keys may pass one another.
	Unordered bool
}

// Run runs the suite.
func Run(t *testing.T, h Harness, f Features) {
	t.Helper()
	if f.LargePayload == 0 {
		f.LargePayload = 512 << 10
	}
	if h.Source != nil {
		t.Run("source", func(t *testing.T) { runSource(t, h.Source, f) })
	}
	if h.Sink != nil {
		t.Run("sink", func(t *testing.T) { runSink(t, h.Sink, f) })
	}
}

// payloads are those that a protocol must carry as they are.
func payloads(f Features) [][]byte {
	large := make([]byte, f.LargePayload)
	for i := range large {
		large[i] = byte('a' + i%26)
	}
	out := [][]byte{[]byte(`{"a":1.10}`), []byte("é ✓"), large}
	if !f.Lines {
		out = append(out, nil, []byte{0, 0xff, 0xfe, '\r', '\n', 0x80}, []byte("two\nlines"))
	}
	return out
}

// pipeline is the handler under the suite's control.
type pipeline struct {
	mu    sync.Mutex
	taken []message.Message
	calls int
	// decide is asked for every batch, with the number of calls before.
	decide  func(ctx context.Context, calls int) error
	changed chan struct{}
}

func newPipeline(decide func(ctx context.Context, calls int) error) *pipeline {
	return &pipeline{decide: decide, changed: make(chan struct{}, 1)}
}

// Handle implements message.Handler.
func (p *pipeline) Handle(ctx context.Context, b *message.Batch) error {
	p.mu.Lock()
	calls := p.calls
	p.calls++
	p.mu.Unlock()
	if p.decide != nil {
		if err := p.decide(ctx, calls); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range b.Messages {
		p.taken = append(p.taken, b.Messages[i].Clone())
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return nil
}

func (p *pipeline) all() []message.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]message.Message(nil), p.taken...)
}

func (p *pipeline) has(payload string) bool {
	for _, m := range p.all() {
		if string(m.Payload) == payload {
			return true
		}
	}
	return false
}

// wait returns when done says so.
func (p *pipeline) wait(t *testing.T, what string, done func([]message.Message) bool) []message.Message {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		if got := p.all(); done(got) {
			return got
		}
		select {
		case <-p.changed:
		case <-limit.C:
			t.Fatalf("%s: %d messages arrived", what, len(p.all()))
		}
	}
}

// only returns the messages that numbered made with prefix. Others may be there: what
// an earlier source could not acknowledge comes again.
func only(got []message.Message, prefix string) (out []message.Message) {
	for _, m := range got {
		if bytes.HasPrefix(m.Payload, []byte(`"`+prefix+`-`)) {
			out = append(out, m)
		}
	}
	return out
}

// first leaves out messages that came before.
func first(got []message.Message) (out []message.Message) {
	seen := map[string]bool{}
	for _, m := range got {
		if !seen[string(m.Payload)] {
			seen[string(m.Payload)] = true
			out = append(out, m)
		}
	}
	return out
}

func atLeast(n int) func([]message.Message) bool {
	return func(got []message.Message) bool { return len(got) >= n }
}

// numbered returns messages with one key and payloads that tell their place.
func numbered(prefix string, n int) []message.Message {
	out := make([]message.Message, n)
	for i := range out {
		out[i] = message.Message{Key: []byte("k"), Payload: fmt.Appendf(nil, `"%s-%d"`, prefix, i)}
	}
	return out
}

var errNotNow = errors.New("not now")
