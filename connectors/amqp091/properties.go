package amqp091

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/message"
)

// The headers that stand for what the protocol has beside a message's headers.
const (
	ownHeaders      = "amqp091."
	headerType      = ownHeaders + "type"
	headerAppID     = ownHeaders + "app_id"
	headerEncoding  = ownHeaders + "content_encoding"
	headerUserID    = ownHeaders + "user_id"
	headerExchange  = ownHeaders + "exchange"
	headerDeaths    = ownHeaders + "death_count"
	headerReason    = ownHeaders + "death_reason"
	headerQueue     = ownHeaders + "death_queue"
	headerFrom      = ownHeaders + "death_exchange"
	tableDeath      = "x-death"
	tableDelivered  = "x-delivery-count"
	tableOffset     = "x-stream-offset"
	headerPriority  = "linkspan-priority"
	maxPriority     = 9
	maxExpiration   = math.MaxUint32 // RabbitMQ closes the channel for more, 49 days
	codeUnroutable  = "LS4305"
	codeRefused     = "LS4306"
	codeUncarryable = "LS4307"
)

// readMessage fills m from a delivery. The payload is that of the delivery.
func readMessage(m *message.Message, d *amqp.Delivery, now time.Time) {
	m.ID, m.CorrelationID, m.ReplyTo, m.ContentType = d.MessageId, d.CorrelationId, d.ReplyTo, d.ContentType
	m.Topic, m.Payload, m.Time = d.RoutingKey, d.Body, now
	if !d.Timestamp.IsZero() && sane(d.Timestamp) {
		m.Time = d.Timestamp
	}
	if ms, err := strconv.ParseInt(d.Expiration, 10, 64); err == nil && ms >= 0 && ms < int64(100*365*24*time.Hour/time.Millisecond) {
		m.Expires = now.Add(time.Duration(ms) * time.Millisecond)
	}
	m.Attempt = attempt(d)
	m.Headers = readHeaders(m.Headers, d.Headers)
	for _, own := range []struct{ name, value string }{
		{headerType, d.Type},
		{headerAppID, d.AppId},
		{headerEncoding, d.ContentEncoding},
		{headerUserID, d.UserId},
		{headerExchange, d.Exchange},
	} {
		if own.value != "" {
			m.Headers.Set(own.name, message.String(own.value))
		}
	}
	readDeath(&m.Headers, d.Headers)
	readPriority(m, d)
}

// attempt counts deliveries. Quorum queues say how many there were, others only that
// there was one.
func attempt(d *amqp.Delivery) int {
	if n, ok := integer(d.Headers[tableDelivered]); ok && n >= 0 && n < 1<<31 {
		return int(n) + 1
	}
	if d.Redelivered {
		return 2
	}
	return 1
}

// readDeath makes the latest entry of x-death readable in expressions.
func readDeath(h *message.Headers, t amqp.Table) {
	list, _ := t[tableDeath].([]any)
	if len(list) == 0 {
		return
	}
	entry, _ := list[0].(amqp.Table)
	for _, own := range []struct{ name, key string }{
		{headerDeaths, "count"}, {headerReason, "reason"}, {headerQueue, "queue"}, {headerFrom, "exchange"},
	} {
		if field, ok := entry[own.key]; ok {
			h.Set(own.name, readValue(field))
		}
	}
}

// readPriority: on the wire 0 is the same as no priority, so a header says 0.
func readPriority(m *message.Message, d *amqp.Delivery) {
	switch {
	case d.Priority > 0:
		m.Priority = min(d.Priority, maxPriority)
	case m.Headers.Text(headerPriority) == "0":
		m.Priority = 0
		m.Headers.Del(headerPriority)
	default:
		m.Priority = message.NormalPriority
	}
}

// writeMessage turns m into what is published. Why is empty when it can be carried.
func writeMessage(m *message.Message, now time.Time) (p amqp.Publishing, why string) {
	p.MessageId, p.CorrelationId, p.ReplyTo, p.ContentType = m.ID, m.CorrelationID, m.ReplyTo, m.ContentType
	p.Body = m.Payload
	if !m.Time.IsZero() {
		p.Timestamp = m.Time
	}
	if left := m.Expires.Sub(now).Milliseconds(); !m.Expires.IsZero() && left <= maxExpiration {
		p.Expiration = strconv.FormatInt(max(0, left), 10)
	}
	headers := m.Headers
	if slices.ContainsFunc(headers, func(h message.Header) bool { return strings.HasPrefix(h.Name, ownHeaders) }) {
		headers = takeOwn(&p, headers)
	}
	if p.Headers, why = writeHeaders(headers); why != "" {
		return p, why
	}
	if p.Priority = min(m.Priority, maxPriority); p.Priority == 0 {
		if p.Headers == nil {
			p.Headers = amqp.Table{}
		}
		p.Headers[headerPriority] = int64(0)
	}
	return p, ""
}

// takeOwn moves the headers that are properties of the protocol to their places.
func takeOwn(p *amqp.Publishing, headers message.Headers) message.Headers {
	headers = slices.Clone(headers)
	return slices.DeleteFunc(headers, func(h message.Header) bool {
		if h.Value.Kind() != message.KindString {
			return false
		}
		switch h.Name {
		case headerType:
			p.Type = h.Value.Text()
		case headerAppID:
			p.AppId = h.Value.Text()
		case headerEncoding:
			p.ContentEncoding = h.Value.Text()
		default:
			return false
		}
		return true
	})
}

// shorts reports whether all that must be short strings are.
func shorts(p *amqp.Publishing) bool {
	return short(p.MessageId) && short(p.CorrelationId) && short(p.ReplyTo) && short(p.ContentType) &&
		short(p.Type) && short(p.AppId) && short(p.ContentEncoding) && short(p.UserId)
}

// headerBytes bounds the size of the content header frame from above: brokers end the
// connection when it is larger than a frame.
func headerBytes(p *amqp.Publishing) int {
	n := 64 + 8*(maxShort+1)
	for key, field := range p.Headers {
		n += len(key) + fieldBytes(field)
	}
	return n
}

func fieldBytes(field any) int {
	n := 16
	switch v := field.(type) {
	case string:
		n += len(v)
	case []byte:
		n += len(v)
	case []any:
		for _, item := range v {
			n += fieldBytes(item)
		}
	}
	return n
}
