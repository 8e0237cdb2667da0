package amqp091

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// declare does about a queue what the configuration says.
func (q *QueueOptions) declare(ch *amqp.Channel, mode, queue string) error {
	switch mode {
	case declareCheck:
		_, err := ch.QueueDeclarePassive(queue, q.Durable, q.AutoDelete, q.Exclusive, false, nil)
		return explain(err, "look for the queue "+queue)
	case declareCreate:
		arguments := table(q.Arguments)
		if q.Type != "" {
			arguments[amqp.QueueTypeArg] = q.Type
		}
		_, err := ch.QueueDeclare(queue, q.Durable, q.AutoDelete, q.Exclusive, false, arguments)
		return explain(err, "declare the queue "+queue)
	default:
		return nil
	}
}

// declare does about an exchange what the configuration says.
func (x *ExchangeOptions) declare(ch *amqp.Channel, mode, exchange string) error {
	switch mode {
	case declareCheck:
		err := ch.ExchangeDeclarePassive(exchange, x.Type, x.Durable, x.AutoDelete, x.Internal, false, nil)
		return explain(err, "look for the exchange "+exchange)
	case declareCreate:
		err := ch.ExchangeDeclare(exchange, x.Type, x.Durable, x.AutoDelete, x.Internal, false, table(x.Arguments))
		return explain(err, "declare the exchange "+exchange)
	default:
		return nil
	}
}

// bind declares the exchange of a binding when it has a type, and binds the queue.
func (b *Binding) bind(ch *amqp.Channel, queue string) error {
	if b.Type != "" {
		x := ExchangeOptions{Type: b.Type, Durable: true}
		if err := x.declare(ch, declareCreate, b.Exchange); err != nil {
			return err
		}
	}
	err := ch.QueueBind(queue, b.RoutingKey, b.Exchange, false, table(b.Arguments))
	return explain(err, fmt.Sprintf("bind the queue %s to %s", queue, b.Exchange))
}
