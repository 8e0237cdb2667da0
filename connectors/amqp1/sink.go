package amqp1

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

type sink struct {
	cfg  SinkConfig
	dial dialer

	mu sync.Mutex
	// out is the connection; nil: there was none yet.
	out *outgoing

	// alone is held by the call that sends suspects, so that only one of them is on its way.
	alone sync.Mutex
	// suspects are, by address, the numbers of messages one of which made the peer end the
	// link. They are sent one at a time, so that the next end tells which one it is.
	suspects map[string]int
}

func newSink(cfg SinkConfig, env connectors.Env) (connectors.Sink, error) {
	d := dialer{
		address: cfg.Connect, tls: cfg.TLS, auth: cfg.Auth, hostname: cfg.Hostname, containerID: cfg.ContainerID,
		idle: cfg.IdleTimeout, properties: cfg.Properties,
	}
	return &sink{cfg: cfg, dial: d.named(env), suspects: map[string]int{}}, nil
}

// Open implements connectors.Sink. It attaches when there is one address only.
func (s *sink) Open(ctx context.Context) error {
	out, err := s.connected(ctx)
	if err != nil || !s.cfg.Address.Expr.IsZero() {
		return err
	}
	attached, err := out.sender(ctx, s.cfg.Address.Literal, maxSenders)
	if err != nil {
		return explainLink(err, "attach to "+s.cfg.Address.Literal)
	}
	attached.busy.Add(-1)
	return nil
}

// Close implements connectors.Sink.
func (s *sink) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		s.out.link.close()
		s.out = nil
	}
	return nil
}

// connected returns the connection, making a new one when it was lost.
func (s *sink) connected(ctx context.Context) (*outgoing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		if !s.out.ended() {
			return s.out, nil
		}
		s.out.link.close()
		s.out = nil
	}
	l, err := s.dial.open(ctx)
	if err != nil {
		return nil, err
	}
	s.out = newOutgoing(l, &s.cfg)
	return s.out, nil
}

// Handle implements message.Handler. Messages are sent in the order of the batch, without
// waiting for one another. After a refusal the later ones of the same key are held back,
// except those that are under way to the peer when it refuses.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	out, err := s.connected(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &call{sink: s, out: out, batch: b, ctx: within, flights: make([]flight, 0, b.Len()), errs: make([]error, b.Len())}
	c.timer = time.AfterFunc(s.cfg.Timeout, func() { cancel(errTimeout) })
	defer c.timer.Stop()
	// A peer that does not read must not hold up a stop, or the time-out.
	stop := context.AfterFunc(within, out.abort)
	c.send()
	for c.next < len(c.flights) {
		c.await()
	}
	if !stop() {
		out.abort() // at once, and not only soon
	}
	return c.result(ctx)
}

// encode returns what is sent for a message, and where. A refusal is final: the protocol
// cannot carry the message.
func (s *sink) encode(e *encoder, m *message.Message, now time.Time) (address string, refusal error) {
	address = s.cfg.Address.Value(m.Options)
	_, why := e.write(m, now)
	if why == "" {
		for _, option := range []struct {
			to    **string
			value string
		}{
			{&e.properties.Subject, s.cfg.Subject.Value(m.Options)},
			{&e.properties.GroupID, s.cfg.GroupID.Value(m.Options)},
			{&e.properties.ReplyTo, s.cfg.ReplyTo.Value(m.Options)},
		} {
			if option.value != "" {
				*option.to = ref(option.value)
			}
		}
		why = e.refused()
	}
	if why == "" && !validAddress(address) {
		why = "the address is empty, has a control character or more than 1024 bytes, or is not UTF-8"
	}
	if why != "" {
		return "", &message.Reason{Code: codeUncarryable, Text: why, Permanent: true}
	}
	return address, nil
}

// validAddress reports whether a link can have an address. Attach, which carries it, must
// fit into one frame of the peer: a longer one would end the connection, again and again.
// RabbitMQ leaves line breaks out of the names of queues, so that the message would be in
// another queue than the one that was written.
func validAddress(address string) bool {
	return address != "" && len(address) <= maxAddress && utf8.ValidString(address) && !strings.ContainsFunc(address, unicode.IsControl)
}

// suspected reports whether a message to address must go alone.
func (s *sink) suspected(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.suspects[address] > 0
}

// suspect notes that one of n messages to address made the peer end the link.
func (s *sink) suspect(address string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspects[address] = max(s.suspects[address], n)
}

// cleared notes that a message to address that went alone has its outcome.
func (s *sink) cleared(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.suspects[address]--; s.suspects[address] <= 0 {
		delete(s.suspects, address)
	}
}

var errTimeout = errors.New("the peer gave neither credit nor an outcome in time")

// timedOut makes the end of a call the fault of the peer, and that of ctx that of ctx.
func (c *call) timedOut(err error) error {
	if cause := context.Cause(c.ctx); cause != nil {
		err = cause
	}
	return message.Unavailable(fmt.Errorf("send: %w", err))
}
