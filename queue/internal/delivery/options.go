package delivery

import (
	"fmt"
	"strconv"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// Check refuses options that contradict each other.
func Check(o queue.SubOptions) error {
	switch {
	case o.MaxAttempts > 0 && o.DeadLetter == nil:
		return fmt.Errorf("max attempts without a dead letter topic would lose messages: %w", queue.ErrUnsupported)
	case o.Order < queue.ByOffset || o.Order > queue.ByKey:
		return fmt.Errorf("order %d: %w", o.Order, queue.ErrUnsupported)
	}
	return nil
}

// Letters makes dead letters of messages: the messages as they were, with headers that
// say why and from where. They neither wait nor expire.
func Letters(topic string, dead []Dead) []message.Message {
	out := make([]message.Message, len(dead))
	for i := range dead {
		r := &dead[i].Record
		m := r.Message
		reason := "max attempts"
		if dead[i].Expired {
			reason = "expired"
		}
		headers := make(message.Headers, 0, len(m.Headers)+3)
		headers = append(headers, m.Headers...)
		m.Headers = append(headers,
			message.Header{Name: queue.HeaderReason, Value: message.String(reason)},
			message.Header{Name: queue.HeaderTopic, Value: message.String(topic)},
			message.Header{Name: queue.HeaderAttempts, Value: message.String(strconv.Itoa(r.Attempt - 1))})
		m.Expires, m.NotBefore = time.Time{}, time.Time{}
		out[i] = m
	}
	return out
}
