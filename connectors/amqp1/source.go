package amqp1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	amqp "github.com/Azure/go-amqp"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/gather"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// stopGrace is how long a hand-over under way may go on after a stop.
const stopGrace = 5 * time.Second

// condRefused is the error condition of what this side rejects.
const condRefused = amqp.ErrCond("linkspan:refused")

type source struct {
	cfg  SourceConfig
	env  connectors.Env
	dial dialer
}

func newSource(cfg SourceConfig, env connectors.Env) (connectors.Source, error) {
	d := dialer{
		address: cfg.Connect, tls: cfg.TLS, auth: cfg.Auth, hostname: cfg.Hostname, containerID: cfg.ContainerID,
		idle: cfg.IdleTimeout, properties: cfg.Properties,
	}
	return &source{cfg: cfg, env: env, dial: d.named(env)}, nil
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	err := s.run(ctx, next)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of the context is no failure
	}
	return fmt.Errorf("receive from %s: %w", s.cfg.Address, err)
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
		// The connection is closed, and not the link: that would end a durable subscription.
		l.close()
		_ = group.Wait()
	}()
	c := &consumer{source: s, link: l, next: next, key: []byte(s.cfg.Address), Batches: gather.NewBatches[*amqp.Message](s.cfg.Credit)}
	if err := c.attach(ctx); err != nil {
		return err
	}
	group.Go("amqp1 deliveries", c.pump)
	group.Go("amqp1 stop", func(work context.Context) error {
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

// consumer is one link that receives, for the life of a connection.
type consumer struct {
	source   *source
	link     *link
	next     message.Handler
	key      []byte
	receiver *amqp.Receiver
	// lost is why no more messages come. It is written before Finish.
	lost error

	*gather.Batches[*amqp.Message]
}

// attach asks for messages.
func (c *consumer) attach(ctx context.Context) error {
	cfg := &c.source.cfg
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	session, err := c.link.NewSession(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a session: %w", err)
	}
	options := &amqp.ReceiverOptions{Credit: -1}
	if cfg.Node != "" {
		options.SourceCapabilities = append(options.SourceCapabilities, cfg.Node)
	}
	if cfg.Subscription != "" {
		// As the JMS mapping has it: the subscription is the name of the link.
		options.Name = cfg.Subscription
		options.SourceDurability = amqp.DurabilityUnsettledState
		options.SourceExpiryPolicy = amqp.ExpiryPolicyNever
		if cfg.Node == "" {
			options.SourceCapabilities = append(options.SourceCapabilities, "topic")
		}
	}
	if cfg.Shared {
		options.SourceCapabilities = append(options.SourceCapabilities, "shared")
	}
	if cfg.Selector != "" {
		options.Filters = []amqp.LinkFilter{amqp.NewSelectorFilter(cfg.Selector)}
	}
	if c.receiver, err = session.NewReceiver(ctx, cfg.Address, options); err != nil {
		return explainLink(err, "attach to "+cfg.Address)
	}
	if cfg.Selector != "" && c.receiver.LinkSourceFilterValue("apache.org:selector-filter:string") == nil {
		return fmt.Errorf("attach to %s: LS4327: the peer does not filter by a selector; remove it, and use `keep`", cfg.Address)
	}
	return c.receiver.IssueCredit(uint32(cfg.Credit))
}

// pump takes messages out of the library, so that they gather while a batch is being
// handed on.
func (c *consumer) pump(ctx context.Context) error {
	for {
		in, err := c.receiver.Receive(ctx, nil)
		if err != nil {
			c.lost = err
			c.Finish()
			return nil //nolint:nilerr // the worker reports it
		}
		m := message.Message{Key: c.key, Source: c.source.env.Name, Topic: c.source.cfg.Address}
		readMessage(&m, in, time.Now())
		c.Add(&m, in)
	}
}

// work hands on what has arrived until the link or the context ends.
func (c *consumer) work(ctx, work context.Context) error {
	for {
		b, more := c.Take()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // what has arrived goes back
		case c.link.Err() != nil:
			return c.link.Err()
		case b != nil:
			err := c.handOn(work, b)
			c.Recycle(b)
			if err != nil {
				return err
			}
			continue
		case !more:
			return explainLink(c.lost, "the link ended")
		}
		select {
		case <-c.Arrived:
		case <-ctx.Done():
		}
	}
}

// handOn hands a batch on and settles its messages.
func (c *consumer) handOn(work context.Context, b *gather.Bundle[*amqp.Message]) error {
	err := run.Protect("amqp1 hand-over", func() error { return c.next.Handle(work, &b.Batch) })
	failed := make([]error, len(b.Marks))
	if partial, ok := errors.AsType[*message.PartialError](err); ok {
		for _, f := range partial.Failed {
			failed[f.Index] = f.Err
		}
	} else {
		for i := range failed {
			failed[i] = err
		}
	}
	// Every outcome is a frame of its own; together they are one write.
	c.link.pipe.Hold()
	again, lost := c.settle(work, b, failed)
	c.link.pipe.Release()
	switch {
	case lost != nil:
		return explainLink(lost, "settle")
	case again != nil:
		return again
	default:
		return c.receiver.IssueCredit(uint32(len(b.Marks)))
	}
}

// settle tells the peer what became of each message. Again is why some were not taken over
// for the moment.
func (c *consumer) settle(ctx context.Context, b *gather.Bundle[*amqp.Message], failed []error) (again, lost error) {
	rejected := 0
	for i, in := range b.Marks {
		switch why := failed[i]; {
		case why == nil:
			lost = c.receiver.AcceptMessage(ctx, in)
		case never(why):
			rejected++
			lost = c.receiver.RejectMessage(ctx, in, &amqp.Error{Condition: condRefused, Description: "the message cannot be taken over" + code(why)})
		default:
			again = errors.Join(again, why)
		}
		if lost != nil {
			return again, lost
		}
	}
	if rejected > 0 {
		c.source.env.Logger.LogAttrs(ctx, slog.LevelWarn, "messages that cannot be taken over were rejected: the peer dead-letters them, or they are gone", slog.Int("messages", rejected))
	}
	if again == nil || c.source.cfg.NotTaken == notTakenDetach {
		return again, nil
	}
	// Backwards, since each goes to the head of the queue.
	for i, in := range slices.Backward(b.Marks) {
		if failed[i] == nil || never(failed[i]) {
			continue
		}
		if c.source.cfg.NotTaken == notTakenModify {
			lost = c.receiver.ModifyMessage(ctx, in, &amqp.ModifyMessageOptions{DeliveryFailed: true})
		} else {
			lost = c.receiver.ReleaseMessage(ctx, in)
		}
		if lost != nil {
			return again, lost
		}
	}
	return again, nil
}

// never reports whether a message will not be taken over however often it comes.
func never(err error) bool {
	reason, ok := errors.AsType[*message.Reason](err)
	return ok && reason.Permanent || errors.Is(err, message.ErrTooLarge)
}

// code is the code of a reason, for the peer: nothing else of it leaves.
func code(err error) string {
	if reason, ok := errors.AsType[*message.Reason](err); ok {
		return " (" + reason.Code + ")"
	}
	return ""
}
