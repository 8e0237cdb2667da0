package watermill

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// msg is a message with a key, the topic that it goes to, and a payload.
func msg(key, topic, payload string) message.Message {
	m := message.Message{Payload: []byte(payload), Options: []string{topic}}
	if key != "" {
		m.Key = []byte(key)
	}
	return m
}

// A batch is one call for each run of messages with one topic. What is not sent, holds
// back what is behind it.
func TestSinkPublishes(t *testing.T) {
	fail := func(err error, payloads ...string) func(string, []*wm.Message) error {
		return func(_ string, ms []*wm.Message) error {
			for _, m := range ms {
				if slices.Contains(payloads, string(m.Payload)) {
					return err
				}
			}
			return nil
		}
	}
	batch := []message.Message{msg("k", "a", "1"), msg("k", "a", "2"), msg("", "a", "3"), msg("k", "b", "4"), msg("l", "b", "5"), msg("", "a", "6")}
	const computed = `topic: {expr: payload.x, allow: [a, b]}`
	for _, c := range []struct {
		name, yaml string
		decide     func(string, []*wm.Message) error
		calls      [][]string
		failed     string
	}{
		{"all", computed, nil, [][]string{{"a: 1", "a: 2", "a: 3"}, {"b: 4", "b: 5"}, {"a: 6"}}, ""},
		{"one by one", computed + "\none_by_one: true", nil, [][]string{{"a: 1"}, {"a: 2"}, {"a: 3"}, {"b: 4"}, {"b: 5"}, {"a: 6"}}, ""},
		{"away at the second call", computed, fail(errNotNow, "5"), [][]string{{"a: 1", "a: 2", "a: 3"}}, "3 away, 4 away, 5 away"},
		{"away at the second message", computed + "\none_by_one: true", fail(errNotNow, "2"), [][]string{{"a: 1"}}, "1 away, 2 away, 3 behind, 4 away, 5 away"},
		{"away at once", computed, fail(errNotNow, "1"), nil, "all away"},
		{"one is refused", computed, fail(errNever, "2"), [][]string{{"a: 1"}, {"a: 3"}, {"b: 5"}, {"a: 6"}}, "1 LS4393, 3 behind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &pubsub{decide: c.decide}
			_, spec := owned(p)
			k := buildSink(t, spec, c.yaml)
			err := k.Handle(t.Context(), &message.Batch{Messages: batch})
			if d := cmp.Diff(c.calls, p.calls); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.failed, describe(err)); d != "" {
				t.Error(d)
			}
			for range 2 {
				if err := k.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if p.closed != 1 {
				t.Errorf("closed %d times", p.closed)
			}
		})
	}
}

func describe(err error) string {
	partial, ok := errors.AsType[*message.PartialError](err)
	switch {
	case err == nil:
		return ""
	case !ok && message.IsUnavailable(err):
		return "all away"
	case !ok:
		return err.Error()
	}
	var out []string
	for _, f := range partial.Failed {
		what := "away"
		reason, ok := errors.AsType[*message.Reason](f.Err)
		switch {
		case errors.Is(f.Err, message.ErrBehind):
			what = "behind"
		case ok && reason.Permanent:
			what = reason.Code
		case !message.IsUnavailable(f.Err):
			what = f.Err.Error()
		}
		out = append(out, string(rune('0'+f.Index))+" "+what)
	}
	return strings.Join(out, ", ")
}

// A computed topic that is empty, or hostile, goes nowhere.
func TestSinkRefusesNoTopic(t *testing.T) {
	p := &pubsub{}
	_, spec := owned(p)
	k := buildSink(t, spec, `topic: {expr: payload.x, allow: [a]}`)
	err := k.Handle(t.Context(), &message.Batch{Messages: []message.Message{msg("k", "", "1"), msg("k", "a", "2"), msg("l", "a", "3"), msg("", "a\r\nx", "4")}})
	if d := cmp.Diff("0 LS4394, 1 behind, 3 LS4394", describe(err)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"a: 3"}, p.published); d != "" {
		t.Error(d)
	}
}

// A call that does not return holds up neither the end of a context nor the order: until
// it returns there is no other.
func TestSinkDoesNotWaitForEver(t *testing.T) {
	release := make(chan struct{})
	p := &pubsub{decide: func(string, []*wm.Message) error { <-release; return nil }}
	_, spec := owned(p)
	k := buildSink(t, spec, `{topic: t, timeout: 5ms}`)
	one := &message.Batch{Messages: []message.Message{msg("k", "", "1")}}
	if got := describe(k.Handle(t.Context(), one)); got != "all away" {
		t.Fatal(got)
	}
	if err := k.Handle(t.Context(), one); err == nil || !strings.Contains(err.Error(), "has not returned yet") {
		t.Fatal(err)
	}
	close(release)
	eventually(t, "the late call", func() bool { return k.Handle(t.Context(), one) == nil })
	if err := k.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A panic of a publisher is told, so that the pipeline finds the message that it is about.
func TestSinkWhosePublisherPanics(t *testing.T) {
	p := &pubsub{decide: func(string, []*wm.Message) error { panic("x") }}
	_, spec := owned(p)
	k := buildSink(t, spec, `{topic: t}`)
	for range 2 {
		_, panicked := errors.AsType[*run.PanicError](k.Handle(t.Context(), &message.Batch{Messages: []message.Message{msg("k", "", "1")}}))
		if !panicked {
			t.Error("the panic is not told")
		}
	}
}

// What a publisher keeps is not changed by the next batch.
func TestSinkCopies(t *testing.T) {
	var kept []*wm.Message
	p := &pubsub{decide: func(_ string, ms []*wm.Message) error { kept = append(kept, ms...); return nil }}
	_, spec := owned(p)
	k := buildSink(t, spec, `{topic: t}`)
	payload := []byte("first")
	b := &message.Batch{Messages: []message.Message{{
		ID: "i", CorrelationID: "c", Payload: payload,
		Headers: message.Headers{{Name: "a", Value: message.Int(-7)}, {Name: "a", Value: message.String("2")}},
	}, {}}}
	if err := k.Handle(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	copy(payload, "again")
	if string(kept[0].Payload) != "first" || kept[0].UUID != "i" {
		t.Errorf("%s %s", kept[0].UUID, kept[0].Payload)
	}
	if d := cmp.Diff(wm.Metadata{"a": "-7", "correlation_id": "c"}, kept[0].Metadata); d != "" {
		t.Error(d)
	}
	if u := kept[1].UUID; len(u) != 36 || u[14] != '4' || strings.Count(u, "-") != 4 {
		t.Errorf("%q is no UUID of version 4", u)
	}
	kept[1].Metadata.Set("x", "y") // publishers do
}

// What writes a message may refuse it.
func TestSinkWrites(t *testing.T) {
	p := &pubsub{}
	spec := Sink(Publishing[Out]{
		Defaults: NewOut,
		Open:     func(context.Context, Out, connectors.Env) (wm.Publisher, error) { return p, nil },
		Write: func(_ Out, from *message.Message, to *wm.Message) error {
			to.Payload = append(to.Payload, '!')
			if len(from.Payload) > 1 {
				return errNever
			}
			return nil
		},
	})
	k := buildSink(t, spec, `{topic: t}`)
	err := k.Handle(t.Context(), &message.Batch{Messages: []message.Message{msg("", "", "1"), msg("", "", "22"), msg("", "", "3")}})
	if d := cmp.Diff("1 LS4393", describe(err)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"t: 1!", "t: 3!"}, p.published); d != "" {
		t.Error(d)
	}
}

// Open fails while the Pub/Sub cannot be reached, and works later.
func TestSinkThatCannotConnect(t *testing.T) {
	fails := true
	spec := Sink(Publishing[Out]{Defaults: NewOut, Open: func(context.Context, Out, connectors.Env) (wm.Publisher, error) {
		if fails {
			return nil, errNotNow
		}
		return &pubsub{}, nil
	}})
	k := buildSink(t, spec, `{topic: t}`)
	if err := k.Open(t.Context()); !errors.Is(err, errNotNow) {
		t.Error(err)
	}
	if got := describe(k.Handle(t.Context(), &message.Batch{Messages: []message.Message{{}}})); got != "all away" {
		t.Error(got)
	}
	fails = false
	if err := k.Handle(t.Context(), &message.Batch{Messages: []message.Message{{}}}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := k.Close(ctx); err != nil {
		t.Error(err)
	}
}
