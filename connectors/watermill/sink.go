package watermill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/message"
)

// Codes of dead letters.
const (
	codeRefused = "LS4393"
	codeTopic   = "LS4394"
)

type sink struct {
	out     Out
	open    func(context.Context) (wm.Publisher, error)
	refuses func(error) bool
	write   func(*message.Message, *wm.Message) error

	mu sync.Mutex
	// Guarded by mu.
	pub    wm.Publisher
	closed bool

	calls sync.WaitGroup
	// late counts the calls that nobody waits for any more.
	late atomic.Int64
}

// Open implements connectors.Sink.
func (s *sink) Open(ctx context.Context) error {
	_, err := s.publisher(ctx)
	return err
}

// Close implements connectors.Sink. It waits for the calls under way, as ctx allows.
func (s *sink) Close(ctx context.Context) error {
	s.mu.Lock()
	pub := s.pub
	s.pub, s.closed = nil, true
	s.mu.Unlock()
	if pub == nil {
		return nil
	}
	_ = within(ctx, stopGrace, "wait for calls under way", func() error { s.calls.Wait(); return nil })
	if err := within(ctx, stopGrace, "close the publisher", pub.Close); err != nil {
		return fmt.Errorf("close the publisher: %w", err)
	}
	return nil
}

func (s *sink) publisher(ctx context.Context) (wm.Publisher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.pub != nil:
		return s.pub, nil
	case s.closed:
		return nil, errors.New("the output is closed")
	}
	pub, err := s.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the Pub/Sub: %w", err)
	}
	s.pub = pub
	return pub, nil
}

// Handle implements message.Handler.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	pub, err := s.publisher(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	if s.late.Load() > 0 {
		// Another call now could overtake it.
		return message.Unavailable(errors.New("LS4392: an earlier call of the publisher has not returned yet"))
	}
	h := &handling{sink: s, pub: pub, batch: b, messages: make([]*wm.Message, b.Len()), failed: make([]error, b.Len())}
	h.convert(ctx)
	for from := 0; from < b.Len(); {
		to := from + 1
		for to < b.Len() && h.topic(to) == h.topic(from) {
			to++
		}
		h.publish(ctx, from, to)
		from = to
	}
	return h.result()
}

// handling is one call of Handle.
type handling struct {
	sink     *sink
	pub      wm.Publisher
	batch    *message.Batch
	messages []*wm.Message
	failed   []error
	behind   map[string]bool
	away     error
}

func (h *handling) topic(i int) string { return h.sink.out.Topic.Value(h.batch.Messages[i].Options) }

// convert makes what is published, and refuses what cannot be.
func (h *handling) convert(ctx context.Context) {
	slab := newSlab(h.batch)
	for i := range h.batch.Messages {
		m := &h.batch.Messages[i]
		h.messages[i] = slab.add(ctx, m)
		if topic := h.topic(i); topic == "" || strings.ContainsFunc(topic, unicode.IsControl) {
			h.failed[i] = &message.Reason{Code: codeTopic, Text: "the computed topic is empty or has control characters", Permanent: true}
			continue
		}
		if h.sink.write == nil {
			continue
		}
		if err := h.sink.write(m, h.messages[i]); err != nil {
			h.failed[i] = &message.Reason{Code: codeRefused, Text: err.Error(), Permanent: true}
		}
	}
}

// skip reports whether a message is not published: it was refused, or is behind one of
// its key that was not taken.
func (h *handling) skip(i int) bool {
	key := h.batch.Messages[i].Key
	switch {
	case h.failed[i] != nil:
		h.fail(i, h.failed[i])
		return true
	case key != nil && h.behind[string(key)]:
		h.failed[i] = message.ErrBehind
		return true
	default:
		return false
	}
}

// fail notes that a message was not sent. Those of its key behind it are not sent either.
func (h *handling) fail(i int, err error) {
	h.failed[i] = err
	if key := h.batch.Messages[i].Key; key != nil {
		if h.behind == nil {
			h.behind = map[string]bool{}
		}
		h.behind[string(key)] = true
	}
}

// publish sends the messages from one index to another, which have one topic: all at once,
// or one by one where that is asked for, or where the Pub/Sub refuses one of several
// messages and does not say which.
func (h *handling) publish(ctx context.Context, from, to int) {
	indexes := make([]int, 0, to-from)
	messages := h.messages[from:from:to]
	for i := from; i < to; i++ {
		if !h.skip(i) {
			indexes, messages = append(indexes, i), append(messages, h.messages[i])
		}
	}
	if len(messages) == 0 {
		return
	}
	topic := h.topic(from)
	if len(messages) > 1 && !h.sink.out.OneByOne {
		err := h.call(ctx, topic, messages)
		if err == nil {
			return
		}
		if !h.sink.refused(err) {
			for _, i := range indexes {
				h.fail(i, h.lost(topic, err))
			}
			return
		}
	}
	for n, i := range indexes {
		if h.skip(i) {
			continue
		}
		switch err := h.call(ctx, topic, messages[n:n+1]); {
		case err == nil:
		case h.sink.refused(err):
			h.fail(i, &message.Reason{Code: codeRefused, Text: "the Pub/Sub cannot take the message: " + err.Error(), Permanent: true})
		default:
			h.fail(i, h.lost(topic, err))
		}
	}
}

// lost marks the Pub/Sub as away: what follows is not tried.
func (h *handling) lost(topic string, err error) error {
	if h.away == nil {
		h.away = message.Unavailable(fmt.Errorf("LS4392: publish to %s: %w", topic, err))
	}
	return h.away
}

func (s *sink) refused(err error) bool { return s.refuses != nil && s.refuses(err) }

// call is one call of Publish. Publishers need not heed a context, so that nobody waits
// for one longer than it has time.
func (h *handling) call(ctx context.Context, topic string, messages []*wm.Message) error {
	s := h.sink
	if h.away != nil {
		return h.away
	}
	const running, abandoned, ended = 0, 1, 2
	var state atomic.Int32
	s.calls.Add(1)
	err := within(ctx, s.out.Timeout, "publish", func() error {
		defer func() {
			if !state.CompareAndSwap(running, ended) {
				s.late.Add(-1)
			}
			s.calls.Done()
		}()
		return h.pub.Publish(topic, messages...)
	})
	if err != nil && state.Load() == running {
		s.late.Add(1)
		if !state.CompareAndSwap(running, abandoned) {
			s.late.Add(-1) // it has ended just now
		}
	}
	return err
}

// result returns what Handle returns.
func (h *handling) result() error {
	var failed []message.Failed
	for i, err := range h.failed {
		if err != nil {
			failed = append(failed, message.Failed{Index: i, Err: err})
		}
	}
	switch {
	case failed == nil:
		return nil
	case h.away != nil && len(failed) == h.batch.Len() && !h.refusals():
		return h.away
	default:
		return &message.PartialError{Failed: failed}
	}
}

// refusals reports whether a message itself was refused.
func (h *handling) refusals() bool {
	for _, err := range h.failed {
		if err != nil && !message.IsUnavailable(err) {
			return true
		}
	}
	return false
}
