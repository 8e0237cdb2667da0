package amqp091

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/gather"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// stopGrace is how long a hand-over under way may go on after a stop.
const stopGrace = 5 * time.Second

type source struct {
	cfg  SourceConfig
	env  connectors.Env
	dial dialer
}

func newSource(cfg SourceConfig, env connectors.Env) (connectors.Source, error) {
	return &source{cfg: cfg, env: env, dial: newDialer(cfg.Connect, cfg.TLS, cfg.Auth, cfg.Heartbeat, env)}, nil
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	err := s.run(ctx, next)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of the context is no failure
	}
	return fmt.Errorf("receive from the queue %s: %w", s.cfg.Queue, err)
}

func (s *source) run(ctx context.Context, next message.Handler) error {
	l, err := s.dial.open(ctx)
	if err != nil {
		return err
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group := run.NewGroup(work)
	defer func() {
		l.close() // ends the pump
		_ = group.Wait()
	}()
	c := &consumer{source: s, next: next, key: []byte(s.cfg.Queue), Batches: gather.NewBatches[mark](s.cfg.Prefetch)}
	// A broker that hangs must not hold up a stop while it is asked.
	hurry := context.AfterFunc(ctx, l.pipe.Abort)
	err = c.start(l)
	if !hurry() || err != nil {
		return err
	}
	group.Go("amqp091 deliveries", c.pump)
	group.Go("amqp091 stop", func(work context.Context) error {
		select {
		case <-ctx.Done():
			if run.Pause(work, stopGrace) {
				cancel()
			}
		case <-work.Done():
		}
		return nil
	})
	defer cancel()
	return c.work(ctx, work)
}

// consumer is one consumer of a queue, for the life of a connection.
type consumer struct {
	source *source
	next   message.Handler
	key    []byte

	ch         *amqp.Channel
	closed     chan *amqp.Error
	deliveries <-chan amqp.Delivery
	// position is the offset of a stream that was handed on; nil: the queue is none.
	position *position
	// seen is that offset, or -1, until something larger was handed on.
	seen int64

	*gather.Batches[mark]
}

// mark is what a delivery is answered by: its tag, and its offset in a stream.
type mark struct {
	tag    uint64
	offset int64
}

type bundle = gather.Bundle[mark]

// start declares, and asks for the messages.
func (c *consumer) start(l *link) (err error) {
	cfg := &c.source.cfg
	if c.ch, err = l.Channel(); err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	c.closed = c.ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := cfg.QueueOptions.declare(c.ch, cfg.Declare, cfg.Queue); err != nil {
		return err
	}
	for i := range cfg.Bindings {
		if err := cfg.Bindings[i].bind(c.ch, cfg.Queue); err != nil {
			return err
		}
	}
	if err := c.ch.Qos(cfg.Prefetch, 0, false); err != nil {
		return explain(err, "set prefetch")
	}
	arguments := table(cfg.Arguments)
	if cfg.Priority != 0 {
		arguments["x-priority"] = int64(cfg.Priority)
	}
	if err := c.seek(arguments); err != nil {
		return err
	}
	c.deliveries, err = c.ch.Consume(cfg.Queue, cfg.ConsumerTag, false, cfg.Exclusive, false, false, arguments)
	return explain(err, "consume the queue "+cfg.Queue)
}

// seek says where a stream goes on.
func (c *consumer) seek(arguments amqp.Table) error {
	cfg := &c.source.cfg
	if cfg.Offset == "" {
		return nil
	}
	offset, err := parseOffset(cfg.Offset)
	if err != nil {
		return err
	}
	c.position, c.seen = &position{Connect: cfg.Connect.String(), Queue: cfg.Queue}, -1
	kept, err := c.position.load(c.source.env.Dir)
	if err != nil {
		return err
	}
	if kept {
		c.seen = c.position.Offset
		offset = c.seen + 1
	}
	arguments[tableOffset] = offset
	return nil
}

// pump takes deliveries out of the library, so that they gather while a batch is being
// handed on.
func (c *consumer) pump(context.Context) error {
	for d := range c.deliveries {
		c.add(&d)
	}
	c.Finish()
	return nil
}

func (c *consumer) add(d *amqp.Delivery) {
	at := mark{tag: d.DeliveryTag}
	if c.position != nil {
		at.offset, _ = integer(d.Headers[tableOffset])
	}
	m := message.Message{Key: c.key, Source: c.source.env.Name}
	readMessage(&m, d, time.Now())
	c.Add(&m, at)
}

// work hands on what has arrived until the consumer or the context ends.
func (c *consumer) work(ctx, work context.Context) error {
	for {
		b, more := c.Take()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // what has arrived goes back to the queue
		case c.ch.IsClosed():
			return c.ended()
		case b != nil:
			err := c.handOn(work, b)
			c.Recycle(b)
			if err != nil {
				return err
			}
			continue
		case !more:
			return c.ended()
		}
		select {
		case <-c.Arrived:
		case <-ctx.Done():
		}
	}
}

// ended says why no more deliveries come.
func (c *consumer) ended() error {
	if !c.ch.IsClosed() {
		return errors.New("LS4313: the broker cancelled the consumer; the queue was deleted, or its node went away")
	}
	refusal := <-c.closed // sent, or closed by the library
	if refusal != nil && refusal.Server {
		return explain(refusal, "consume the queue "+c.source.cfg.Queue)
	}
	return lost(refusal)
}

// handOn hands a batch on and answers for its messages.
func (c *consumer) handOn(work context.Context, b *bundle) error {
	err := run.Protect("amqp091 hand-over", func() error { return c.next.Handle(work, &b.Batch) })
	if err == nil {
		if err := c.keep(b, len(b.Marks)-1); err != nil {
			return err
		}
		return c.ch.Ack(b.Marks[len(b.Marks)-1].tag, true)
	}
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok {
		return err // nothing was taken: all goes back to the queue
	}
	failed := make([]error, len(b.Marks))
	for _, f := range partial.Failed {
		failed[f.Index] = f.Err
	}
	return c.settle(work, b, failed)
}

// settle answers one by one. What can never be taken over is rejected, so that it does
// not come again and again; what was not taken over for the moment ends the consumer, and
// with it goes back to its place in the queue.
func (c *consumer) settle(ctx context.Context, b *bundle, failed []error) error {
	var again error
	through, rejected := -1, 0
	for i, why := range failed {
		if why != nil && !never(why) {
			again = errors.Join(again, why)
			continue
		}
		if again == nil {
			through = i
		}
		err := error(nil)
		switch {
		case c.position != nil: // a stream is settled by its offset
		case why == nil:
			err = c.ch.Ack(b.Marks[i].tag, false)
		default:
			rejected++
			err = c.ch.Reject(b.Marks[i].tag, false)
		}
		if err != nil {
			return err
		}
	}
	if rejected > 0 {
		c.source.env.Logger.LogAttrs(ctx, slog.LevelWarn, "messages that cannot be taken over were rejected: the broker dead-letters them if the queue has a dead-letter exchange, else they are gone", slog.Int("messages", rejected))
	}
	if c.position == nil || through < 0 {
		return again
	}
	if err := c.keep(b, through); err != nil {
		return err
	}
	return errors.Join(again, c.ch.Ack(b.Marks[through].tag, true))
}

// never reports whether a message will not be taken over however often it comes.
func never(err error) bool {
	reason, ok := errors.AsType[*message.Reason](err)
	return ok && reason.Permanent || errors.Is(err, message.ErrTooLarge)
}

// keep writes down the offset of the message at index, when the queue is a stream.
func (c *consumer) keep(b *bundle, index int) error {
	if c.position == nil || b.Marks[index].offset <= c.position.Offset && c.seen >= 0 {
		return nil
	}
	c.position.Offset, c.seen = b.Marks[index].offset, b.Marks[index].offset
	return c.position.save(c.source.env.Dir)
}
