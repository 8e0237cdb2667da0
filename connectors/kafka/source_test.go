package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/message"
)

// numbered are records for each of the partitions, round about.
func numbered(partitions, n int) (records []*kgo.Record) {
	for i := range n {
		records = append(records, &kgo.Record{Partition: int32(i % partitions), Value: fmt.Appendf(nil, "%d", i)})
	}
	return records
}

func TestSourceCommitsWhatWasTakenOver(t *testing.T) {
	c := startCluster(t)
	cl := newClient(t, c.ListenAddrs())
	produce(t, cl, numbered(3, 30)...)
	h := &recorder{}
	stop := startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), nil), h)
	h.wait(t, 30)
	for p := range int32(3) {
		eventually(t, "the commit", func() bool { return committed(t, c.ListenAddrs(), "linkspan-p-orders", p) == 10 })
	}
	stop()
	produce(t, cl, numbered(3, 3)...)
	again := &recorder{}
	startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), nil), again)
	if got := again.wait(t, 3); len(got) != 3 {
		t.Errorf("%d messages came, 3 are new", len(got))
	}
}

// What is under way when the source is stopped is committed if it was taken over.
func TestStopCommits(t *testing.T) {
	c := startCluster(t)
	produce(t, newClient(t, c.ListenAddrs()), numbered(1, 5)...)
	h := &recorder{}
	src := newTestSource(t, testEnv(t), c.ListenAddrs(), func(c *SourceConfig) { c.CommitInterval = time.Minute })
	stop := startSource(t, src, h)
	h.wait(t, 5)
	start := time.Now()
	stop()
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("the stop took %s", d)
	}
	if at := committed(t, c.ListenAddrs(), "linkspan-p-orders", 0); at != 5 {
		t.Errorf("committed %d", at)
	}
}

// A message that is refused for good holds its partition, and no other; it is never
// passed over.
func TestRefusedMessageHoldsItsPartition(t *testing.T) {
	c := startCluster(t)
	cl := newClient(t, c.ListenAddrs())
	produce(t, cl, numbered(3, 30)...) // 9 is the fourth of partition 0
	var open atomic.Bool
	h := &recorder{answer: func(_ context.Context, b *message.Batch) error {
		for i := range b.Messages {
			if string(b.Messages[i].Payload) == "9" && !open.Load() {
				return &message.PartialError{Failed: []message.Failed{{Index: i, Err: &message.Reason{Code: "LS2402", Permanent: true}}}}
			}
		}
		return nil
	}}
	startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), nil), h)
	h.wait(t, 29)
	eventually(t, "the commits of the others", func() bool {
		return committed(t, c.ListenAddrs(), "linkspan-p-orders", 1) == 10 && committed(t, c.ListenAddrs(), "linkspan-p-orders", 2) == 10
	})
	produce(t, cl, numbered(3, 6)...)
	h.wait(t, 33)
	if at := committed(t, c.ListenAddrs(), "linkspan-p-orders", 0); at != 3 {
		t.Errorf("committed %d, the message at 3 was not taken over", at)
	}
	open.Store(true)
	if got := h.wait(t, 36); len(got) != 36 {
		t.Errorf("%d messages came, 36 were sent", len(got))
	}
}

// A member that has to give partitions away waits for what it is handing on, and commits
// it: the next one goes on behind it.
func TestRevocationWaits(t *testing.T) {
	c := startCluster(t)
	cl := newClient(t, c.ListenAddrs())
	produce(t, cl, numbered(3, 3)...)
	release := make(chan struct{})
	var waiting atomic.Int32
	first := &recorder{answer: func(ctx context.Context, _ *message.Batch) error {
		waiting.Add(1)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	quick := func(c *SourceConfig) { c.SessionTimeout = time.Second }
	startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), quick), first)
	eventually(t, "the first member", func() bool { return waiting.Load() == 3 })
	second := &recorder{}
	startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), quick), second)
	<-time.After(1500 * time.Millisecond) // several heart-beats: the group is rebalancing
	if n := len(second.all()); n > 0 {
		t.Fatalf("%d messages went to both members", n)
	}
	close(release)
	first.wait(t, 3)
	// The group shares the partitions out now: both get something of what follows.
	sent := 0
	eventually(t, "the second member", func() bool {
		produce(t, cl, numbered(3, 3)...)
		sent += 3
		return len(second.all()) > 0
	})
	eventually(t, "all messages", func() bool { return len(first.all())+len(second.all()) >= 3+sent })
	if n := len(first.all()) + len(second.all()); n != 3+sent {
		t.Errorf("%d messages came, %d were sent", n, 3+sent)
	}
}

func TestSourceFindsTopicsByRegex(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders-eu", "orders-us", "my-orders-us"))
	cl := newClient(t, c.ListenAddrs())
	for _, topic := range []string{"orders-eu", "orders-us", "my-orders-us"} {
		produce(t, cl, &kgo.Record{Topic: topic, Value: []byte(topic)})
	}
	h := &recorder{}
	startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), func(c *SourceConfig) { c.Topics, c.TopicsRegex = nil, "orders-.*" }), h)
	got := h.wait(t, 2)
	<-time.After(100 * time.Millisecond)
	for _, m := range h.all() {
		if !strings.HasPrefix(m.Topic, "orders-") || m.Topic != string(m.Payload) {
			t.Errorf("topic %s came", m.Topic)
		}
	}
	if len(got) != 2 {
		t.Errorf("%d messages", len(got))
	}
}

// Fixed partitions are read without a group, and their offsets are kept on disk.
func TestFixedPartitionsKeepTheirOffsets(t *testing.T) {
	c := startCluster(t)
	cl := newClient(t, c.ListenAddrs())
	produce(t, cl, numbered(3, 30)...)
	env := testEnv(t)
	fixed := func(c *SourceConfig) { c.Topics, c.Partitions = nil, Partitions{"orders": {0: "", 1: "8"}} }
	h := &recorder{}
	stop := startSource(t, newTestSource(t, env, c.ListenAddrs(), fixed), h)
	h.wait(t, 12)
	stop()
	produce(t, cl, numbered(3, 3)...)
	again := &recorder{}
	stop = startSource(t, newTestSource(t, env, c.ListenAddrs(), fixed), again)
	again.wait(t, 2)
	stop()
	if n, m := len(h.all()), len(again.all()); n != 12 || m != 2 {
		t.Errorf("%d and %d messages came, want 12 and 2", n, m)
	}
	// Offsets of another cluster mean nothing.
	other := startCluster(t, kfake.ClusterID("another"))
	produce(t, newClient(t, other.ListenAddrs()), numbered(3, 3)...)
	elsewhere := &recorder{}
	startSource(t, newTestSource(t, env, other.ListenAddrs(), func(c *SourceConfig) { c.Topics, c.Partitions = nil, Partitions{"orders": {0: ""}} }), elsewhere)
	elsewhere.wait(t, 1)
}

func TestSourceStarts(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders"))
	cl := newClient(t, c.ListenAddrs())
	old := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 4 {
		produce(t, cl, &kgo.Record{Value: fmt.Appendf(nil, "%d", i), Timestamp: old.Add(time.Duration(i) * time.Hour)})
	}
	for start, first := range map[string]string{"earliest": "0", "2026-01-01T02:00:00Z": "2"} {
		h := &recorder{}
		stop := startSource(t, newTestSource(t, testEnv(t), c.ListenAddrs(), func(c *SourceConfig) { c.Start, c.Group = start, start }), h)
		if got := h.wait(t, 1); string(got[0].Payload) != first {
			t.Errorf("start %s: began with %s, want %s", start, got[0].Payload, first)
		}
		stop()
	}
}

// While the pipeline takes nothing, only so much is fetched.
func TestBackPressure(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders"))
	cl := newClient(t, c.ListenAddrs())
	const n = 80
	for range n {
		produce(t, cl, &kgo.Record{Value: make([]byte, 900<<10)})
	}
	release := make(chan struct{})
	h := &recorder{answer: func(ctx context.Context, _ *message.Batch) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	src := newTestSource(t, testEnv(t), c.ListenAddrs(), nil)
	startSource(t, src, h)
	held := func() int {
		src.share.held.mu.Lock()
		defer src.share.held.mu.Unlock()
		return src.share.held.n
	}
	eventually(t, "the source to be full", func() bool { return held() >= heldBytes })
	<-time.After(200 * time.Millisecond)
	if got := held(); got > heldBytes+int(src.cfg.Fetch.MaxBytes)+1<<20 {
		t.Errorf("%d bytes are held", got)
	}
	close(release)
	h.wait(t, n)
}

// Several members come and go while messages flow. Nothing is lost, and no key is
// reordered: a message may come again, but its first time is in order.
func TestRebalanceStorm(t *testing.T) {
	for _, balancer := range []string{balancerCooperative, balancerRange} { // the eager ones give everything back each time
		t.Run(balancer, func(t *testing.T) {
			c := startCluster(t, kfake.SeedTopics(6, "orders"))
			storm(t, c.ListenAddrs(), "orders", "storm", 6, 2*time.Second, 250*time.Millisecond, balancer)
		})
	}
}

func TestSourceExplainsWhatIsWrong(t *testing.T) {
	plain := startCluster(t)
	sasl := startCluster(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "u", "p"))
	secure := startCluster(t, kfake.TLS(serverTLS(t)))
	acl := startCluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "p"), kfake.User("PLAIN", "u", "p"))
	for _, c := range []struct {
		name, want string
		brokers    []string
		change     func(*SourceConfig)
	}{
		{"nobody there", codeUnreachable, []string{"127.0.0.1:1"}, func(*SourceConfig) {}},
		{"no such topic", codeNoTopic, plain.ListenAddrs(), func(c *SourceConfig) { c.Topics = []string{"missing"} }},
		{"wrong password", codeCredentials, sasl.ListenAddrs(), func(c *SourceConfig) {
			c.Auth = &Auth{Mechanism: mechanismScram256, User: "u", Password: secret("wrong")}
		}},
		{"other mechanism", codeCredentials, sasl.ListenAddrs(), func(c *SourceConfig) {
			c.Auth = &Auth{Mechanism: mechanismOAuth, Token: secret("t")}
		}},
		{"no password", codeClosed, sasl.ListenAddrs(), func(*SourceConfig) {}},
		{"plain to TLS", codeClosed, secure.ListenAddrs(), func(*SourceConfig) {}},
		{"TLS to plain", codeTLS, plain.ListenAddrs(), func(c *SourceConfig) { c.TLS = insecure() }},
		{"unknown authority", codeTLS, secure.ListenAddrs(), func(c *SourceConfig) { c.TLS = verifying() }},
		{"no permission", codeForbidden, acl.ListenAddrs(), func(c *SourceConfig) {
			c.Auth = &Auth{Mechanism: mechanismPlain, User: "u", Password: secret("p")}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			src := newTestSource(t, testEnv(t), c.brokers, c.change)
			var err error
			if c.name == "TLS to plain" { // which waits for a handshake that never comes
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err = src.cluster.check(ctx, nil, false)
			} else {
				err = src.Run(t.Context(), &recorder{})
			}
			coded, ok := errors.AsType[*codedError](err)
			if !ok || coded.code != c.want {
				t.Errorf("want %s, got %v", c.want, err)
			}
			if d := time.Since(start); d > checkWithin+time.Second {
				t.Errorf("it took %s", d)
			}
			if err != nil && strings.Contains(err.Error(), "wrong password") {
				t.Errorf("it quotes: %v", err)
			}
		})
	}
}
