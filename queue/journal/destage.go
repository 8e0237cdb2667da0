package journal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/linkspan/linkspan/message"
)

// errStopping ends a copy because the engine is being closed.
var errStopping = errors.New("the engine is being closed")

const (
	// copyGroup bounds the messages of topics that are copied in one reading of a
	// segment. A topic that has more is copied alone, chunk by chunk.
	copyGroup = 4 * mib
	// smallSegment is the size below which a topic segment is merged with what follows,
	// so that a topic with little traffic does not get a file for each journal segment.
	smallSegment = mib
	// smallFile is the size at which writing again costs no more than the sync.
	smallFile = 4 * kib
)

// destageLoop copies what is still needed of old journal segments to segments of the
// topics, so that a topic that nobody reads does not hold the journal. It works only
// when there is such a segment.
func (e *Engine) destageLoop(ctx context.Context) error {
	defer close(e.stagerDone)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	full := false
	for {
		due, err := e.destage(ctx)
		switch {
		case errors.Is(err, errStopping):
			return nil
		case isFull(err) || errors.Is(err, message.ErrDiskFull):
			if !full {
				e.log.Warn("copying to topic segments is put off: the disk is full", slog.Any("dir", e.dir))
			}
			due = time.Now().Add(retryFull)
		case errors.Is(err, errKeys):
			if !full {
				e.log.Error("copying to topic segments is put off", slog.Any("dir", e.dir), slog.Any("error", err.Error()))
			}
			due = time.Now().Add(retryFull)
		case err != nil:
			e.fail(err)
			return nil
		}
		full = err != nil
		if !due.IsZero() {
			timer.Reset(time.Until(due))
		}
		select {
		case <-e.stage:
		case <-timer.C:
		case <-e.quit:
			return nil
		}
		timer.Stop()
	}
}

// destage copies until nothing is due, and returns when something will be.
func (e *Engine) destage(ctx context.Context) (due time.Time, err error) {
	for {
		if e.stopping() {
			return due, errStopping
		}
		var s *segment
		if s, due = e.nextToCopy(); s == nil {
			break
		}
		if done, err := e.copySegment(ctx, s); err != nil {
			return due, err
		} else if !done {
			due = time.Now().Add(retryFull)
			break
		}
	}
	return due, e.rewriteSparse(ctx)
}

func (e *Engine) stopping() bool {
	select {
	case <-e.quit:
		return true
	default:
		return e.readable() != nil
	}
}

// nextToCopy returns the oldest journal segment if it is time to copy it, or else when
// it will be.
func (e *Engine) nextToCopy() (s *segment, due time.Time) {
	x := &e.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := len(x.segments)
	i := slices.IndexFunc(x.segments, func(s *segment) bool { return !s.copied })
	if i < 0 || i == n-1 {
		return nil, due
	}
	s = x.segments[i]
	due = s.sealed.Add(e.o.DestageAge)
	if n-i > e.o.DestageSegments || s.number <= x.copyThrough || !time.Now().Before(due) {
		return s, due
	}
	return nil, due
}

// rewriteSparse copies topic segments of which half of the blocks are not needed any
// more, which bounds what a few messages that nobody settles can hold.
func (e *Engine) rewriteSparse(ctx context.Context) error {
	for {
		if e.stopping() {
			return errStopping
		}
		c := e.sparse()
		if c == nil {
			return nil
		}
		if !e.hasRoom(c.sources[0].end) {
			return message.ErrDiskFull
		}
		if err := e.copyTopics(ctx, []*topicCopy{c}); err != nil {
			return err
		}
		if !c.done {
			return nil // something else changed meanwhile
		}
		e.touch()
	}
}

// sparse returns a copy of a topic segment that is worth it, or nil.
func (e *Engine) sparse() *topicCopy {
	x := &e.index
	for _, s := range x.closed() {
		if s.topic == nil {
			continue
		}
		x.mu.RLock()
		i, j := s.topic.log.within(s)
		var expired []gap
		for k := i; k < j; k++ {
			if s.topic.free(k, k+1) {
				first, end := s.topic.log.span(k, k+1)
				expired = append(expired, gap{topic: s.topic, first: first, end: end})
			}
		}
		var c *topicCopy
		if n := len(expired); 0 < n && n < j-i && 2*n >= j-i && x.holds(s) {
			c = &topicCopy{t: s.topic, sources: []*segment{s}, expired: expired}
			c.take(i, j)
		}
		x.mu.RUnlock()
		if c != nil {
			return c
		}
	}
	return nil
}
