package stomp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// stopGrace is how long hand-overs under way may go on after a stop.
const stopGrace = 5 * time.Second

// newSource makes the end that the configuration asks for.
func newSource(cfg SourceConfig, env connectors.Env) (connectors.Source, error) {
	if env.MaxMessage > 0 {
		cfg.MaxFrame = min(cfg.MaxFrame, config.Size(env.MaxMessage))
	}
	bounds := limits{head: maxHead, headers: cfg.MaxHeaders, body: int(cfg.MaxFrame)}
	if cfg.Listen != "" {
		return newListenSource(cfg, env, bounds), nil
	}
	s := &dialSource{cfg: cfg, env: env, dial: dialer{
		address: cfg.Connect, tls: cfg.TLS, auth: cfg.Auth, version: versionOf(cfg.Version), host: cfg.Host,
		clientID: cfg.ClientID, heartBeat: cfg.HeartBeat, limits: bounds,
	}}
	for i := range cfg.names() {
		s.ids = append(s.ids, cfg.subscription(i))
	}
	return s, nil
}

// dialSource subscribes at a broker.
type dialSource struct {
	cfg  SourceConfig
	env  connectors.Env
	dial dialer
	// ids are the identifiers of the subscriptions.
	ids []string

	// These are of the connection, and belong to the reading goroutine.
	recv         *receiver
	destinations destinations
}

// subscription returns the identifier of the i-th subscription.
func (c *SourceConfig) subscription(i int) string {
	base := c.SubscriptionID
	switch {
	case base == "":
		return "linkspan-" + strconv.Itoa(i)
	case len(c.names()) == 1:
		return base
	default:
		return base + "-" + strconv.Itoa(i)
	}
}

// Run implements connectors.Source.
func (s *dialSource) Run(ctx context.Context, next message.Handler) error {
	b, err := s.dial.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { _ = b.link.conn.Close() }() // said goodbye, or lost
	stop := context.AfterFunc(ctx, b.link.stop)
	defer stop()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group := run.NewGroup(work)
	a := &acknowledger{source: s, version: b.link.stream.version}
	s.recv = (&receiver{
		link: b.link, next: next, start: group.Go, source: s.env.Name, answer: a.answer,
		bundles: newBundles(), limit: s.cfg.Prefetch * len(s.ids), held: &atomic.Int64{},
	}).init()
	b.link.beat(group, b.beats.every)
	if err = b.link.send(s.subscribe(b.link.stream.version)); err == nil {
		err = b.link.pump(b.beats.silence, func(f *frame.Frame) error { return s.handle(f, b.link.stream.version) }, s.recv.flush)
	}
	grace := time.AfterFunc(stopGrace, cancel)
	defer grace.Stop()
	s.recv.drain()
	if failure := s.recv.failure(); failure != nil {
		err = failure
	} else {
		a.refuseOversized(ctx, b.link, err)
	}
	_, broken := errors.AsType[*wireError](err)
	b.goodbye(broken)
	cancel()
	err = errors.Join(err, group.Wait())
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("receive from %s: %w", s.cfg.Connect, err)
}

// subscribe asks for all destinations. The prefetch is said in the words of every
// broker that is known: messages for RabbitMQ and ActiveMQ, bytes for Artemis.
func (s *dialSource) subscribe(v version) (b []byte) {
	for i, name := range s.cfg.names() {
		f := frame.New(frame.SUBSCRIBE, frame.Destination, name, frame.Id, s.ids[i], frame.Ack, s.cfg.Ack,
			"prefetch-count", strconv.Itoa(s.cfg.Prefetch), "activemq.prefetchSize", strconv.Itoa(s.cfg.Prefetch),
			"consumer-window-size", strconv.Itoa(s.cfg.Prefetch*1024))
		if s.cfg.Selector != "" {
			f.Header.Add("selector", s.cfg.Selector)
		}
		for _, key := range slices.Sorted(maps.Keys(s.cfg.Headers)) {
			f.Header.Set(key, s.cfg.Headers[key])
		}
		b = appendFrame(b, v, f)
	}
	return b
}

func (s *dialSource) handle(f *frame.Frame, v version) error {
	switch f.Command {
	case frame.MESSAGE:
		return s.message(f, v)
	case frame.ERROR:
		err, _ := brokerError(f)
		return err
	case frame.RECEIPT:
		return nil
	default:
		return malformed("a frame that a broker does not send")
	}
}

// answerOf says how a message is acknowledged.
func (s *dialSource) answerOf(f *frame.Frame, v version) (a answer) {
	a.id = f.Header.Get(frame.MessageId)
	if v >= version12 && s.cfg.Ack != ackAuto {
		a.id = f.Header.Get(frame.Ack)
	}
	a.subscription = max(0, slices.Index(s.ids, f.Header.Get(frame.Subscription))) // 1.0 may leave it out
	return a
}

func (s *dialSource) message(f *frame.Frame, v version) error {
	a := s.answerOf(f, v)
	if a.id == "" && s.cfg.Ack != ackAuto {
		return malformed("a message that cannot be acknowledged")
	}
	name, ok := f.Header.Contains(frame.Destination)
	if !ok {
		name = s.cfg.names()[a.subscription]
	}
	return s.recv.add(a, f, s.destinations.get(name), false)
}

// acknowledger writes ACK and NACK for the messages of one connection.
type acknowledger struct {
	source  *dialSource
	version version
}

// answer encodes the acknowledgements of a batch. A message that can never be taken
// is refused with NACK, which takes it out of the broker's way. For any other that was
// not taken the connection ends, because brokers answer a NACK either with the next
// delivery at once or with their dead letters: after the end, it comes again.
func (a *acknowledger) answer(ctx context.Context, b *bundle, failed failedMessages) (end error) {
	cfg := &a.source.cfg
	refused := 0
	cumulative := map[int]answer{}
	for _, x := range b.answers {
		err := failed.of(x)
		switch {
		case cfg.Ack == ackAuto:
			if err != nil {
				refused++
			}
			continue
		case err == nil && cfg.Ack == ackCumulative:
			cumulative[x.subscription] = x
			continue
		case err == nil:
			b.out = a.append(b.out, frame.ACK, x)
			continue
		case permanent(err) && a.version >= version11:
			b.out = a.acknowledgeUpTo(b.out, cumulative)
			b.out = a.append(b.out, frame.NACK, x)
			refused++
			continue
		case end == nil:
			end = err
		}
		if cfg.Ack == ackCumulative {
			break // an ACK of a later one would cover this one
		}
	}
	b.out = a.acknowledgeUpTo(b.out, cumulative)
	if refused > 0 {
		a.source.env.Logger.LogAttrs(ctx, slog.LevelWarn, "LS4345: messages were refused with NACK, or lost without acknowledgements", slog.Int("messages", refused))
	}
	return end
}

// refuseOversized refuses the message that ended the connection because it is larger
// than a frame may be: it would end every later connection as well.
func (a *acknowledger) refuseOversized(ctx context.Context, l *link, err error) {
	var wire *wireError
	f, ok := l.stream.oversized()
	if !ok || !errors.As(err, &wire) || wire.code != codeTooMuch || f.Command != frame.MESSAGE || a.source.cfg.Ack == ackAuto || a.version < version11 {
		return
	}
	if l.send(a.append(nil, frame.NACK, a.source.answerOf(f, a.version))) == nil {
		a.source.env.Logger.LogAttrs(ctx, slog.LevelWarn, "LS4345: a message is larger than max_frame and was refused with NACK")
	}
}

func (a *acknowledger) acknowledgeUpTo(out []byte, last map[int]answer) []byte {
	for _, i := range slices.Sorted(maps.Keys(last)) {
		out = a.append(out, frame.ACK, last[i])
	}
	clear(last)
	return out
}

// append writes ACK or NACK. Versions differ in what names the message.
func (a *acknowledger) append(b []byte, command string, x answer) []byte {
	b = append(append(b, command...), '\n')
	if a.version >= version12 {
		b = appendHeader(b, a.version, frame.Id, x.id)
	} else {
		b = appendHeader(b, a.version, frame.MessageId, x.id)
		b = appendHeader(b, a.version, frame.Subscription, a.source.ids[x.subscription])
	}
	if command == frame.NACK {
		b = append(b, "requeue:false\n"...) // RabbitMQ would deliver it again at once
	}
	return append(b, '\n', 0)
}

// permanent reports whether a message can never be taken.
func permanent(err error) bool {
	var r *message.Reason
	return errors.Is(err, message.ErrTooLarge) || errors.As(err, &r) && r.Permanent
}
