package console

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

// Errors that say what was asked for in vain.
var (
	// ErrNoTopic means that the queue has no such topic.
	ErrNoTopic = errors.New("no such topic")
	// ErrNoDeadLetter means that there is no dead letter with this number.
	ErrNoDeadLetter = errors.New("no such dead letter")
)

// MessageQuery selects messages of a topic.
type MessageQuery struct {
	Topic string
	// From is the first offset, Since, when it is not zero, the first instant instead.
	From  uint64
	Since time.Time
	// ID, Key and Headers, each NAME=VALUE, select messages that have all of them.
	ID, Key string
	Headers []string
	// Limit bounds the answer. Default 0: no bound.
	Limit int
	// Content adds key, headers and payload.
	Content bool
}

func (q *MessageQuery) start() queue.Start {
	if q.Since.IsZero() {
		return queue.At(q.From)
	}
	return queue.Since(q.Since)
}

func (q *MessageQuery) selects(m *message.Message) bool {
	if q.ID != "" && m.ID != q.ID || q.Key != "" && string(m.Key) != q.Key {
		return false
	}
	for _, h := range q.Headers {
		name, value, _ := strings.Cut(h, "=")
		if !slices.ContainsFunc(m.Headers, func(h message.Header) bool { return h.Name == name && h.Value.Text() == value }) {
			return false
		}
	}
	return true
}

// DeadLetterQuery selects dead letters.
type DeadLetterQuery struct {
	// Pipeline is a name, empty for all.
	Pipeline string
	// Code selects entries with this code, empty for all.
	Code string
	// Limit bounds the answer. Default 0: no bound.
	Limit int
}

// Reader looks into a queue and changes nothing: beside running pipelines, or in a
// directory that was opened read-only.
type Reader struct {
	Queue queue.Engine
}

// Topics describes every topic, by name.
func (r Reader) Topics(ctx context.Context) ([]queue.TopicStats, error) {
	out := []queue.TopicStats{}
	for _, name := range r.Queue.Topics() {
		t, err := r.Queue.Topic(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, t.Stats())
	}
	return out, nil
}

// topic opens a topic that exists; queue.Engine.Topic would create it.
func (r Reader) topic(ctx context.Context, name string) (queue.Topic, error) {
	names := r.Queue.Topics()
	if !slices.Contains(names, name) {
		if len(names) == 0 {
			return nil, fmt.Errorf("%w: %q; the queue has no topic yet", ErrNoTopic, name)
		}
		return nil, fmt.Errorf("%w: %q; there are: %s", ErrNoTopic, name, strings.Join(names, ", "))
	}
	return r.Queue.Topic(ctx, name)
}

// Messages calls f with the messages that a topic holds, in order. It stops at the
// first error of f and returns it.
func (r Reader) Messages(ctx context.Context, q MessageQuery, f func(QueuedMessage) error) error {
	t, err := r.topic(ctx, q.Topic)
	if err != nil {
		return err
	}
	left := q.Limit
	for rec, err := range t.Browse(ctx, q.start()) {
		if err != nil {
			return fmt.Errorf("browse %s: %w", q.Topic, err)
		}
		if !q.selects(&rec.Message) {
			continue
		}
		view := QueuedMessage{Queue: q.Topic, Offset: rec.Offset, Appended: rec.Appended, MessageView: View(&rec.Message, q.Content)}
		if err := f(view); err != nil {
			return err
		}
		if left--; left == 0 {
			return nil
		}
	}
	return nil
}

// DeadLetters calls f with dead letters, by pipeline and oldest first. It stops at
// the first error of f and returns it.
func (r Reader) DeadLetters(ctx context.Context, q DeadLetterQuery, f func(pipelines.DeadLetter) error) error {
	names := r.pipelines()
	if q.Pipeline != "" {
		if !slices.Contains(names, q.Pipeline) {
			return noPipeline(q.Pipeline, names)
		}
		names = []string{q.Pipeline}
	}
	left := q.Limit
	for _, name := range names {
		done, err := r.deadLettersOf(ctx, name, q.Code, &left, f)
		if done || err != nil {
			return err
		}
	}
	return nil
}

// deadLettersOf lists one pipeline. Done says that the limit is reached.
func (r Reader) deadLettersOf(ctx context.Context, name, code string, left *int, f func(pipelines.DeadLetter) error) (done bool, err error) {
	t, err := r.Queue.Topic(ctx, pipelines.DeadLetterTopic(name))
	if err != nil {
		return false, err
	}
	for rec, err := range t.Browse(ctx, queue.Start{}) {
		if err != nil {
			return false, fmt.Errorf("browse the dead letters of %s: %w", name, err)
		}
		d := pipelines.ReadDeadLetter(name, &rec)
		if code != "" && d.Code != code {
			continue
		}
		if err := f(d); err != nil {
			return false, err
		}
		if *left--; *left == 0 {
			return true, nil
		}
	}
	return false, nil
}

// pipelines lists the pipelines that have a topic for dead letters.
func (r Reader) pipelines() []string {
	var names []string
	for _, topic := range r.Queue.Topics() {
		if name, ok := strings.CutSuffix(topic, pipelines.DeadLetterTopic("")); ok {
			names = append(names, name)
		}
	}
	return names
}

func noPipeline(name string, known []string) error {
	if len(known) == 0 {
		return fmt.Errorf("%w: %q; the queue knows none", pipelines.ErrUnknownPipeline, name)
	}
	return fmt.Errorf("%w: %q; there are: %s", pipelines.ErrUnknownPipeline, name, strings.Join(known, ", "))
}

// DeadLetter returns one entry with its message.
func (r Reader) DeadLetter(ctx context.Context, pipeline string, number uint64) (DeadLetterView, error) {
	if known := r.pipelines(); !slices.Contains(known, pipeline) {
		return DeadLetterView{}, noPipeline(pipeline, known)
	}
	t, err := r.Queue.Topic(ctx, pipelines.DeadLetterTopic(pipeline))
	if err != nil {
		return DeadLetterView{}, err
	}
	for rec, err := range t.Browse(ctx, queue.At(number)) {
		if err != nil {
			return DeadLetterView{}, fmt.Errorf("browse the dead letters of %s: %w", pipeline, err)
		}
		if rec.Offset != number {
			break
		}
		d := pipelines.ReadDeadLetter(pipeline, &rec)
		return DeadLetterView{DeadLetter: d, Message: View(&d.Message, true)}, nil
	}
	return DeadLetterView{}, fmt.Errorf("%w: %d of %s; it was retried, dropped or has expired", ErrNoDeadLetter, number, pipeline)
}
