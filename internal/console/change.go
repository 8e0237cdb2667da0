package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

// ErrInUse means that a running pipeline needs what was to be removed.
var ErrInUse = errors.New("a running pipeline uses it")

// QueueChange is an order of an operator about a topic.
type QueueChange struct {
	// Do is purge, delete, seek, unsubscribe, resume, shred or rotate.
	Do    string `json:"do"`
	Topic string `json:"topic,omitempty"`
	// KeyFile is for rotate: a file with the next master key. Empty: the same one stays.
	KeyFile string `json:"key_file,omitempty"`
	// Subscription is for seek and unsubscribe.
	Subscription string `json:"subscription,omitempty"`
	// Place is for purge (all before it) and seek (from it on).
	Place
}

// check refuses an order that cannot be carried out, whatever the queue holds.
func (c *QueueChange) check() error {
	switch c.Do {
	case "purge", "seek":
		_, err := c.Start()
		return err
	case "delete", "unsubscribe", "resume", "shred", "rotate":
		return nil
	}
	return fmt.Errorf("there is no order %q; there are purge, seek, delete, unsubscribe, resume, shred and rotate", c.Do)
}

// Place is a place in a topic as an operator says it: exactly one of its fields is set.
type Place struct {
	// Offset is a message's number.
	Offset *uint64 `json:"offset,omitempty"`
	// Since is the first message that was taken at or after it.
	Since time.Time `json:"since,omitzero"`
	// Earliest and Latest are the ends of the topic.
	Earliest bool `json:"earliest,omitempty"`
	Latest   bool `json:"latest,omitempty"`
}

// Start returns the place for the queue.
func (p *Place) Start() (s queue.Start, err error) {
	n := 0
	if p.Offset != nil {
		n, s = n+1, queue.At(*p.Offset)
	}
	if !p.Since.IsZero() {
		n, s = n+1, queue.Since(p.Since)
	}
	if p.Latest {
		n, s = n+1, queue.Latest()
	}
	if p.Earliest {
		n, s = n+1, queue.Start{}
	}
	if n != 1 {
		return s, errors.New("exactly one of offset, since, earliest and latest says where")
	}
	return s, nil
}

// resumer is an engine whose topics can be held.
type resumer interface {
	Resume(ctx context.Context, topic string) error
}

// shredder is an engine that encrypts.
type shredder interface {
	Shred(ctx context.Context, topic string) error
}

// Writer changes a queue: beside running pipelines, or a stopped directory.
type Writer struct {
	Queue queue.Engine
	// Running are the pipelines whose topics are in use.
	Running []string
	// Rotate is for the order rotate.
	Rotate func(ctx context.Context, keyFile string) error
}

// Change carries out an order. It returns when that is stable.
func (w Writer) Change(ctx context.Context, c QueueChange) error {
	if err := c.check(); err != nil {
		return err
	}
	switch c.Do {
	case "rotate":
		if w.Rotate == nil {
			return fmt.Errorf("rotate keys: %w", queue.ErrUnsupported)
		}
		return w.Rotate(ctx, c.KeyFile)
	case "shred": // also of a topic of which only keys are left
		return w.shred(ctx, c.Topic)
	}
	t, err := Reader{w.Queue}.topic(ctx, c.Topic)
	if err != nil {
		return err
	}
	switch c.Do {
	case "purge":
		before, err := c.Start()
		if err != nil {
			return err
		}
		return t.Purge(ctx, before)
	case "seek":
		return w.seek(ctx, t, &c)
	case "delete":
		if err := w.unused(c.Topic); err != nil {
			return err
		}
		return w.Queue.Delete(ctx, c.Topic)
	case "unsubscribe":
		if err := w.unused(c.Topic); err != nil {
			return err
		}
		return t.Unsubscribe(ctx, c.Subscription)
	default: // resume
		if r, ok := w.Queue.(resumer); ok {
			return r.Resume(ctx, c.Topic)
		}
		return fmt.Errorf("resume topic %q: %w", c.Topic, queue.ErrUnsupported)
	}
}

func (w Writer) shred(ctx context.Context, topic string) error {
	if err := w.unused(topic); err != nil {
		return err
	}
	if s, ok := w.Queue.(shredder); ok {
		return s.Shred(ctx, topic)
	}
	return fmt.Errorf("shred topic %q: %w", topic, queue.ErrUnsupported)
}

// unused refuses to take away what a running pipeline needs.
func (w Writer) unused(topic string) error {
	for _, name := range w.Running {
		if topic == name || topic == pipelines.DeadLetterTopic(name) {
			return fmt.Errorf("topic %q: %w; stop it first", topic, ErrInUse)
		}
	}
	return nil
}

func (w Writer) seek(ctx context.Context, t queue.Topic, c *QueueChange) error {
	to, err := c.Start()
	if err != nil {
		return err
	}
	subs := t.Stats().Subscriptions
	known := slices.ContainsFunc(subs, func(s queue.SubStats) bool { return s.Name == c.Subscription })
	if !known {
		return fmt.Errorf("seek in topic %q, subscription %q: %w", c.Topic, c.Subscription, queue.ErrUnknownSubscription)
	}
	// For one that a pipeline has open this is the pipeline's own object.
	s, err := t.Subscribe(ctx, c.Subscription, queue.SubOptions{})
	if err != nil {
		return err
	}
	return s.Seek(ctx, to)
}

func (s *Server) change(w http.ResponseWriter, r *http.Request) {
	var c QueueChange
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		fail(w, http.StatusBadRequest, `the body must be like {"do":"purge","topic":"orders","latest":true}: `+err.Error())
		return
	}
	if err := c.check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	e := s.pipelines()
	if e == nil {
		fail(w, http.StatusServiceUnavailable, "the pipelines have not started yet; try again in a moment")
		return
	}
	writer := Writer{Queue: s.reader.Queue, Rotate: s.o.Rotate}
	for _, p := range e.Status() {
		writer.Running = append(writer.Running, p.Name)
	}
	if err := writer.Change(r.Context(), c); err != nil {
		failWith(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]bool{"done": true})
}

// Change carries out an order in the running process.
func (c *Client) Change(ctx context.Context, change QueueChange) error {
	var done map[string]bool
	return c.object(ctx, http.MethodPost, "/api/v1/queue/change", change, &done)
}
