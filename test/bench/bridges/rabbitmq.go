package main

import (
	"context"
	"errors"
	"net/url"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/internal/run"
)

const (
	sourceQueue = "app.bench.in"
	outExchange = "app.bench.out"
	outQueues   = "app.bench.out."
)

// rabbit carries from one durable queue over an exchange to three.
type rabbit struct {
	address    string // without the user
	user, pass string
	full       string // with the user
}

func newRabbit(_ context.Context, address string) (path, error) { return openRabbit(address) }

func openRabbit(address string) (*rabbit, error) {
	if address == "" {
		return nil, errors.New("no broker is known: start one with test/brokers/brokers up rabbitmq, or set -rabbitmq")
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	r := &rabbit{full: address, user: u.User.Username()}
	r.pass, _ = u.User.Password()
	u.User = nil
	r.address = u.String()
	return r, nil
}

func (r *rabbit) sources() int                      { return 1 }
func (r *rabbit) send(context.Context, *work) error { return nil }

func (r *rabbit) env() []string {
	return []string{"RABBITMQ=" + r.full, "RABBITMQ_ADDRESS=" + r.address, "RABBITMQ_USER=" + r.user, "RABBITMQ_PASSWORD=" + r.pass}
}

func (r *rabbit) prepare(ctx context.Context, w *work) error {
	return r.with(func(ch *amqp.Channel) error {
		if err := r.destinations(ch); err != nil {
			return err
		}
		if err := fresh(ch, sourceQueue); err != nil {
			return err
		}
		if err := ch.Confirm(false); err != nil {
			return err
		}
		var last *amqp.DeferredConfirmation
		for seq := range w.n {
			p := amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: w.payload(seq)}
			var err error
			if last, err = ch.PublishWithDeferredConfirmWithContext(ctx, "", sourceQueue, false, false, p); err != nil {
				return err
			}
		}
		if ok, err := last.WaitContext(ctx); err != nil || !ok {
			return errors.Join(err, errors.New("RabbitMQ does not take the orders"))
		}
		return nil
	})
}

func (r *rabbit) with(f func(ch *amqp.Channel) error) error {
	conn, err := amqp.Dial(r.full)
	if err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err == nil {
		err = f(ch)
	}
	return errors.Join(err, conn.Close())
}

// destinations makes the exchange and its queues, empty.
func (r *rabbit) destinations(ch *amqp.Channel) error {
	if err := ch.ExchangeDeclare(outExchange, amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
		return err
	}
	for _, c := range channels() {
		if err := fresh(ch, outQueues+c); err != nil {
			return err
		}
		if err := ch.QueueBind(outQueues+c, c, outExchange, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// fresh makes a durable queue anew.
func fresh(ch *amqp.Channel, queue string) error {
	if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
		return err
	}
	_, err := ch.QueueDeclare(queue, true, false, false, false, nil)
	return err
}

func (r *rabbit) read(ctx context.Context, l *ledger, reading func()) error {
	return r.with(func(ch *amqp.Channel) error {
		g := run.NewGroup(ctx)
		for _, c := range channels() {
			arrivals, err := ch.ConsumeWithContext(ctx, outQueues+c, "", true, false, false, false, nil)
			if err != nil {
				g.Stop()
				return errors.Join(err, g.Wait())
			}
			g.Go("reader", func(ctx context.Context) error {
				for {
					select {
					case d, ok := <-arrivals:
						if !ok {
							return errors.New("RabbitMQ ended the connection")
						}
						l.take(c, 0, d.Body)
					case <-ctx.Done():
						return nil
					}
				}
			})
		}
		reading()
		return g.Wait()
	})
}
