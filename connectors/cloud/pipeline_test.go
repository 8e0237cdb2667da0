package cloud_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/linkspan/linkspan/cmd"
	"github.com/linkspan/linkspan/connectors/cloud"
)

// TestMain lets this binary be linkspan-full as well.
func TestMain(m *testing.M) {
	if os.Getenv("LINKSPAN_TEST_RUN") != "" {
		os.Exit(cmd.Main(cloud.Specs()...))
	}
	os.Exit(m.Run())
}

// peer is a service with what is sent to it and what it has received.
type peer struct {
	// in and out are YAML.
	in, out string
	// send sends a message to what the input reads.
	send func(payload string) error
	// received returns the payloads of what the output has written.
	received func() []string
}

// crossing runs a pipeline from a peer to itself, kills it in the middle, starts it again,
// and looks whether everything has arrived.
func crossing(t *testing.T, p peer) {
	t.Helper()
	dir := t.TempDir()
	pipeline := "pipeline: crossing\nin:\n  a:\n    " + p.in + "\nout:\n  b:\n    " + p.out + "\n"
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(pipeline), 0o600); err != nil {
		t.Fatal(err)
	}
	run := start(t, dir)
	const half = 250
	send := func(from, to int) {
		for i := from; i < to; i++ {
			if err := p.send(fmt.Sprintf(`{"n":%d}`, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(0, half)
	until(t, run, "a part of the first half", func() bool { return len(p.received()) >= half/4 })
	if err := run.kill(); err != nil {
		t.Fatal(err)
	}
	send(half, 2*half)
	run = start(t, dir)
	distinct := func() int {
		seen := map[string]bool{}
		for _, payload := range p.received() {
			seen[payload] = true
		}
		return len(seen)
	}
	until(t, run, "all messages", func() bool { return distinct() == 2*half })
	t.Logf("%d messages, %d came again after the kill", 2*half, len(p.received())-2*half)
	if err := run.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, run.log.String())
	}
}

// process is a running linkspan-full.
type process struct {
	*exec.Cmd

	log *lockedText
}

type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t *testing.T, dir string) *process {
	t.Helper()
	p := &process{exec.CommandContext(t.Context(), os.Args[0], "run", "p.yaml", "--admin", ""), &lockedText{}}
	p.Dir, p.Stderr = dir, p.log
	p.Env = append(os.Environ(), "LINKSPAN_TEST_RUN=1", "GORACE=atexit_sleep_ms=0")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill() })
	return p
}

func (p *process) kill() error {
	if err := p.Process.Kill(); err != nil {
		return err
	}
	_ = p.Wait() // says that it was killed
	return nil
}

func (p *process) stop() error {
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.Wait()
}

func until(t *testing.T, p *process, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-limit.C:
			t.Fatalf("%s: not in time\n%s", what, p.log.String())
		}
	}
}

func redisPeer(t *testing.T, addr, user, password string) peer {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, Username: user, Password: password, DisableIdentity: true})
	t.Cleanup(func() { _ = client.Close() })
	if err := client.Del(t.Context(), "app.cross.in", "app.cross.out").Err(); err != nil {
		t.Fatal(err)
	}
	auth := ""
	if user != "" {
		t.Setenv("REDIS_PASSWORD", password)
		auth = ", auth: {user: " + user + ", password: '${env:REDIS_PASSWORD}'}"
	}
	return peer{
		in:  "redis_streams: {connect: 'redis://" + addr + "', topic: app.cross.in, group: g, subscriptions: 4, claim_after: 1s" + auth + "}",
		out: "redis_streams: {connect: 'redis://" + addr + "', topic: app.cross.out" + auth + "}",
		send: func(payload string) error {
			return client.XAdd(t.Context(), &redis.XAddArgs{Stream: "app.cross.in", Values: map[string]any{"payload": payload}}).Err()
		},
		received: func() (out []string) {
			entries, err := client.XRange(t.Context(), "app.cross.out", "-", "+").Result()
			if err != nil {
				t.Error(err)
			}
			for _, e := range entries {
				out = append(out, fmt.Sprint(e.Values["payload"]))
			}
			return out
		},
	}
}

func TestRedisStreams(t *testing.T) {
	crossing(t, redisPeer(t, miniredis.RunT(t).Addr(), "", ""))
}

func TestGooglePubSub(t *testing.T) {
	s := pstest.NewServer()
	defer s.Close()
	client, err := pubsub.NewClient(t.Context(), "p", option.WithEndpoint(s.Addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, topic := range []string{"in", "out"} {
		if _, err := client.TopicAdminClient.CreateTopic(context.Background(), &pubsubpb.Topic{Name: "projects/p/topics/" + topic}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: "projects/p/subscriptions/s", Topic: "projects/p/topics/in", AckDeadlineSeconds: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	crossing(t, peer{
		in:   "google_pubsub: {project: p, endpoint: '" + s.Addr + "', topic: in, subscription: s}",
		out:  "google_pubsub: {project: p, endpoint: '" + s.Addr + "', topic: out}",
		send: func(payload string) error { s.Publish("projects/p/topics/in", []byte(payload), nil); return nil },
		received: func() (out []string) {
			for _, m := range s.Messages() {
				if m.Topic == "projects/p/topics/out" {
					out = append(out, string(m.Data))
				}
			}
			return out
		},
	})
}
