// Package amqp091 connects linkspan to AMQP 0-9-1 brokers such as RabbitMQ.
//
// Delivery. A message is acknowledged strictly after it was handed on, several at once
// (basic.ack with multiple). What was not taken over for the moment goes back to its
// place in the queue when the source ends with an error; what can never be taken over is
// rejected, which dead-letters it when the queue has a dead-letter exchange. A sink
// publishes persistent and mandatory messages without waiting for one another, and has
// delivered one when the broker has confirmed it and has not returned it.
//
// Order. A source hands on one batch at a time in the order of the queue; the next one
// gathers meanwhile. The key of a message is the queue. A sink publishes in the order of
// its batches, on one channel.
//
// Streams. With `offset` the queue is a stream: the offset that was handed on is kept in
// the directory of the input, so that a restart goes on behind it.
package amqp091

import (
	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// Spec describes the amqp091 connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name: "amqp091",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Brokered: true, Headers: true, Carries: carries(), OrderKey: "queue"},
			sourceDefaults, newSource),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true, Carries: carries()}, sinkDefaults, newSink),
	}
}

func carries() connectors.Properties {
	return connectors.Properties{
		ID: "message-id", CorrelationID: "correlation-id", ReplyTo: "reply-to", ContentType: "content-type",
		Priority: "priority", Expires: "expiration", Time: "timestamp", Key: "",
		Kinds:   connectors.KindsOf(message.KindNull, message.KindString, message.KindBytes, message.KindBool, message.KindInt, message.KindFloat),
		Repeats: true,
		Notes: []string{
			"timestamp is in whole seconds; a header of kind time travels as a timestamp when it has whole seconds, else as text",
			"a priority of 0 is the same as none on the wire, so the header linkspan-priority says 0",
			"expiration counts from when a message is published, and from when it was received; more than 49 days are not sent",
			"a header that repeats is an array, and an array of plain values is a header that repeats",
			"message-id, correlation-id, reply-to, content-type and header names have at most 255 bytes: longer ones are refused",
		},
	}
}
