package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	kills = flag.Int("kills", 8, "how often TestKill kills the bridge")
	seed  = flag.Uint64("seed", 0, "seed of TestKill; 0: from the clock")
)

// event is what the publishers send: number n of key k.
type event struct {
	K string `json:"k"`
	N int    `json:"n"`
}

// partner is the system behind the bridge. It can be slow or away, and remembers
// what it took in the order of arrival.
type partner struct {
	mode atomic.Int32 // 0 up, 1 slow, 2 away
	mu   sync.Mutex
	took []event
}

func (p *partner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e event
	if err != nil || json.Unmarshal(body, &e) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch p.mode.Load() {
	case 1:
		select {
		case <-time.After(2 * time.Millisecond):
		case <-r.Context().Done():
		}
	case 2:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	p.mu.Lock()
	p.took = append(p.took, e)
	p.mu.Unlock()
}

// ledger is what was acknowledged to the publishers.
type ledger struct {
	mu    sync.Mutex
	acked map[string]int // key → messages 1..n are acknowledged
}

func (l *ledger) ack(k string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[k] = max(l.acked[k], n)
}

func (l *ledger) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, v := range l.acked {
		n += v
	}
	return n
}

// bridge is the program under test.
type bridge struct {
	binary, dir  string
	http, mqtt   string
	cmd          *exec.Cmd
	log          bytes.Buffer
	partnerURL   string
	readyTimings []time.Duration
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newBridge(t *testing.T, partnerURL string) *bridge {
	t.Helper()
	b := &bridge{dir: t.TempDir(), http: freePort(t), mqtt: freePort(t), partnerURL: partnerURL}
	b.binary = filepath.Join(b.dir, "linkspan")
	if out, err := exec.Command("go", "build", "-o", b.binary, "../cmd/linkspan").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	yaml := fmt.Sprintf(`
pipeline: kill
in:
  web: {http: {listen: %q, path: /in}}
  bus: {mqtt: {listen: %q, topics: [in]}}
route:
  - else: partner
out:
  partner: {http: {url: %q}}
delivery:
  order_by: payload.k
  retry: {backoff: 5ms..50ms}
`, b.http, b.mqtt, partnerURL)
	if err := os.WriteFile(filepath.Join(b.dir, "kill.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// start runs the bridge and waits until it listens.
func (b *bridge) start(t *testing.T) {
	t.Helper()
	b.cmd = exec.Command(b.binary, "run", filepath.Join(b.dir, "kill.yaml"), "--data", filepath.Join(b.dir, "data"), "--admin", "")
	b.cmd.Stderr = &b.log
	began := time.Now()
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for time.Since(began) < 20*time.Second {
		if c, err := net.Dial("tcp", b.mqtt); err == nil {
			c.Close()
			b.readyTimings = append(b.readyTimings, time.Since(began))
			return
		}
		if b.cmd.ProcessState != nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("the bridge does not start:\n%s", tail(b.log.String()))
}

func (b *bridge) kill(t *testing.T) {
	t.Helper()
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.cmd.Wait()
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// publishHTTP sends the numbers of one key, each until it is acknowledged.
func publishHTTP(ctx context.Context, url, key string, l *ledger) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	for n := 1; ctx.Err() == nil; {
		body, _ := json.Marshal(event{key, n})
		resp, err := client.Post(url, "application/json", bytes.NewReader(body))
		if err != nil {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusAccepted {
			l.ack(key, n)
			n++
		}
	}
}

// publishMQTT sends the numbers of one key at QoS 1 with several in flight. After a
// reconnect it sends what was not acknowledged again, in order, as MQTT 3.1.1 §4.6
// asks of a client; the usual Go client does not.
func publishMQTT(ctx context.Context, addr, key string, l *ledger) {
	const window = 8
	acked := 0 // 1..acked are acknowledged
	for ctx.Err() == nil {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		acked = mqttSession(c, key, acked, window, l)
		stop()
		c.Close()
	}
}

// mqttSession publishes from acked+1 on until the connection is lost, and returns
// the highest number that was acknowledged.
func mqttSession(c net.Conn, key string, acked, window int, l *ledger) int {
	connect := append([]byte("\x00\x04MQTT\x04\x00\x00\x3c\x00"), byte(len(key)))
	connect = append(connect, key...)
	if _, err := c.Write(append([]byte{0x10, byte(len(connect))}, connect...)); err != nil {
		return acked
	}
	in := bufio.NewReader(c)
	if connack := make([]byte, 4); readFull(in, connack) != nil || connack[3] != 0 {
		return acked
	}
	next := acked + 1
	for {
		for ; next <= acked+window; next++ {
			body, _ := json.Marshal(event{key, next})
			id := next % 60000
			packet := append([]byte{0x32, byte(2 + 2 + 2 + len(body)), 0, 2, 'i', 'n', byte((id + 1) >> 8), byte(id + 1)}, body...)
			if _, err := c.Write(packet); err != nil {
				return acked
			}
		}
		puback := make([]byte, 4)
		if readFull(in, puback) != nil || puback[0] != 0x40 || int(puback[2])<<8|int(puback[3]) != (acked+1)%60000+1 {
			return acked
		}
		acked++
		l.ack(key, acked)
	}
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	return err
}

// TestKill kills the bridge at random moments under HTTP and MQTT QoS 1 load, with
// the partner up, slow (a backlog) and away. Nothing that was acknowledged may be
// lost, a key keeps its order, and duplicates stay within what was in flight.
func TestKill(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	rng := rand.New(rand.NewPCG(s, 7))
	p := &partner{}
	server := httptest.NewServer(p)
	defer server.Close()
	b := newBridge(t, server.URL)
	b.start(t)
	ctx, stop := context.WithCancel(t.Context())
	l := &ledger{acked: map[string]int{}}
	var publishers sync.WaitGroup
	for i := range 6 {
		publishers.Go(func() { publishHTTP(ctx, "http://"+b.http+"/in", fmt.Sprintf("h%d", i), l) })
		publishers.Go(func() { publishMQTT(ctx, b.mqtt, fmt.Sprintf("m%d", i), l) })
	}
	for i := range *kills {
		p.mode.Store(int32(i % 3))
		time.Sleep(time.Duration(20+rng.IntN(300)) * time.Millisecond)
		b.kill(t)
		b.start(t)
	}
	stop()
	publishers.Wait()
	p.mode.Store(0)
	waitForAll(t, p, l, b)
	_ = b.cmd.Process.Signal(os.Interrupt)
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("a graceful stop failed: %v\n%s", err, tail(b.log.String()))
	}
	judge(t, p, l, *kills, s, b)
}

// waitForAll waits until everything that was acknowledged has arrived. It gives up
// when nothing more arrives.
func waitForAll(t *testing.T, p *partner, l *ledger, b *bridge) {
	t.Helper()
	began := time.Now()
	left := missing(p, l)
	backlog, progress := left, began
	for left > 0 {
		time.Sleep(500 * time.Millisecond)
		now := missing(p, l)
		if now < left {
			progress = time.Now()
		}
		left = now
		if time.Since(progress) > 20*time.Second {
			t.Fatalf("%d acknowledged messages are lost\n%s", left, tail(b.log.String()))
		}
	}
	t.Logf("a backlog of %d messages was delivered in %v", backlog, time.Since(began).Round(time.Millisecond))
}

func missing(p *partner, l *ledger) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[event]bool{}
	for _, e := range p.took {
		seen[e] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for k, last := range l.acked {
		for i := 1; i <= last; i++ {
			if !seen[event{k, i}] {
				n++
			}
		}
	}
	return n
}

func judge(t *testing.T, p *partner, l *ledger, kills int, seed uint64, b *bridge) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[event]bool{}
	last := map[string]int{}
	duplicates, inversions := 0, 0
	for _, e := range p.took {
		if seen[e] {
			duplicates++
			continue
		}
		seen[e] = true
		if e.N < last[e.K] {
			inversions++
			if inversions < 10 {
				t.Logf("%s: %d arrived after %d", e.K, e.N, last[e.K])
			}
		}
		last[e.K] = max(last[e.K], e.N)
	}
	slices.Sort(b.readyTimings)
	t.Logf("seed %d: %d kills, %d messages acknowledged, 0 lost, %d inversions, %d duplicates, start to listening p50 %v max %v",
		seed, kills, l.total(), inversions, duplicates, b.readyTimings[len(b.readyTimings)/2], b.readyTimings[len(b.readyTimings)-1])
	if inversions > 0 {
		t.Errorf("%d messages overtook an earlier one of their key", inversions)
	}
	// A publisher may repeat what was stored but not acknowledged; the bridge may
	// repeat what was delivered but not settled.
	const inFlight = 256
	if bound := kills * (inFlight + 6 + 6*8); duplicates > bound {
		t.Errorf("%d duplicates, more than the %d that were in flight", duplicates, bound)
	}
	if l.total() < kills {
		t.Errorf("only %d messages were acknowledged; the test has shown nothing", l.total())
	}
	if strings.Contains(b.log.String(), `"n":`) {
		t.Error("the log quotes payloads")
	}
}
