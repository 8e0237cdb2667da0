package pipelines

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform/validate"
)

// reserved is the prefix of headers that linkspan itself writes. A sender's headers
// with it are removed, so that nobody outside can pretend to be a dead letter that is
// tried again.
const reserved = "linkspan."

// ingest takes responsibility for what a source received by storing it. It is the
// first hand-over: nil means that the messages are on stable storage.
type ingest struct {
	// fail ends the process when storage has failed.
	fail func(error)

	source   string
	answers  bool
	brokered bool
	schema   *schemas.Schema
	topic    queue.Topic
	// dead takes what can never be processed and comes from a broker; plan is the hash of
	// the plan that says so.
	dead  queue.Topic
	plan  string
	limit int
	count *sourceCounters
	total *counters
}

// Handle implements message.Handler.
func (h *ingest) Handle(ctx context.Context, b *message.Batch) error {
	var refused []message.Failed
	var dead []message.Message
	now := time.Now()
	for i := range b.Messages {
		m := &b.Messages[i]
		m.Source = h.source
		stripReserved(m)
		err := schedule(m, now)
		if err == nil {
			err = h.check(m)
		}
		if err == nil {
			continue
		}
		refused = append(refused, message.Failed{Index: i, Err: err})
		if r, ok := errors.AsType[*message.Reason](err); ok && h.brokered {
			dead = append(dead, deadMessage(*m, r, h.plan))
		}
	}
	good := b.Messages
	if len(refused) > 0 {
		h.count.refused.Add(uint64(len(refused) - len(dead)))
		good = without(b.Messages, refused)
	}
	if len(good) > 0 {
		if _, err := h.topic.Publish(ctx, good); err != nil {
			if errors.Is(err, queue.ErrStorageFailed) {
				h.fail(err)
			}
			return err
		}
		h.count.received.Add(uint64(len(good)))
	}
	if len(dead) > 0 {
		return h.bury(ctx, dead, refused)
	}
	if len(refused) > 0 {
		return &message.PartialError{Failed: refused}
	}
	return nil
}

// bury stores as dead letters what a broker cannot be told. What is too large for the
// queue is too large for its dead letters as well, and stays refused.
func (h *ingest) bury(ctx context.Context, dead []message.Message, refused []message.Failed) error {
	left := slices.DeleteFunc(slices.Clone(refused), func(f message.Failed) bool {
		_, isReason := errors.AsType[*message.Reason](f.Err)
		return isReason
	})
	if _, err := h.dead.Publish(ctx, dead); err != nil {
		if errors.Is(err, queue.ErrStorageFailed) {
			h.fail(err)
			return err
		}
		for i := range refused {
			if _, isReason := errors.AsType[*message.Reason](refused[i].Err); isReason {
				refused[i].Err = message.Unavailable(err) // not stored: the broker keeps it
			}
		}
		return &message.PartialError{Failed: refused}
	}
	for i := range dead {
		h.total.dead(dead[i].Headers.Text(headerCode))
	}
	if len(left) > 0 {
		return &message.PartialError{Failed: left}
	}
	return nil
}

func without(all []message.Message, refused []message.Failed) []message.Message {
	good := make([]message.Message, 0, len(all)-len(refused))
	next := 0
	for i := range all {
		if next < len(refused) && refused[next].Index == i {
			next++
			continue
		}
		good = append(good, all[i])
	}
	return good
}

func stripReserved(m *message.Message) {
	for i := range m.Headers {
		if strings.HasPrefix(m.Headers[i].Name, reserved) {
			var kept message.Headers
			for _, h := range m.Headers {
				if !strings.HasPrefix(h.Name, reserved) {
					kept = append(kept, h)
				}
			}
			m.Headers = kept
			return
		}
	}
}

// check refuses what never can be processed, where the sender can be told.
func (h *ingest) check(m *message.Message) error {
	if m.Size() > h.limit {
		return message.ErrTooLarge
	}
	if !h.answers || h.schema == nil && !isJSON(m.ContentType) {
		return nil
	}
	if err := jsonscan.Check(m.Payload); err != nil {
		return scanReason(err)
	}
	if h.schema == nil {
		return nil
	}
	if err := h.schema.ValidateScanned(m.Payload); err != nil {
		return &message.Reason{Code: validate.Code(err), Text: err.Error(), Permanent: true}
	}
	return nil
}

func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}
