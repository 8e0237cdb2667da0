package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// flushBytes is how much is gathered before it is written.
const flushBytes = 64 << 10

type sink struct {
	cfg  SinkConfig
	dial dialer

	mu sync.Mutex
	// out is the connection; nil: there was none yet.
	out *outgoing
}

func newSink(cfg SinkConfig, env connectors.Env) (connectors.Sink, error) {
	if cfg.ClientID == "" {
		cfg.ClientID = "linkspan-" + env.Pipeline + "-" + env.Name
	}
	return &sink{cfg: cfg, dial: dialer{
		address: cfg.Connect, tls: cfg.TLS, auth: cfg.Auth, version: versionOf(cfg.Version),
		clientID: cfg.ClientID, keepAlive: cfg.KeepAlive, maxPacket: packetOverhead, will: cfg.Will.publication(),
	}}, nil
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
		err := s.out.close()
		s.out = nil
		if err != nil {
			return nil, err
		}
	}
	b, err := s.dial.open(ctx, true, nil)
	if err != nil {
		return nil, err
	}
	switch {
	case s.cfg.QoS > int(b.props.maximumQoS):
		err = fmt.Errorf("connect %s: the broker takes QoS %d at most; lower qos", s.cfg.Connect, b.props.maximumQoS)
	case s.cfg.Retain && b.props.retainAvailable == 0:
		err = fmt.Errorf("connect %s: the broker does not retain messages; remove retain", s.cfg.Connect)
	}
	if err != nil {
		return nil, errors.Join(err, ignoreClosed(b.link.conn.Close()))
	}
	window := s.cfg.MaxInFlight
	if b.props.has(propReceiveMaximum) {
		window = min(window, int(b.props.receiveMaximum))
	}
	s.out = newOutgoing(ctx, b, window)
	return s.out, nil
}

// Handle implements message.Handler. Messages are published in the order of the
// batch, without waiting for one another. After a refusal the later ones of the same
// key are held back, except those that are under way to the broker when it refuses.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	out, err := s.connected(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	c := newCall(b.Len())
	timer := time.NewTimer(s.cfg.Timeout)
	defer timer.Stop()
	err = s.publish(ctx, out, c, b, timer)
	if err == nil {
		err = out.await(ctx, c, timer)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	return c.result(err)
}

// await waits for all answers.
func (o *outgoing) await(ctx context.Context, c *call, timer *time.Timer) error {
	select {
	case <-c.done:
		return nil
	case <-o.done:
		return message.Unavailable(o.err)
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		o.link.stop() // a broker that does not answer may answer late; nothing can be known of this connection
		return message.Unavailable(errors.New("the broker did not confirm in time"))
	}
}

// outbox gathers packets of one call.
type outbox struct {
	out   *outgoing
	timer *time.Timer
	buf   []byte
	props []byte
	// told are the aliases that stand in buf and that the broker does not know yet.
	told []*alias
}

func (o *outbox) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.out.link.send(o.buf)
	o.buf = o.buf[:0]
	if err != nil {
		o.out.link.stop()
		return message.Unavailable(err)
	}
	for _, a := range o.told {
		a.known.Store(true)
	}
	o.told = o.told[:0]
	return nil
}

// publish writes all messages of the batch that can be carried.
func (s *sink) publish(ctx context.Context, out *outgoing, c *call, b *message.Batch, timer *time.Timer) error {
	box := &outbox{out: out, timer: timer}
	now := time.Now()
	for i := range b.Messages {
		m := &b.Messages[i]
		p := publication{qos: byte(s.cfg.QoS), retain: s.cfg.Retain, topic: []byte(s.cfg.Topic.Value(m.Options)), payload: m.Payload}
		if out.behind(c, i, m.Key) {
			continue
		}
		var refusal error
		if box.props, refusal = s.encode(&p, box.props[:0], m, out, now); refusal != nil {
			out.settle(c, i, refusal)
			out.refuse(c, m.Key)
			continue
		}
		if p.qos > 0 {
			var err error
			if p.id, err = box.id(ctx, flight{c, i, m.Key}); err != nil {
				return err
			}
		}
		p.topic, box.props = box.alias(p.topic, box.props)
		box.buf = p.append(box.buf, s.dial.version, box.props)
		if len(box.buf) >= flushBytes {
			if err := box.flush(); err != nil {
				return err
			}
		}
	}
	if err := box.flush(); err != nil {
		return err
	}
	if s.cfg.QoS == 0 {
		for i := range b.Messages {
			out.settle(c, i, nil) // nothing more is known
		}
	}
	return nil
}

func (o *outgoing) settle(c *call, i int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.settle(i, err)
}

// encode checks what the broker and the protocol can carry.
func (s *sink) encode(p *publication, props []byte, m *message.Message, out *outgoing, now time.Time) ([]byte, error) {
	if !validTopic(string(p.topic)) {
		return props, &message.Reason{Code: "LS4203", Text: "the topic is empty, too long, or has a wildcard or control character", Permanent: true}
	}
	if s.dial.version == version5 {
		var ok bool
		if props, ok = appendMessageProperties(props, m, now); !ok {
			return props, &message.Reason{Code: "LS4203", Text: "a header or property has a control character, is not UTF-8 or is longer than 65535 bytes", Permanent: true}
		}
	}
	limit := maxPacketLimit
	if out.props.has(propMaximumPacket) {
		limit = int(out.props.maximumPacket)
	}
	if p.size(s.dial.version, len(props))+aliasSize > limit {
		return props, &message.Reason{Code: "LS4202", Text: "the message is larger than the broker takes", Permanent: true}
	}
	return props, nil
}

// id takes a packet identifier for a message. When none is free it sends what is
// gathered, and waits for an answer.
func (o *outbox) id(ctx context.Context, f flight) (id uint16, err error) {
	select {
	case id = <-o.out.ids:
	default:
		if err := o.flush(); err != nil {
			return 0, err
		}
		select {
		case id = <-o.out.ids:
		case <-o.out.done:
			return 0, message.Unavailable(o.out.err)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-o.timer.C:
			o.out.link.stop()
			return 0, message.Unavailable(errors.New("the broker did not confirm in time"))
		}
	}
	o.out.mu.Lock()
	o.out.flights[id] = f
	o.out.mu.Unlock()
	return id, nil
}
