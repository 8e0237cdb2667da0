//go:build brokers

package pairs

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/all"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
	steps "github.com/linkspan/linkspan/transform/all"
)

// samples is the number of messages that a pair carries.
const samples = 60

// probe is a connector whose inputs send the samples, and whose outputs keep what they
// get.
type probe struct {
	mu  sync.Mutex
	got map[string][]message.Message
}

type probeConfig struct {
	Name string `yaml:"name"`
}

func (p *probe) spec() connectors.Spec {
	none := func() probeConfig { return probeConfig{} }
	everything := connectors.Traits{Redelivers: true, Confirms: true, Headers: true, Carries: connectors.Properties{
		ID: "id", CorrelationID: "correlation", ReplyTo: "reply", ContentType: "type", Priority: "priority", Expires: "expires",
		Kinds: connectors.AllKinds(), Repeats: true,
	}}
	return connectors.Spec{
		Name:   "probe",
		Source: connectors.SourceOf(everything, none, func(probeConfig, connectors.Env) (connectors.Source, error) { return probeSource{}, nil }),
		Sink:   connectors.SinkOf(everything, none, func(c probeConfig, _ connectors.Env) (connectors.Sink, error) { return &probeSink{p, c.Name}, nil }),
	}
}

type probeSource struct{}

func (probeSource) Run(ctx context.Context, next message.Handler) error {
	for i := range samples {
		if err := next.Handle(ctx, &message.Batch{Messages: []message.Message{sample(i)}}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

type probeSink struct {
	p    *probe
	name string
}

func (*probeSink) Open(context.Context) error  { return nil }
func (*probeSink) Close(context.Context) error { return nil }

func (s *probeSink) Handle(_ context.Context, b *message.Batch) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for i := range b.Messages {
		s.p.got[s.name] = append(s.p.got[s.name], b.Messages[i].Clone())
	}
	return nil
}

func headerNames() []string { return []string{"h-a", "h-b", "h-c", "h-d"} }

// sample returns message i, always the same.
func sample(i int) message.Message {
	r := rand.New(rand.NewPCG(uint64(i), 7))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	m := message.Message{
		ID:            fmt.Sprintf("id-%d", i),
		CorrelationID: pick("", "c-1", "order 7/ü", strings.Repeat("x", 200)),
		ReplyTo:       pick("", "replies.orders", "app.replies.7"),
		ContentType:   pick("", "application/json", "text/plain; charset=utf-8", "application/octet-stream"),
		Priority:      uint8(r.IntN(10)),
		Time:          time.Now(),
		Attempt:       1,
	}
	if r.IntN(2) == 0 {
		m.Expires = time.Now().Add(time.Hour)
	}
	// The bytes after the number are text, or none that a text could have.
	m.Payload = fmt.Appendf(nil, "%d:", i)
	if r.IntN(2) == 0 && !strings.HasPrefix(m.ContentType, "text/") && m.ContentType != "application/json" {
		for range r.IntN(40) {
			m.Payload = append(m.Payload, byte(r.IntN(256)))
		}
	} else {
		m.Payload = append(m.Payload, pick("", "é ✓\nline", `{"a":1.10}`)...)
	}
	for range r.IntN(6) {
		m.Headers.Add(headerNames()[r.IntN(4)], value(r))
	}
	return m
}

func value(r *rand.Rand) message.Value {
	switch r.IntN(9) {
	case 0:
		return message.Value{}
	case 1:
		return message.Bytes([]byte{0, 0xff, byte(r.IntN(256))})
	case 2:
		return message.Bool(r.IntN(2) == 0)
	case 3:
		return message.Int(r.Int64() - r.Int64())
	case 4:
		return message.Float(r.NormFloat64() * 1e10)
	case 5:
		return message.Time(time.UnixMilli(r.Int64N(4e12)))
	case 6:
		return message.String([]string{"a\r\nx-forged: 1", "nul\x00", "tab\tend ", ":\\c", "%0A"}[r.IntN(5)])
	default:
		return message.String([]string{"", "plain", "é ✓", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}[r.IntN(4)])
	}
}

// different says in what an arrival differs from what was sent, but for what the table
// of properties says.
func different(want, got *message.Message) string {
	var out []string
	note := func(what string, same bool) {
		if !same {
			out = append(out, what)
		}
	}
	note("payload", bytes.Equal(want.Payload, got.Payload))
	note("id", want.ID == got.ID)
	note("correlation id", want.CorrelationID == got.CorrelationID)
	note("reply to", want.ReplyTo == got.ReplyTo)
	note("content type "+got.ContentType, want.ContentType == got.ContentType || want.ContentType == "" && got.ContentType == "application/octet-stream")
	note("priority", want.Priority == got.Priority)
	note("expiry", want.Expires.IsZero() == got.Expires.IsZero() && want.Expires.Sub(got.Expires).Abs() < 20*time.Second)
	for _, name := range headerNames() {
		note(name, slices.Equal(values(want, name), values(got, name)))
	}
	return strings.Join(out, ", ")
}

func values(m *message.Message, name string) (out []message.Value) {
	for _, h := range m.Headers {
		if h.Name == name {
			out = append(out, h.Value)
		}
	}
	return out
}

// A message with every property goes from a sender over one protocol, through a
// pipeline, over another protocol to a receiver. It arrives as it was sent, or it is a
// dead letter that says why; nothing is lost in silence.
func TestBrokerProperties(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	p := &probe{got: map[string][]message.Message{}}
	dir := t.TempDir()
	listen := freeAddress(t)
	every := peers(t, listen, listen) // HTTP calls linkspan itself
	var names []string
	write := func(name, in, out string) {
		text := fmt.Sprintf("pipeline: %s\nin: {i: {%s}}\nroute: [{else: o}]\nout:\n  o:\n    headers: [%s]\n    %s\ndelivery: {order_by: none, retry: {attempts: 2, backoff: 10ms..20ms}}\n", name, in, strings.Join(headerNames(), ", "), out)
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unique := strings.ToLower(crand.Text()[:8]) // brokers may hold what an earlier run has left
	addresses := map[string]map[string]string{}
	for _, x := range every {
		addresses[x.name] = map[string]string{}
	}
	for _, from := range every {
		for _, to := range every {
			name := from.name + "-" + to.name
			first, second := "app.props."+unique+"."+name+".1", "app.props."+unique+"."+name+".2"
			names = append(names, name)
			addresses[from.name][first] = "b-" + name
			addresses[to.name][second] = "c-" + name
			write("a-"+name, "probe: {}", from.out(first))
			write("b-"+name, from.in(first), to.out(second))
			write("c-"+name, to.in(second), fmt.Sprintf("probe: {name: %s}", name))
		}
	}
	for _, x := range every {
		x.prepare(t, addresses[x.name])
	}
	e, done := start(ctx, t, p, dir)
	defer done()

	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	refused := map[string]map[int]string{}
	complete := func() bool {
		whole := true
		for _, name := range names {
			refused[name] = deadOf(ctx, t, e, name)
			p.mu.Lock()
			seen := map[string]bool{}
			for i := range p.got[name] {
				seen[numberOf(&p.got[name][i])] = true
			}
			p.mu.Unlock()
			whole = whole && len(seen)+len(refused[name]) >= samples
		}
		return whole
	}
waiting:
	for !complete() {
		select {
		case <-tick.C:
		case <-limit.C:
			break waiting
		}
	}
	judge(t, p, every, refused)
}

func numberOf(m *message.Message) string {
	n, _, _ := strings.Cut(string(m.Payload), ":")
	return n
}

// deadOf returns why messages of a pair were refused, by number.
func deadOf(ctx context.Context, t *testing.T, e *pipelines.Engine, name string) map[int]string {
	t.Helper()
	out := map[int]string{}
	for _, part := range []string{"a-", "b-", "c-"} {
		err := e.DeadLetters(ctx, part+name, func(d pipelines.DeadLetter) bool {
			n, _ := strconv.Atoi(numberOf(&d.Message))
			out[n] = d.Code
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func start(ctx context.Context, t *testing.T, p *probe, dir string) (*pipelines.Engine, func()) {
	t.Helper()
	q := memory.New()
	var problems config.Report
	d := pipelines.Load([]string{dir}, pipelines.Registry{
		Connectors: append(all.Specs(), p.spec()), Steps: steps.Specs(), Keys: keys.None(), Queue: q.Caps(),
	}, config.SystemLookup(), &problems)
	if problems.Failed() {
		t.Fatal(problems.Problems()[0].Text())
	}
	e, err := pipelines.New(pipelines.Options{Queue: q, DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}, d.Plans)
	if err != nil {
		t.Fatal(err)
	}
	group := run.NewGroup(ctx)
	group.Go("engine", e.Run)
	for !e.Ready() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the engine is not ready")
		}
	}
	return e, func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	}
}

func judge(t *testing.T, p *probe, every []peer, refused map[string]map[int]string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var out strings.Builder
	fmt.Fprintf(&out, "%d messages a pair: as sent / refused with a reason / lost or changed in silence\n%-10s", samples, "from \\ to")
	for _, to := range every {
		fmt.Fprintf(&out, "%14s", to.name)
	}
	for _, from := range every {
		fmt.Fprintf(&out, "\n%-10s", from.name)
		for _, to := range every {
			name := from.name + "-" + to.name
			got := map[string]*message.Message{}
			for i := range p.got[name] {
				got[numberOf(&p.got[name][i])] = &p.got[name][i]
			}
			good, silent := 0, 0
			for i := range samples {
				want := sample(i)
				arrived := got[strconv.Itoa(i)]
				switch {
				case arrived == nil && refused[name][i] != "":
				case arrived == nil:
					silent++
					t.Errorf("%s: message %d is nowhere", name, i)
				default:
					if diff := different(&want, arrived); diff != "" {
						silent++
						t.Errorf("%s: message %d has another %s", name, i, diff)
						continue
					}
					good++
				}
			}
			fmt.Fprintf(&out, "%14s", fmt.Sprintf("%d / %d / %d", good, len(refused[name]), silent))
		}
	}
	brokersenv.Print(t, out.String())
}
