package stomp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func (d *double) fill(destination string, n int) {
	for i := range n {
		d.put(&doubleMessage{destination: destination, body: fmt.Appendf(nil, "%d", i)})
	}
}

func (d *double) count(command string) (n int) {
	for _, f := range d.frames {
		if f.command == command {
			n++
		}
	}
	return n
}

// unacked is how much the broker waits for. The caller holds the lock.
func (d *double) unacked() (n int) {
	for c := range d.conns {
		for _, s := range c.subs {
			n += len(s.unacked)
		}
	}
	return n
}

// More messages than any buffer: acknowledgements and deliveries do not wait for one
// another, and no more are outstanding than were asked for.
func TestAcknowledgesWhileMessagesArrive(t *testing.T) {
	for _, ack := range []string{ackIndividual, ackCumulative} {
		t.Run(ack, func(t *testing.T) {
			d := startDouble(t, "", doubleOptions{})
			d.fill("/queue/in", 5000)
			rec := newRecorder()
			stop := startSource(t, testDialSource(t, d.addr(), func(c *SourceConfig) { c.Ack, c.Prefetch = ack, 50 }), rec)
			rec.wait(t, 5000)
			d.wait(t, "all acknowledgements", func() bool { return d.unacked() == 0 && len(d.queues["/queue/in"]) == 0 })
			stop()
			d.wait(t, "the goodbye", func() bool { return d.count("DISCONNECT") == 1 })
			acks := d.count("ACK")
			if ack == ackIndividual && acks != 5000 || ack == ackCumulative && acks > rec.batches {
				t.Errorf("%d acknowledgements for %d batches", acks, rec.batches)
			}
			if rec.batches > 4000 {
				t.Errorf("%d batches", rec.batches)
			}
		})
	}
}

func TestSubscribes(t *testing.T) {
	d := startDouble(t, "", doubleOptions{})
	rec := newRecorder()
	startSource(t, testDialSource(t, d.addr(), func(c *SourceConfig) {
		c.Destinations = []string{"/queue/a", "/topic/b:c"}
		c.Selector, c.SubscriptionID, c.ClientID, c.Prefetch = "x > 1", "sub", "me", 7
		c.Headers = map[string]string{"durable": "true", "prefetch-count": "9"}
		c.Auth = &Auth{User: "a:b", Password: config.NewSecret(`p:\n`)}
	}), rec)
	d.wait(t, "two subscriptions", func() bool { return d.count("SUBSCRIBE") == 2 })
	d.mu.Lock()
	frames := slices.Clone(d.frames)
	d.mu.Unlock()
	for i, want := range []map[string]string{
		{"accept-version": "1.0,1.1,1.2", "host": "/", "client-id": "me", "login": "a:b", "passcode": `p:\n`, "heart-beat": "10000,10000"},
		{"destination": "/queue/a", "id": "sub-0", "ack": "client-individual", "selector": "x > 1", "durable": "true", "prefetch-count": "9", "activemq.prefetchSize": "7"},
		{"destination": "/topic/b:c", "id": "sub-1", "consumer-window-size": "7168"},
	} {
		for name, value := range want {
			if got := frames[i].get(name); got != value {
				t.Errorf("frame %d, %s: %q, want %q", i, name, got, value)
			}
		}
	}
	d.put(&doubleMessage{destination: "/topic/b:c", body: []byte("x")})
	if m := rec.wait(t, 1)[0]; m.Topic != "/topic/b:c" || string(m.Key) != "/topic/b:c" || m.Source != "orders" || m.ID == "" {
		t.Errorf("%+v", m)
	}
}

// The version is that of the broker, up to the configured one.
func TestVersions(t *testing.T) {
	for _, c := range []struct{ broker, mine, want string }{
		{"1.0", "1.2", "1.0"}, {"1.0,1.1", "1.2", "1.1"}, {"1.0,1.1,1.2", "1.1", "1.1"}, {"1.0,1.1,1.2", "1.0", "1.0"}, {"1.0,1.1,1.2", "1.2", "1.2"},
	} {
		d := startDouble(t, "", doubleOptions{versions: c.broker})
		b, err := testDialSource(t, d.addr(), func(s *SourceConfig) { s.Version = c.mine }).(*dialSource).dial.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := b.link.stream.version.String(); got != c.want {
			t.Errorf("broker %s, own %s: %s", c.broker, c.mine, got)
		}
		_ = b.link.conn.Close()
	}
}

// What can never be taken is refused with NACK and out of the way; what was not taken
// for another reason ends the session, and comes again as a second attempt.
func TestRefusals(t *testing.T) {
	for _, version := range []string{"1.1", "1.2"} {
		for _, ack := range []string{ackIndividual, ackCumulative} {
			t.Run(version+" "+ack, func(t *testing.T) {
				d := startDouble(t, "", doubleOptions{})
				d.fill("/queue/in", 6)
				rec := newRecorder()
				failures := 0
				rec.answer = func(b *message.Batch) error {
					var p message.PartialError
					for i := range b.Messages {
						switch m := &b.Messages[i]; {
						case string(m.Payload) == "1":
							p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrTooLarge})
						case string(m.Payload) == "4" && m.Attempt == 1:
							failures++
							p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrFull})
						}
					}
					if p.Failed == nil {
						return nil
					}
					return &p
				}
				src := func(c *SourceConfig) { c.Ack, c.Version = ack, version }
				err := testDialSource(t, d.addr(), src).Run(t.Context(), rec)
				if !errors.Is(err, message.ErrFull) {
					t.Fatalf("the session ended with %v", err)
				}
				startSource(t, testDialSource(t, d.addr(), src), rec)
				d.wait(t, "all settled", func() bool { return d.unacked() == 0 && len(d.queues["/queue/in"]) == 0 && len(d.conns) == 1 })
				got := map[string]bool{}
				for _, m := range rec.all() {
					got[string(m.Payload)] = true
				}
				if len(got) != 5 || got["1"] || failures != 1 {
					t.Errorf("taken %v after %d failures", got, failures)
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				if len(d.nacked) != 1 || string(d.nacked[0].body) != "1" {
					t.Errorf("%d were refused", len(d.nacked))
				}
				for _, f := range d.frames {
					if f.command == "NACK" && f.get("requeue") != "false" {
						t.Error("NACK asks for the message again")
					}
				}
			})
		}
	}
}

// A message that is larger than a frame may be does not block its queue: it is refused,
// and the next session goes on behind it.
func TestOversizedMessages(t *testing.T) {
	for _, withLength := range []bool{false, true} {
		d := startDouble(t, "", doubleOptions{})
		d.fill("/queue/in", 3)
		big := &doubleMessage{destination: "/queue/in", body: []byte(strings.Repeat("x", 3<<20))}
		if withLength {
			big.headers = [][2]string{{"content-length", "3145728"}}
		}
		d.put(big)
		d.fill("/queue/in", 3)
		rec := newRecorder()
		err := testDialSource(t, d.addr(), nil).Run(t.Context(), rec)
		if err == nil || !strings.Contains(err.Error(), "LS4351") {
			t.Fatalf("got %v", err)
		}
		startSource(t, testDialSource(t, d.addr(), nil), rec)
		rec.wait(t, 6)
		d.wait(t, "the refusal", func() bool { return len(d.nacked) == 1 && d.nacked[0] == big })
	}
}

// A broker that goes away, or says an error, ends Run, and nothing it sent is quoted.
func TestBrokerErrors(t *testing.T) {
	secret := "s3cret-in-error"
	for name, c := range map[string]struct {
		opts doubleOptions
		auth *Auth
		want string
	}{
		"wrong password": {doubleOptions{password: secret}, &Auth{User: "u", Password: config.NewSecret("x")}, "LS4341"},
		"unknown host":   {doubleOptions{versions: "1.2"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDouble(t, "", c.opts)
			src := testDialSource(t, d.addr(), func(s *SourceConfig) { s.Auth = c.auth })
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err := src.Run(ctx, newRecorder())
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	d := startDouble(t, "", doubleOptions{})
	rec := newRecorder()
	d.fill("/queue/in", 1)
	rec.answer = func(*message.Batch) error {
		d.wait(t, "a connection", func() bool { return len(d.conns) == 1 })
		d.mu.Lock()
		defer d.mu.Unlock()
		for c := range d.conns {
			c.send("ERROR", []byte(secret), "message", secret)
		}
		return nil
	}
	if err := testDialSource(t, d.addr(), nil).Run(t.Context(), rec); err == nil || !strings.Contains(err.Error(), "LS4344") || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
}

// A broker that promised heart-beats and says nothing is given up; one that promised
// none may be silent.
func TestSilentBroker(t *testing.T) {
	d := startDouble(t, "", doubleOptions{beat: "100,100"})
	start := time.Now()
	err := testDialSource(t, d.addr(), func(c *SourceConfig) { c.HeartBeat = 100 * time.Millisecond }).Run(t.Context(), newRecorder())
	if err == nil || time.Since(start) < 200*time.Millisecond || time.Since(start) > 8*time.Second {
		t.Errorf("ended after %s with %v", time.Since(start), err)
	}
	quiet := startDouble(t, "", doubleOptions{beat: "0,100"})
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := testDialSource(t, quiet.addr(), func(c *SourceConfig) { c.HeartBeat = 100 * time.Millisecond }).Run(ctx, newRecorder()); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// The link to a broker is cut again and again; all messages arrive.
func TestCutsLoseNothing(t *testing.T) {
	d := startDouble(t, "", doubleOptions{})
	d.fill("/queue/in", 3000)
	rec := newRecorder()
	calls := 0
	rec.answer = func(*message.Batch) error {
		if calls++; calls%7 == 0 {
			d.cut()
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := func() int {
		got := map[string]bool{}
		for _, m := range rec.all() {
			got[string(m.Payload)] = true
		}
		return len(got)
	}
	for limit := time.Now().Add(20 * time.Second); seen() < 3000; {
		if time.Now().After(limit) {
			t.Fatalf("%d arrived", seen())
		}
		runCtx, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		_ = testDialSource(t, d.addr(), func(c *SourceConfig) { c.Prefetch = 20 }).Run(runCtx, rec)
		stop()
	}
}
