package message

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Batch is an ordered list of messages that travel together. It belongs to the
// caller of Handle again, with all its bytes, when Handle returns.
type Batch struct {
	Messages []Message
}

// Len returns the number of messages.
func (b *Batch) Len() int { return len(b.Messages) }

// Handler takes responsibility for a batch.
//
// nil means: it is mine now, you may acknowledge it upstream. A *PartialError
// means the same for every message that it does not name. Any other error means
// that nothing was taken over.
//
// Handle is called concurrently; the calls of one caller keep their order. It
// blocks while there is no room (back-pressure) and returns early when ctx ends.
type Handler interface {
	Handle(ctx context.Context, b *Batch) error
}

// HandlerFunc lets a function be a Handler.
type HandlerFunc func(ctx context.Context, b *Batch) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, b *Batch) error { return f(ctx, b) }

// PartialError names the messages of a batch that were not taken over. All others
// were.
type PartialError struct {
	Failed []Failed
}

// Failed is one message that was not taken over, and why.
type Failed struct {
	// Index is the position in the batch.
	Index int
	// Err says why. See [Unavailable] for what it means to a retry.
	Err error
}

// Error implements error.
func (e *PartialError) Error() string {
	if len(e.Failed) == 0 {
		return "no message failed"
	}
	return fmt.Sprintf("%d messages failed, the first: %v", len(e.Failed), e.Failed[0].Err)
}

// Unwrap returns the reasons, for errors.Is and errors.As.
func (e *PartialError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}

// UnavailableError says that the peer, not the message, is at fault: a refused
// connection, a time-out, HTTP 429 or 5xx. The message waits and no attempt is
// counted.
type UnavailableError struct {
	// Err is the cause.
	Err error
	// After is how long the peer asked to be left alone. Zero: it did not say.
	After time.Duration
}

// Error implements error.
func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Unavailable marks err as the peer's fault. It returns nil for nil.
func Unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &UnavailableError{Err: err}
}

// IsUnavailable reports whether err is, or wraps, an *UnavailableError or ErrBehind,
// or is the end of a context: in all of these the message did nothing wrong.
func IsUnavailable(err error) bool {
	var u *UnavailableError
	return errors.As(err, &u) || errors.Is(err, ErrBehind) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// ErrBehind is the reason of a message that a sink did not try, because an earlier
// message of the batch with the same Key was not taken.
var ErrBehind = errors.New("an earlier message with the same key was not taken")

// Reason says why a message could not go on. It is what dead letters, logs and
// spans carry, so none of its fields may quote the message's data.
type Reason struct {
	// Code is the stable code, such as LS2101.
	Code string
	// Step names the step, route or sink: "steps[2] mask", "out.eu".
	Step string
	// File and Line point at the YAML that decided.
	File string
	Line int
	// Text says what went wrong and where in the message (a path, never a value).
	Text string
	// Permanent ends all retries.
	Permanent bool
}

// Error implements error.
func (r *Reason) Error() string {
	switch {
	case r.File != "" && r.Step != "":
		return fmt.Sprintf("%s: %s (%s, %s:%d)", r.Code, r.Text, r.Step, r.File, r.Line)
	case r.Step != "":
		return fmt.Sprintf("%s: %s (%s)", r.Code, r.Text, r.Step)
	default:
		return fmt.Sprintf("%s: %s", r.Code, r.Text)
	}
}

// ErrFull means that there is no room for the moment; the sender should come back.
var ErrFull = errors.New("no room for the moment")

// ErrDiskFull means that the disk has no room; consumers go on and free it.
var ErrDiskFull = errors.New("the disk is full")

// ErrTooLarge means that the message is larger than the limit and never will fit.
var ErrTooLarge = errors.New("the message is too large")
