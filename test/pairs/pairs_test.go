//go:build brokers

package pairs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

const (
	messages = 1000
	keyCount = 7
)

type event struct {
	K string `json:"k"`
	N int    `json:"n"`
}

// pair is one ordered pair of protocols with what arrived.
type pair struct {
	from, to peer
	unique   string
	feeding  feeding

	mu        sync.Mutex
	seen      [messages]int
	last      map[string]int
	arrived   int
	disorders int
	strange   int
}

func (p *pair) name() string   { return p.from.name + "-" + p.to.name }
func (p *pair) source() string { return "app.pairs." + p.unique + "." + p.name() + ".in" }
func (p *pair) target() string { return "app.pairs." + p.unique + "." + p.name() + ".out" }

// got notes an arrival. A message that came before is a duplicate, and says nothing of
// the order.
func (p *pair) got(payload []byte) {
	var e event
	p.mu.Lock()
	defer p.mu.Unlock()
	if json.Unmarshal(payload, &e) != nil || e.N < 0 || e.N >= messages {
		p.strange++
		return
	}
	p.seen[e.N]++
	if p.seen[e.N] > 1 {
		return
	}
	p.arrived++
	if before, ok := p.last[e.K]; ok && e.N < before {
		p.disorders++
	}
	p.last[e.K] = e.N
}

func (p *pair) missing() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return messages - p.arrived
}

func (p *pair) duplicates() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, times := range p.seen {
		n += max(0, times-1)
	}
	return n
}

func makeEvent(i int) (string, []byte) {
	key := fmt.Sprintf("k%d", i%keyCount)
	return key, fmt.Appendf(nil, `{"k":%q,"n":%d}`, key, i)
}

// partner is the HTTP endpoint behind the bridge.
type partner struct {
	pairs map[string]*pair
	away  atomic.Bool
}

func (p *partner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	to := p.pairs[strings.TrimPrefix(r.URL.Path, "/")]
	if err != nil || to == nil || p.away.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	to.got(body)
}

// gate lets the senders go on step by step.
type gate struct {
	mu      sync.Mutex
	allowed int
	changed chan struct{}
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

func (g *gate) wait(ctx context.Context, i int) error {
	for {
		g.mu.Lock()
		open, changed := i < g.allowed, g.changed
		g.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) open(upTo int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.allowed = upTo
	close(g.changed)
	g.changed = make(chan struct{})
}

// bridge is the program under test.
type bridge struct {
	binary, dir string
	cmd         *exec.Cmd
	log         bytes.Buffer
}

func (b *bridge) start(t *testing.T) {
	t.Helper()
	b.cmd = exec.Command(b.binary, "run", filepath.Join(b.dir, "pipelines"), "--data", filepath.Join(b.dir, "data"), "--admin", "127.0.0.1:0")
	b.cmd.Stdout, b.cmd.Stderr = io.Discard, &b.log
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (b *bridge) kill(t *testing.T) {
	t.Helper()
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.cmd.Wait()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// again calls f until it returns nil or ctx ends, with a breath between.
func again(ctx context.Context, f func() error) {
	for f() != nil && ctx.Err() == nil {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// Every ordered pair of protocols carries its messages through one bridge, which is
// killed once, over brokers that are restarted once each: nothing is lost and the order
// of a key holds.
func TestBrokerPairs(t *testing.T) {
	listen := freeAddress(t)
	p := &partner{pairs: map[string]*pair{}}
	server := &http.Server{Handler: p}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	group := run.NewGroup(ctx)
	group.Go("partner", func(context.Context) error { _ = server.Serve(ln); return nil })
	defer server.Close()

	all := peers(t, listen, ln.Addr().String())
	g := newGate()
	b := &bridge{dir: t.TempDir()}
	pairs := makePairs(t, all, g, b.dir, p)
	b.binary = filepath.Join(b.dir, "linkspan")
	if out, err := exec.Command("go", "build", "-o", b.binary, "../../cmd/linkspan").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, pr := range pairs {
		if pr.to.collect != nil {
			group.Go("collector", func(ctx context.Context) error {
				again(ctx, func() error { return pr.to.collect(ctx, pr.target(), pr.got) })
				return nil
			})
		}
	}
	b.start(t)
	defer func() { b.kill(t) }()
	waitListening(t, listen, &b.log)
	for _, pr := range pairs {
		group.Go("feeder", func(ctx context.Context) error {
			again(ctx, func() error { return pr.from.feed(ctx, pr.source(), &pr.feeding) })
			return nil
		})
	}

	at := 0
	step := func(n int) {
		for end := at + n; at < end; {
			at += 10
			g.open(at)
			<-time.After(100 * time.Millisecond)
		}
	}
	step(200)
	b.kill(t)
	step(50)
	b.start(t)
	step(50)
	for _, x := range all {
		if x.broker == "" {
			continue
		}
		restarting := run.NewGroup(ctx)
		restarting.Go("restart", func(context.Context) error { brokersenv.Do(t, "restart", x.broker); return nil })
		step(100)
		if err := restarting.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	p.away.Store(true)
	step(20)
	p.away.Store(false)
	g.open(messages)

	left := func() (n int) {
		for _, pr := range pairs {
			n += pr.missing()
		}
		return n
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
waiting:
	for left() > 0 {
		select {
		case <-tick.C:
		case <-limit.C:
			break waiting
		}
	}
	report(t, all, pairs)
	if t.Failed() {
		text := b.log.String()
		t.Logf("the bridge's log ends with:\n%s", text[max(0, len(text)-6000):])
	}
	group.Stop()
	_ = server.Close()
	_ = group.Wait()
}

func makePairs(t *testing.T, all []peer, g *gate, dir string, p *partner) (pairs []*pair) {
	t.Helper()
	folder := filepath.Join(dir, "pipelines")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	unique := strings.ToLower(rand.Text()[:8]) // brokers may hold what an earlier run has left
	addresses := map[string]map[string]string{}
	for _, x := range all {
		addresses[x.name] = map[string]string{}
	}
	for _, from := range all {
		for _, to := range all {
			if from.name == to.name {
				continue
			}
			pr := &pair{from: from, to: to, unique: unique, last: map[string]int{}}
			pr.feeding.n, pr.feeding.make, pr.feeding.room = messages, makeEvent, g.wait
			pairs = append(pairs, pr)
			addresses[from.name][pr.source()] = pr.name()
			addresses[to.name][pr.target()] = ""
			p.pairs[pr.target()] = pr
			yaml := fmt.Sprintf("pipeline: %s\nin:\n  i: {%s}\nroute:\n  - else: o\nout:\n  o: {%s}\ndelivery:\n  order_by: payload.k\n", pr.name(), from.in(pr.source()), strings.Replace(to.out(pr.target()), "kafka: {", "kafka: {key: payload.k, ", 1))
			if err := os.WriteFile(filepath.Join(folder, pr.name()+".yaml"), []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, x := range all {
		x.prepare(t, addresses[x.name])
	}
	return pairs
}

// waitListening waits until the bridge listens.
func waitListening(t *testing.T, address string, log *bytes.Buffer) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("the bridge does not listen on %s:\n%s", address, log.String())
		}
		<-time.After(50 * time.Millisecond)
	}
}

func report(t *testing.T, all []peer, pairs []*pair) {
	var out strings.Builder
	fmt.Fprintf(&out, "%d messages a pair: lost / out of order / duplicated\n%-10s", messages, "from \\ to")
	for _, to := range all {
		fmt.Fprintf(&out, "%14s", to.name)
	}
	for _, from := range all {
		fmt.Fprintf(&out, "\n%-10s", from.name)
		for _, to := range all {
			cell := "-"
			for _, p := range pairs {
				if p.from.name == from.name && p.to.name == to.name {
					cell = fmt.Sprintf("%d / %d / %d", p.missing(), p.disorders, p.duplicates())
					if p.missing() > 0 || p.disorders > 0 || p.strange > 0 {
						t.Errorf("%s: %d lost, %d out of order, %d strange (confirmed to the sender: %d)", p.name(), p.missing(), p.disorders, p.strange, p.feeding.confirmed.Load())
					}
				}
			}
			fmt.Fprintf(&out, "%14s", cell)
		}
	}
	brokersenv.Print(t, out.String())
}
