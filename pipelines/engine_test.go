package pipelines_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/transform/all"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a connector whose source hands over given messages and ends, and whose
// sinks are functions.
type fake struct {
	input []message.Message
	mu    sync.Mutex
	sinks map[string]func(*message.Message) error
	got   map[string][]string // sink → what it took, in order
	calls int
	// raw, if set, is what sinks do instead.
	raw func(*message.Batch) error
	// brokered: messages come from a broker.
	brokered bool
	// keyless: masks have no key.
	keyless bool
	// hold, if set, keeps sources running after their input until it is closed.
	hold chan struct{}
	// start, if set, is called when a source starts.
	start func()
}

type fakeConfig struct {
	ID  string        `yaml:"id"`
	Opt config.Option `yaml:"opt"`
}

func (f *fake) spec() connectors.Spec {
	none := func() fakeConfig { return fakeConfig{} }
	return connectors.Spec{
		Name: "fake",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Brokered: f.brokered}, none, func(fakeConfig, connectors.Env) (connectors.Source, error) {
			return fakeSource{f}, nil
		}),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true}, none, func(c fakeConfig, _ connectors.Env) (connectors.Sink, error) {
			return &fakeSink{f: f, id: c.ID, opt: c.Opt}, nil
		}),
	}
}

type fakeSource struct{ f *fake }

func (s fakeSource) Run(ctx context.Context, next message.Handler) error {
	if s.f.start != nil {
		s.f.start()
	}
	for from := 0; from < len(s.f.input); from += 7 {
		b := message.Batch{Messages: slices.Clone(s.f.input[from:min(from+7, len(s.f.input))])}
		for i := range b.Messages {
			b.Messages[i].Priority = message.NormalPriority
		}
		if err := next.Handle(ctx, &b); err != nil {
			return err
		}
	}
	if s.f.hold != nil {
		select {
		case <-s.f.hold:
		case <-ctx.Done():
		}
	}
	return connectors.ErrEnd
}

type fakeSink struct {
	f   *fake
	id  string
	opt config.Option
}

func (s *fakeSink) Open(context.Context) error  { return nil }
func (s *fakeSink) Close(context.Context) error { return nil }

// Handle keeps the contract: after a message was not taken, later ones of its key
// are not either.
func (s *fakeSink) Handle(_ context.Context, b *message.Batch) error {
	if s.f.raw != nil {
		return s.f.raw(b)
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.calls++
	behind := map[string]bool{}
	var failed []message.Failed
	for i := range b.Messages {
		m := &b.Messages[i]
		key := string(m.Key)
		err := error(nil)
		if key != "" && behind[key] {
			err = message.ErrBehind
		} else if f := s.f.sinks[s.id]; f != nil {
			err = f(m)
		}
		if err != nil {
			behind[key] = true
			failed = append(failed, message.Failed{Index: i, Err: err})
			continue
		}
		text := string(m.Payload)
		if !s.opt.IsZero() {
			text = s.opt.Value(m.Options) + " " + text
		}
		var textSb106 strings.Builder
		for _, h := range m.Headers {
			fmt.Fprintf(&textSb106, " %s=%s", h.Name, h.Value.Text())
		}
		text += textSb106.String()
		s.f.got[s.id] = append(s.f.got[s.id], text)
	}
	if failed != nil {
		return &message.PartialError{Failed: failed}
	}
	return nil
}

// runPipeline compiles and runs a pipeline until its input has ended and is settled.
// It returns the dead letters.
func runPipeline(t *testing.T, f *fake, yaml string) []pipelines.DeadLetter {
	t.Helper()
	plan := compilePipeline(t, f, yaml)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	q := memory.New()
	defer q.Close(context.WithoutCancel(ctx))
	e, err := pipelines.New(pipelines.Options{Queue: q, DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}, []*pipelines.Plan{plan})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("not settled in time: %+v", e.Status())
	}
	dead, err := q.Topic(ctx, plan.DeadLetterTopic())
	if err != nil {
		t.Fatal(err)
	}
	var letters []pipelines.DeadLetter
	for rec, err := range dead.Browse(ctx, queue.Start{}) {
		if err != nil {
			t.Fatal(err)
		}
		d := pipelines.ReadDeadLetter(plan.Name, &rec)
		d.Message = d.Message.Clone()
		letters = append(letters, d)
	}
	return letters
}

func compilePipeline(t *testing.T, f *fake, yaml string) *pipelines.Plan {
	t.Helper()
	d, report := loadPipeline(t, f, yaml)
	if report.Failed() {
		for _, p := range report.Problems() {
			t.Error(p.Text())
		}
		t.FailNow()
	}
	return d.Plans[0]
}

func loadPipeline(t *testing.T, f *fake, yaml string) (*pipelines.Deployment, *config.Report) {
	t.Helper()
	if f.got == nil {
		f.got = map[string][]string{}
	}
	name := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := keys.New(make([]byte, keys.Size))
	if err != nil {
		t.Fatal(err)
	}
	if f.keyless {
		key = keys.None()
	}
	var report config.Report
	d := pipelines.Load([]string{name}, pipelines.Registry{
		Connectors: []connectors.Spec{f.spec()}, Steps: append(all.Specs(), boom()), Keys: key, Queue: memory.New().Caps(),
	}, config.Lookup{Env: func(string) (string, bool) { return "S3CRET", true }}, &report)
	return d, &report
}

func payloads(texts ...string) []message.Message {
	out := make([]message.Message, len(texts))
	for i, s := range texts {
		out[i] = message.Message{Payload: []byte(s), Time: time.Unix(1, 0)}
	}
	return out
}

func TestStepsAndRoutes(t *testing.T) {
	f := &fake{input: payloads(
		`{"type":"order","region":"eu","email":"a@b.c","card":"4111111111111111","n":1}`,
		`{"type":"ping"}`,
		`{"type":"order","region":"us","email":null,"n":12345678901234567890}`,
		`{"type":"order","region":"xx", "keep" : [1 , 2]}`,
		`{"type":"order","region":"nowhere"}`,
		`{"type":"order","region":"eu","email":{"x":1}}`,
		`not json`,
		`{"a":1,"a":2}`,
	)}
	dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
steps:
  - keep: payload.type == "order"
  - set:
      payload.tag: '"t-" + payload.region'
      headers.x-region: payload.region
  - mask:
      payload.email: hash
      payload.card: {partial: {last: 4}}
  - unset: [payload.n2]
route:
  - when: payload.region == "eu"
    to: eu
  - when: payload.region in ["us", "ca"]
    to: [us, audit]
  - when: payload.region == "nowhere"
    to: {drop: "we do not ship there"}
  - else: dead_letter
out:
  eu: {fake: {id: eu}}
  us:
    fake: {id: us, opt: {expr: payload.region + "/x"}}
    steps:
      - set: {payload.only: '"us"'}
  audit: {fake: {id: audit}}
delivery: {order_by: none, lanes: 1}
`)
	want := map[string][]string{
		"eu":    {`{"type":"order","region":"eu","email":"8f6a9d1b0a5c7d4f2b8f0e3f4a6b9c1d","card":"************1111","n":1,"tag":"t-eu"} x-region=eu`},
		"us":    {`us/x {"type":"order","region":"us","email":null,"n":12345678901234567890,"tag":"t-us","only":"us"} x-region=us`},
		"audit": {`{"type":"order","region":"us","email":null,"n":12345678901234567890,"tag":"t-us"} x-region=us`},
	}
	if got := f.got["eu"]; len(got) == 1 {
		if _, after, ok := strings.Cut(got[0], `"email":"`); !ok || strings.Contains(got[0], "a@b.c") || len(after) < 32 {
			t.Errorf("the address is not hashed: %s", got[0])
		} else {
			want["eu"][0] = strings.Replace(want["eu"][0], "8f6a9d1b0a5c7d4f2b8f0e3f4a6b9c1d", after[:32], 1)
		}
	}
	if diff := cmp.Diff(want, f.got); diff != "" {
		t.Error(diff)
	}
	var codes []string
	for _, d := range dead {
		codes = append(codes, d.Code+" "+d.Step)
	}
	wantCodes := []string{"LS2501 route[3].else", "LS2301 steps[2] mask", "LS2101 decode", "LS2102 decode"}
	if diff := cmp.Diff(wantCodes, codes); diff != "" {
		t.Error(diff)
	}
	if got := string(dead[0].Message.Payload); got != `{"type":"order","region":"xx", "keep" : [1 , 2]}` {
		t.Errorf("the dead letter does not hold the original bytes: %s", got)
	}
}

// Whatever sinks refuse or how long they are away, every message ends in exactly
// one way, and each sink takes the messages of a key in their order.
func TestEveryMessageEndsOnceAndInOrder(t *testing.T) {
	const n = 2000
	f := &fake{sinks: map[string]func(*message.Message) error{}}
	for i := range n {
		m := message.Message{Key: fmt.Appendf(nil, "k%d", i%17), Payload: fmt.Appendf(nil, `{"k":%d,"i":%d}`, i%17, i)}
		if i%5 == 0 {
			m.Key = nil
			m.Payload = fmt.Appendf(nil, `{"k":-1,"i":%d}`, i)
		}
		f.input = append(f.input, m)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, id := range []string{"a", "b"} {
		away := 0
		f.sinks[id] = func(m *message.Message) error {
			switch {
			case strings.HasSuffix(string(m.Payload), `13}`):
				return &message.Reason{Code: "LS9999", Text: "never"}
			case away > 0:
				away--
				return message.Unavailable(errors.New("away"))
			case rng.IntN(200) == 0:
				away = 3
				return message.Unavailable(errors.New("away"))
			case rng.IntN(100) == 0:
				return errors.New("refused this time")
			}
			return nil
		}
	}
	dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
route:
  - when: payload.i % 3 == 0
    to: [a, b]
  - else: a
out:
  a: {fake: {id: a}}
  b: {fake: {id: b}}
delivery: {lanes: 3, retry: {attempts: 4, backoff: 1ms..4ms}}
`)
	refused := 0
	for i := range n {
		if i%100 == 13 {
			refused++
			if i%3 == 0 {
				refused++
			}
		}
	}
	if len(dead) != refused {
		t.Errorf("%d dead letters, want %d", len(dead), refused)
	}
	if total, want := len(f.got["a"])+len(f.got["b"])+len(dead), n+(n+2)/3; total != want {
		t.Errorf("%d parts ended, want %d", total, want)
	}
	for id, got := range f.got {
		last := map[int]int{}
		for _, text := range got {
			var k, i int
			if _, err := fmt.Sscanf(text, `{"k":%d,"i":%d}`, &k, &i); err != nil {
				t.Fatal(err)
			}
			if k >= 0 && i <= last[k] && last[k] != 0 {
				t.Fatalf("sink %s: message %d of key %d came after %d", id, i, k, last[k])
			}
			last[k] = i
		}
	}
	t.Logf("%d messages, %d parts, %d dead letters, %d calls of sinks, 0 inversions", n, n+(n+2)/3, len(dead), f.calls)
}

// A mask that cannot be applied sends nothing to any sink.
func TestMaskFailsClosed(t *testing.T) {
	for _, payload := range []string{
		`{"ssn":true}`, `{"ssn":["078-05-1120"]}`, `{"ssn":{"v":"078-05-1120"}}`,
		`{"p":"078-05-1120"}`, `{"p":[{"x":"078-05-1120"}]}`, `{"list":{"x":"078-05-1120"}}`, `{"list":["078-05-1120"]}`,
	} {
		f := &fake{input: payloads(payload)}
		dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
steps:
  - mask: {payload.ssn: hash, payload.p.x: redact, 'payload.list[*].x': redact}
out: {a: {fake: {id: a}}}
`)
		if len(f.got["a"]) != 0 || len(dead) != 1 {
			t.Errorf("%s: delivered %v, %d dead letters", payload, f.got["a"], len(dead))
			continue
		}
		if strings.Contains(dead[0].Reason, "1120") {
			t.Errorf("%s: the reason quotes the value: %s", payload, dead[0].Reason)
		}
	}
	f := &fake{input: payloads(`{"ssn":"078-05-1120"}`), keyless: true}
	dead := runPipeline(t, f, "pipeline: p\nin: {i: {fake: {}}}\nsteps: [{mask: {payload.ssn: hash}}]\nout: {a: {fake: {id: a}}}\n")
	if len(f.got["a"]) != 0 || len(dead) != 1 || dead[0].Code != "LS2302" {
		t.Errorf("without a key: delivered %v, dead letters %+v", f.got["a"], dead)
	}
	f = &fake{input: payloads(`{"ssn":null,"list":[{"x":"secret"},{"x":null},{}]}`, `{}`)}
	runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
steps:
  - mask: {payload.ssn: hash, payload.p.x: redact, 'payload.list[*].x': redact}
out: {a: {fake: {id: a}}}
delivery: {lanes: 1}
`)
	if diff := cmp.Diff([]string{`{"ssn":null,"list":[{"x":"***"},{"x":null},{}]}`, `{}`}, f.got["a"]); diff != "" {
		t.Error(diff)
	}
}

// A message that waits longer than its sender allowed becomes a dead letter.
func TestExpiredMessages(t *testing.T) {
	f := &fake{input: payloads(`{"n":1}`, `{"n":2}`, `{"n":3}`), sinks: map[string]func(*message.Message) error{}}
	f.input[0].Expires = time.Now().Add(-time.Second)
	f.input[1].Expires = time.Now().Add(100 * time.Millisecond)
	f.sinks["a"] = func(m *message.Message) error {
		if string(m.Payload) == `{"n":2}` {
			return message.Unavailable(errors.New("away"))
		}
		return nil
	}
	dead := runPipeline(t, f, `
pipeline: p
in: {i: {fake: {}}}
out: {a: {fake: {id: a}}}
delivery: {retry: {backoff: 1ms..10ms}}
`)
	if diff := cmp.Diff([]string{`{"n":3}`}, f.got["a"]); diff != "" {
		t.Error(diff)
	}
	if len(dead) != 2 || dead[0].Code != "LS2503" || dead[1].Code != "LS2503" {
		t.Errorf("dead letters: %+v", dead)
	}
}
