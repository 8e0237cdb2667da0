package amqp091

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

type sink struct {
	cfg  SinkConfig
	dial dialer

	mu sync.Mutex
	// out is the connection; nil: there was none yet.
	out *outgoing
	// suspects is the number of messages, one of which made the broker close the channel.
	// They are sent one at a time, so that the next close tells which one it is.
	suspects int
}

func newSink(cfg SinkConfig, env connectors.Env) (connectors.Sink, error) {
	if cfg.Queue != "" {
		cfg.RoutingKey.Literal = cfg.Queue
	}
	return &sink{cfg: cfg, dial: newDialer(cfg.Connect, cfg.TLS, cfg.Auth, cfg.Heartbeat, env)}, nil
}

// Open implements connectors.Sink.
func (s *sink) Open(ctx context.Context) error {
	_, err := s.connected(ctx)
	return err
}

// Close implements connectors.Sink.
func (s *sink) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		return nil
	}
	out := s.out
	s.out = nil
	return out.close()
}

// connected returns the connection, making a new one when it was lost.
func (s *sink) connected(ctx context.Context) (*outgoing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		if !s.out.ended() {
			return s.out, nil
		}
		out := s.out
		s.out = nil
		<-out.done // comes with the end
		s.suspects = max(s.suspects, out.suspects())
		if err := out.close(); err != nil {
			return nil, err
		}
	}
	l, err := s.dial.open(ctx)
	if err != nil {
		return nil, err
	}
	hurry := context.AfterFunc(ctx, l.pipe.Abort)
	ch, err := s.prepare(l)
	if !hurry() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("connect %s: %w", s.cfg.Connect, err)
	}
	s.out = newOutgoing(ctx, l, ch, s.cfg.MaxInFlight, s.suspects)
	s.suspects = 0
	return s.out, nil
}

// prepare opens the channel that publishes, and nothing else.
func (s *sink) prepare(l *link) (*amqp.Channel, error) {
	ch, err := l.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	switch {
	case s.cfg.Queue != "":
		err = s.cfg.QueueOptions.declare(ch, s.cfg.Declare, s.cfg.Queue)
	case s.cfg.Exchange != "":
		err = s.cfg.ExchangeOptions.declare(ch, s.cfg.Declare, s.cfg.Exchange)
	}
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, explain(err, "ask for confirmations")
	}
	return ch, nil
}

// Handle implements message.Handler. Messages are published in the order of the batch,
// without waiting for one another. After a refusal the later ones of the same key are held
// back, except those that are under way to the broker when it refuses.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	out, err := s.connected(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	if out.blocked.Load() {
		return message.Unavailable(errBlocked)
	}
	c := out.begin(s, b)
	defer out.end(c)
	c.timer = time.AfterFunc(s.cfg.Timeout, c.expire)
	defer c.timer.Stop()
	// What waits, waits for the connection as well: a stop ends it.
	stop := context.AfterFunc(ctx, func() { out.fail(ctx.Err()) })
	defer stop()
	c.publish()
	for i := range c.flights {
		c.await(i)
	}
	return c.result(ctx)
}

// encode returns what is published for a message, and where. A refusal is final: the
// protocol cannot carry the message.
func (s *sink) encode(m *message.Message, now time.Time, frame int) (p amqp.Publishing, key string, refusal error) {
	key = s.cfg.RoutingKey.Value(m.Options)
	p, why := writeMessage(m, now)
	if !s.cfg.ReplyTo.IsZero() {
		p.ReplyTo = s.cfg.ReplyTo.Value(m.Options)
	}
	p.DeliveryMode = amqp.Transient
	if s.cfg.Persistent {
		p.DeliveryMode = amqp.Persistent
	}
	if s.cfg.Type != "" {
		p.Type = s.cfg.Type
	}
	if s.cfg.AppID != "" {
		p.AppId = s.cfg.AppID
	}
	p.UserId = s.cfg.UserID
	switch {
	case why != "":
	case !short(key) || key == "" && s.cfg.Exchange == "":
		why = "the routing key is empty, has more than 255 bytes or NUL, or is not UTF-8"
	case !shorts(&p):
		why = "message-id, correlation-id, reply-to, content-type or another property has more than 255 bytes or NUL, or is not UTF-8"
	case frame > 0 && headerBytes(&p) > frame:
		why = "headers and properties together are larger than a frame of the broker"
	}
	if why != "" {
		return p, key, &message.Reason{Code: codeUncarryable, Text: why, Permanent: true}
	}
	return p, key, nil
}
