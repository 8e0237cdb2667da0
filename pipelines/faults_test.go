package pipelines_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/transform"
)

// boom is a step with a bug: it panics on messages that say so.
func boom() transform.Spec {
	return transform.Spec{Name: "boom", Compile: func(config.Node, *transform.Compiler) transform.Step { return boomStep{} }}
}

type boomStep struct{}

func (boomStep) Apply(_ context.Context, b *transform.Batch) {
	for _, it := range b.Items {
		if bytes.Contains(it.Message.Payload, []byte("boom")) {
			panic("boom")
		}
	}
}

// live runs a plan on a queue while f does something to it, and stops it.
func live(t *testing.T, q queue.Engine, plan *pipelines.Plan, f func(*pipelines.Engine)) error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	e, err := pipelines.New(pipelines.Options{Queue: q, DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}, []*pipelines.Plan{plan})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	eventually(t, "ready", func() bool { return e.Ready() || len(done) > 0 })
	f(e)
	stop()
	return <-done
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); {
		if time.Since(began) > time.Minute {
			t.Fatalf("%s: not in time", what)
		}
		<-time.After(time.Millisecond)
	}
}

// A panic of a step fails the message that it panics on; the others go on, in order.
func TestPanickingSteps(t *testing.T) {
	for name, yaml := range map[string]string{
		"pipeline": "steps: [{boom: x}]\nout: {a: {fake: {id: a}}}\n",
		"sink":     "out: {a: {fake: {id: a}, steps: [{boom: x}, {mask: {payload.ssn: redact}}]}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{input: payloads(`{"n":1}`, `{"n":"boom"}`, `{"n":3,"ssn":"078"}`), sinks: map[string]func(*message.Message) error{}}
			for i := range f.input {
				f.input[i].Key = []byte("k")
			}
			refused := false
			f.sinks["a"] = func(m *message.Message) error {
				if !refused && strings.Contains(string(m.Payload), "1") {
					refused = true
					return errors.New("not now")
				}
				return nil
			}
			dead := runPipeline(t, f, "pipeline: p\nin: {i: {fake: {}}}\n"+yaml+"delivery: {lanes: 1, retry: {backoff: 1ms..2ms}}\n")
			want := []string{`{"n":1}`, `{"n":3,"ssn":"078"}`}
			if name == "sink" {
				want[1] = `{"n":3,"ssn":"***"}`
			}
			if diff := cmp.Diff(want, f.got["a"]); diff != "" {
				t.Error(diff)
			}
			if len(dead) != 1 || dead[0].Code != "LS2299" {
				t.Errorf("dead letters: %+v", dead)
			}
		})
	}
}

// A connector that panics, or that names its failures wrongly, loses nothing.
func TestBrokenSinks(t *testing.T) {
	yaml := "pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {id: a}}}\ndelivery: {lanes: 1, retry: {attempts: 2, backoff: 1ms..2ms}}\n"
	f := &fake{input: payloads("one", "boom", "three")}
	var took []string
	f.raw = func(b *message.Batch) error {
		for i := range b.Messages {
			if string(b.Messages[i].Payload) == "boom" {
				panic("boom")
			}
		}
		for i := range b.Messages {
			took = append(took, string(b.Messages[i].Payload))
		}
		return nil
	}
	dead := runPipeline(t, f, yaml)
	if diff := cmp.Diff([]string{"one", "three"}, took); diff != "" || len(dead) != 1 {
		t.Errorf("%s%d dead letters", diff, len(dead))
	}
	f = &fake{input: payloads("one")}
	f.raw = func(*message.Batch) error { return &message.PartialError{Failed: []message.Failed{{Index: 0}}} }
	if dead := runPipeline(t, f, yaml); len(dead) != 1 {
		t.Errorf("a failure without a reason gave %d dead letters", len(dead))
	}
	f = &fake{input: payloads("one")}
	calls := 0
	f.raw = func(*message.Batch) error {
		if calls++; calls > 3 {
			return nil
		}
		return &message.PartialError{Failed: []message.Failed{{Index: 7, Err: errors.New("x")}}}
	}
	if dead := runPipeline(t, f, yaml); len(dead) != 0 || calls != 4 {
		t.Errorf("a failure of another message: %d dead letters, %d calls", len(dead), calls)
	}
	f = &fake{input: payloads("one"), sinks: map[string]func(*message.Message) error{}}
	tries := 0
	f.sinks["a"] = func(*message.Message) error { tries++; return message.ErrTooLarge }
	if dead := runPipeline(t, f, yaml); len(dead) != 1 || tries != 1 {
		t.Errorf("a message that never fits was tried %d times", tries)
	}
}

// A source that panics is started again.
func TestPanickingSource(t *testing.T) {
	f := &fake{input: payloads("one")}
	starts := 0
	f.start = func() {
		if starts++; starts == 1 {
			panic("boom")
		}
	}
	runPipeline(t, f, "pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {id: a}}}\n")
	if diff := cmp.Diff([]string{"one"}, f.got["a"]); diff != "" {
		t.Error(diff)
	}
}

// More and larger dead letters than one unit of the queue holds are stored all the same.
func TestLargeDeadLetters(t *testing.T) {
	q, err := journal.Open(t.Context(), t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close(context.WithoutCancel(t.Context()))
	f := &fake{}
	for range 10 {
		f.input = append(f.input, message.Message{Payload: bytes.Repeat([]byte("x"), 15<<20)})
	}
	plan := compilePipeline(t, f, "pipeline: p\nin: {i: {fake: {}}}\nsteps: [{keep: payload.a == 1}]\nout: {a: {fake: {id: a}}}\n")
	err = live(t, q, plan, func(e *pipelines.Engine) {
		eventually(t, "stored", func() bool { return e.Status()[0].DeadLetters == 10 })
	})
	if err != nil {
		t.Error(err)
	}
}

// Dead letters that several people retry at once come once, and go to the sink that
// refused them and to no other.
func TestRetryDeadLetters(t *testing.T) {
	q := memory.New()
	defer q.Close(context.WithoutCancel(t.Context()))
	f := &fake{input: payloads(`{"n":1}`, `{"n":2}`), sinks: map[string]func(*message.Message) error{}, hold: make(chan struct{})}
	var refuse atomic.Bool
	refuse.Store(true)
	f.sinks["b"] = func(*message.Message) error {
		if refuse.Load() {
			return &message.Reason{Code: "LS9999", Text: "no", Permanent: true}
		}
		return nil
	}
	yaml := "pipeline: p\nin: {i: {fake: {}}}\nsteps: [{keep: CONDITION}]\nroute: [{else: [a, b]}]\nout: {a: {fake: {id: a}}, b: {fake: {id: b}}}\n"
	good := compilePipeline(t, f, strings.Replace(yaml, "CONDITION", "payload.n > 0", 1))
	bad := compilePipeline(t, f, strings.Replace(yaml, "CONDITION", "payload.x.y > 0", 1))
	retry := func(e *pipelines.Engine) {
		var numbers []uint64
		if err := e.DeadLetters(t.Context(), "p", func(d pipelines.DeadLetter) bool {
			numbers = append(numbers, d.Number)
			return d.Sink == "b" || t.Failed()
		}); err != nil || len(numbers) != 2 {
			t.Fatalf("%d dead letters: %v", len(numbers), err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = e.RetryDeadLetters(t.Context(), "p", numbers) })
		}
		wg.Wait()
	}
	deadIs := func(e *pipelines.Engine, n uint64) func() bool {
		return func() bool { s := e.Status()[0]; return s.DeadLetters == n && s.Backlog == 0 }
	}
	_ = live(t, q, good, func(e *pipelines.Engine) { eventually(t, "refused", deadIs(e, 2)) })
	f.input = nil
	_ = live(t, q, bad, func(e *pipelines.Engine) { // a step fails now: the dead letters still belong to b
		retry(e)
		eventually(t, "dead again", deadIs(e, 2))
	})
	refuse.Store(false)
	_ = live(t, q, good, func(e *pipelines.Engine) {
		retry(e)
		eventually(t, "delivered", deadIs(e, 0))
	})
	want := map[string][]string{"a": {`{"n":1}`, `{"n":2}`}, "b": {`{"n":1}`, `{"n":2}`}}
	if diff := cmp.Diff(want, f.got); diff != "" {
		t.Error(diff)
	}
}

// What has expired is delivered when somebody says so.
func TestRetryOfWhatHasExpired(t *testing.T) {
	q := memory.New()
	defer q.Close(context.WithoutCancel(t.Context()))
	f := &fake{input: payloads(`{}`), sinks: map[string]func(*message.Message) error{}, hold: make(chan struct{})}
	f.input[0].Expires = time.Now().Add(-time.Hour)
	plan := compilePipeline(t, f, "pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {id: a}}}\n")
	_ = live(t, q, plan, func(e *pipelines.Engine) {
		eventually(t, "dead", func() bool { return e.Status()[0].DeadLetters == 1 })
		if n, err := e.RetryDeadLetters(t.Context(), "p", []uint64{0}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		eventually(t, "settled", func() bool { s := e.Status()[0]; return s.Backlog == 0 })
	})
	if diff := cmp.Diff(map[string][]string{"a": {`{}`}}, f.got); diff != "" {
		t.Error(diff)
	}
}

// A slow lane holds up its own keys only.
func TestSlowLane(t *testing.T) {
	f := &fake{hold: make(chan struct{})}
	for i := range 100 {
		key := "slow"
		if i%4 != 0 {
			key = strconv.Itoa(i)
		}
		f.input = append(f.input, message.Message{Key: []byte(key), Payload: []byte(key)})
	}
	release := make(chan struct{})
	var others atomic.Int32
	f.raw = func(b *message.Batch) error {
		for i := range b.Messages {
			if string(b.Messages[i].Payload) == "slow" {
				<-release
				continue
			}
			others.Add(1)
		}
		return nil
	}
	plan := compilePipeline(t, f, "pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {id: a}}}\ndelivery: {lanes: 8}\n")
	q := memory.New()
	defer q.Close(context.WithoutCancel(t.Context()))
	_ = live(t, q, plan, func(*pipelines.Engine) {
		eventually(t, "the other lanes", func() bool { return others.Load() > 50 })
		close(release)
	})
}

// The backlog of an input that is gone does not slip past that input's steps.
func TestBacklogOfARenamedInput(t *testing.T) {
	q := memory.New()
	defer q.Close(context.WithoutCancel(t.Context()))
	f := &fake{input: payloads(`{"ssn":"078"}`), hold: make(chan struct{})}
	var away atomic.Bool
	away.Store(true)
	f.sinks = map[string]func(*message.Message) error{"a": func(*message.Message) error {
		if away.Load() {
			return message.Unavailable(errors.New("away"))
		}
		return nil
	}}
	yaml := "pipeline: p\nin: {NAME: {fake: {}, steps: [{mask: {payload.ssn: redact}}]}}\nout: {a: {fake: {id: a}}}\n"
	_ = live(t, q, compilePipeline(t, f, strings.Replace(yaml, "NAME", "one", 1)), func(e *pipelines.Engine) {
		eventually(t, "stored", func() bool { return e.Status()[0].Backlog == 1 })
	})
	away.Store(false)
	f.input = nil
	_ = live(t, q, compilePipeline(t, f, strings.Replace(yaml, "NAME", "two", 1)), func(e *pipelines.Engine) {
		eventually(t, "a dead letter", func() bool { return e.Status()[0].DeadLetters == 1 })
	})
	if len(f.got["a"]) > 0 {
		t.Errorf("delivered: %v", f.got["a"])
	}
}

// A header that one input's set writes does not open the sinks for a sender's header
// of that name.
func TestSendersHeadersStay(t *testing.T) {
	f := &fake{input: payloads(`{}`)}
	f.input[0].Headers = message.Headers{{Name: "tenant", Value: message.String("spoofed")}, {Name: "linkspan.sink", Value: message.String("a")}}
	runPipeline(t, f, "pipeline: p\nin:\n  one: {fake: {}, steps: [{set: {headers.tenant: '\"mine\"'}}]}\n  two: {fake: {}}\nout: {a: {fake: {id: a}}}\ndelivery: {lanes: 1}\n")
	var mine, bare int
	for _, got := range f.got["a"] {
		switch got {
		case "{} tenant=mine":
			mine++
		case "{}":
			bare++
		}
	}
	if mine != 1 || bare != 1 {
		t.Errorf("delivered: %q", f.got["a"])
	}
}

// What cannot work is refused before anything starts, and no secret is shown.
func TestRefusedFiles(t *testing.T) {
	base := "pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {id: a}}}\n"
	for yaml, code := range map[string]string{
		base + "route: [{else: {drop: \"\"}}]\n":                                          "LS1313",
		base + "route: [{else: }]\n":                                                      "LS1313",
		base + "route: [{when: true, to: a}]\n":                                           "LS1312",
		base + "route: [{else: b}]\n":                                                     "LS1313",
		base + "delivery: {dead_letter: {keep: 0s}}\n":                                    "LS1327",
		base + "delivery: {dead_letter: {keep: nand}}\n":                                  "LS1110",
		base + "delivery: {max_in_flight: 9223372036854775807}\n":                         "LS1327",
		base + "delivery: {guarantee: at-least-once}\n":                                   "LS1328",
		base + "delivery: {retry: {backoff: '${env:X}'}}\n":                               "LS1110",
		base + "delivery: {guarantee: '${env:X}'}\n":                                      "LS1327",
		base + "schemas: [a]\n":                                                           "LS1110",
		base + "steps: [{set: {'headers[\"linkspan.sink\"]': '\"a\"'}}]\n":                "LS1301",
		base + "steps: [{set: {payload.a: 1, payload.a.b: 2}}]\n":                         "LS1304",
		base + "steps: [{unset: ['payload.l[0]', 'payload.l[1]']}]\n":                     "LS1304",
		base + "steps: [{mask: {payload.a: {partial: {first: 99999999}}}}]\n":             "LS1305",
		base + "steps: [{mask: {payload.a: drop}}]\n":                                     "LS1305",
		base + "steps: [null]\n":                                                          "LS1322",
		"pipeline: ${env:X}\nin: {i: {fake: {}}}\nout: {a: {fake: {id: a}}}\n":            "LS1320",
		"pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {opt: null}}}\n":               "LS1110",
		"pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {}, headers: [null]}}\n":       "LS1110",
		"pipeline: p\nin: {i: {fake: {}}}\nout: {a: {fake: {}}, b: {fake: {}}}\n":         "LS1310",
		"pipeline: p\nin: {i: {}}\nout: {a: {fake: {}}}\n":                                "LS1325",
		"pipeline: p\nin: {i: {fake: {}, as: nothing}}\nout: {a: {fake: {}}}\n":           "LS1306",
		"pipeline: p\nin: {i: {fake: {}}}\nout: {dead_letter: {fake: {}}}\n":              "LS1320",
		"in: {i: {fake: {}}}\npipeline: p\nout: {a: {fake: {}}}\n":                        "LS1114",
		"pipeline: p\nschemas: {s: no.json}\nin: {i: {fake: {}}}\nout: {a: {fake: {}}}\n": "LS1401",
	} {
		_, report := loadPipeline(t, &fake{}, yaml)
		found := false
		for _, p := range report.Problems() {
			found = found || p.Code == code && p.Severity == config.Error && p.Line > 0
			if strings.Contains(p.Text(), "S3CRET") {
				t.Errorf("a secret is shown:\n%s", p.Text())
			}
		}
		if !found {
			t.Errorf("%s\nwant %s, got %v", yaml, code, report.Problems())
		}
	}
}

// A message from a broker that can never be processed becomes a dead letter; its
// neighbours go on.
func TestBrokeredMessageThatCannotBeProcessed(t *testing.T) {
	f := &fake{input: payloads("a", "b", "c"), brokered: true}
	f.input[1].Headers = message.Headers{{Name: "x", Value: message.String("1")}, {Name: "linkspan-priority", Value: message.String("ten")}}
	dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
out: {a: {fake: {id: a}}}
`)
	if diff := cmp.Diff(map[string][]string{"a": {"a", "c"}}, f.got); diff != "" {
		t.Error(diff)
	}
	if len(dead) != 1 || dead[0].Code != "LS2108" || string(dead[0].Message.Payload) != "b" || dead[0].Message.Headers.Text("linkspan-priority") != "ten" {
		t.Errorf("dead letters: %+v", dead)
	}
}
