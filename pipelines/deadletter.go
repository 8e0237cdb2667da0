package pipelines

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
)

// Headers of a dead letter. The original message keeps its own headers, payload and
// properties unchanged beside them.
const (
	headerCode     = reserved + "dead.code"
	headerStep     = reserved + "dead.step"
	headerText     = reserved + "dead.text"
	headerFile     = reserved + "dead.file"
	headerLine     = reserved + "dead.line"
	headerAttempts = reserved + "dead.attempts"
	headerOffset   = reserved + "dead.offset"
	headerPlan     = reserved + "dead.plan"
	headerSink     = reserved + "sink"
)

// laneSubscription is the subscription that the lanes of a pipeline read.
const laneSubscription = "lanes"

// deadSubscription is the subscription that holds dead letters until somebody
// decides.
const deadSubscription = "operator"

// deadLetter is a part that ends in the dead letters, until it is stored.
type deadLetter struct {
	unit *unit
	msg  message.Message
	code string
	sink int
}

// deadLetter notes that a part of u cannot go on. Sink is the index of the sink that
// refused it, or -1 when it got to none: a retry then takes the whole way again.
func (l *lane) deadLetter(u *unit, r *message.Reason, sink, attempts int) {
	m := u.record.Message
	if sink >= 0 {
		m.Headers = m.Headers.Clone()
		m.Headers.Del(headerSink) // else a retry that failed in a step keeps its sink
	}
	m = deadMessage(m, r, l.run.plan.Hash)
	m.Headers.Add(headerAttempts, message.Int(int64(attempts)))
	m.Headers.Add(headerOffset, message.Int(int64(u.record.Offset)))
	if sink >= 0 {
		m.Headers.Add(headerSink, message.String(l.run.plan.Sinks[sink].Name))
	}
	l.dead = append(l.dead, deadLetter{unit: u, msg: m, code: r.Code, sink: sink})
}

// deadMessage returns a message as it stands in the dead letters: with why.
func deadMessage(m message.Message, r *message.Reason, planHash string) message.Message {
	m.Headers = append(message.Headers{}, m.Headers...)
	m.Options = nil
	for _, h := range [...]struct{ name, value string }{
		{headerCode, r.Code}, {headerStep, r.Step}, {headerText, r.Text}, {headerFile, r.File}, {headerPlan, planHash},
	} {
		if h.value != "" {
			m.Headers.Add(h.name, message.String(h.value))
		}
	}
	m.Headers.Add(headerLine, message.Int(int64(r.Line)))
	return m
}

// storeDead stores the dead letters. When that is not possible they stay noted, and
// the lane takes nothing new until it is.
func (l *lane) storeDead(ctx context.Context) {
	for len(l.dead) > 0 {
		n, size := 0, 0
		for n < len(l.dead) && (n == 0 || size < maxTx) {
			size += l.dead[n].msg.Size()
			n++
		}
		if err := l.storeSome(ctx, l.dead[:n]); err != nil {
			if ctx.Err() == nil && time.Since(l.logged) > time.Second {
				l.logged = time.Now()
				l.run.log.LogAttrs(ctx, slog.LevelError, "dead letters cannot be stored; the lane waits", slog.String("error", err.Error()))
			}
			return
		}
		l.dead = slices.Delete(l.dead, 0, n)
	}
}

// maxTx bounds the bytes of one unit of the queue, with room for one more message.
const maxTx = 4 << 20

// storeSome publishes dead letters and acknowledges, in the same unit, the messages
// that end with them: a crash can neither lose nor double them.
func (l *lane) storeSome(ctx context.Context, dead []deadLetter) error {
	var tx queue.Tx
	pub := queue.TxPublish{Topic: l.run.dead}
	ending := map[*unit]int{}
	for i := range dead {
		pub.Messages = append(pub.Messages, dead[i].msg)
		ending[dead[i].unit]++
	}
	ack := queue.TxAck{Subscription: l.run.subscription}
	for u, parts := range ending {
		if l.tally.Parts(u.origin) == parts {
			ack.Offsets = append(ack.Offsets, u.record.Offset)
		}
	}
	tx.Publish = []queue.TxPublish{pub}
	if len(ack.Offsets) > 0 {
		tx.Ack = []queue.TxAck{ack}
	}
	if err := l.run.queue.Atomic(ctx, tx); err != nil {
		return err
	}
	for i := range dead {
		d := &dead[i]
		l.run.count.dead(d.code)
		l.run.replies.Fail(d.msg.CorrelationID, &message.Reason{Code: d.code, Text: "the request, or its reply, is in the dead letters", Permanent: true})
		l.logDead(ctx, d)
		if l.tally.Settle(d.unit.origin) {
			l.run.finished(d.unit)
		}
	}
	return nil
}

// logDead writes one line a second at most, because a broken sender must not fill the
// log; the dead letters themselves are all there to be listed.
func (l *lane) logDead(ctx context.Context, d *deadLetter) {
	now := time.Now()
	if now.Sub(l.logged) < time.Second {
		l.unlogged++
		return
	}
	l.logged = now
	h := d.msg.Headers
	attrs := []slog.Attr{
		slog.String("code", d.code), slog.String("step", h.Text(headerStep)), slog.String("reason", h.Text(headerText)),
		slog.Uint64("offset", d.unit.record.Offset),
	}
	if file := h.Text(headerFile); file != "" {
		attrs = append(attrs, slog.String("at", file+":"+h.Text(headerLine)))
	}
	if l.unlogged > 0 {
		attrs = append(attrs, slog.Int("not_logged_before", l.unlogged))
		l.unlogged = 0
	}
	l.run.log.LogAttrs(ctx, slog.LevelWarn, "dead letter", attrs...)
}

// DeadLetter is one entry of a pipeline's dead letters.
type DeadLetter struct {
	// Number identifies the entry in its pipeline.
	Number   uint64    `json:"number"`
	Pipeline string    `json:"pipeline"`
	Time     time.Time `json:"time"`
	Code     string    `json:"code"`
	Step     string    `json:"step"`
	Reason   string    `json:"reason"`
	File     string    `json:"file,omitempty"`
	Line     int       `json:"line,omitempty"`
	Source   string    `json:"source"`
	Sink     string    `json:"sink,omitempty"`
	Attempts int       `json:"attempts"`
	Offset   uint64    `json:"offset"`
	Plan     string    `json:"plan"`
	Size     int       `json:"size"`
	// Message is the original message. It is shown on request only.
	Message message.Message `json:"-"`
}

// ReadDeadLetter reads an entry from its record in the queue.
func ReadDeadLetter(pipeline string, r *queue.Record) DeadLetter {
	h := r.Message.Headers
	number := func(name string) int {
		v, _ := h.Get(name)
		i, _ := v.Any().(int)
		return i
	}
	d := DeadLetter{
		Number: r.Offset, Pipeline: pipeline, Time: r.Appended,
		Code: h.Text(headerCode), Step: h.Text(headerStep), Reason: h.Text(headerText),
		File: h.Text(headerFile), Line: number(headerLine),
		Source: r.Message.Source, Sink: h.Text(headerSink),
		Attempts: number(headerAttempts), Offset: uint64(number(headerOffset)),
		Plan: h.Text(headerPlan), Size: len(r.Message.Payload),
		Message: r.Message,
	}
	d.Message.Headers = original(h)
	return d
}

// original returns the headers that the message had when it arrived.
func original(h message.Headers) message.Headers {
	var kept message.Headers
	for _, x := range h {
		if !strings.HasPrefix(x.Name, reserved) {
			kept = append(kept, x)
		}
	}
	return kept
}
