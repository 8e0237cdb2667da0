// Package amqp1 connects linkspan to AMQP 1.0 peers: ActiveMQ and Artemis, RabbitMQ, Azure
// Service Bus, Qpid, Solace, IBM MQ.
//
// Delivery. A source gives credit, hands batches on, and accepts a message strictly after
// it was handed on; credit is given again as messages are settled, which is the
// back-pressure. What can never be taken over is rejected; what was not taken over for the
// moment goes back when the link ends. A sink sends without waiting for one another, and
// has delivered a message when the peer has accepted it.
//
// Order. A source hands on one batch at a time in the order of arrival; its key is the
// address. A sink sends in the order of its batches, on one link per address.
//
// Each link has a session of its own, because some peers end the whole session when they
// refuse a link.
package amqp1

import (
	"github.com/linkspan/linkspan/connectors"
)

// Spec describes the amqp1 connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name: "amqp1",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Brokered: true, Headers: true, Carries: carries(), OrderKey: "address"},
			sourceDefaults, newSource),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true, Carries: carries()}, sinkDefaults, newSink),
	}
}

func carries() connectors.Properties {
	return connectors.Properties{
		ID: "message-id", CorrelationID: "correlation-id", ReplyTo: "reply-to", ContentType: "content-type",
		Priority: "header priority", Expires: "absolute-expiry-time, ttl", Time: "creation-time",
		Kinds: connectors.AllKinds(),
		Notes: []string{
			"identifiers that are no text have the prefixes of the JMS mapping, ID:AMQP_ULONG:, ID:AMQP_UUID: and ID:AMQP_BINARY:, which an output turns back",
			"unsigned numbers above 2^63-1, and lists and maps (as JSON), arrive as text",
			"a content type that is not ASCII, and a text with NUL or not in UTF-8, are refused",
		},
	}
}
