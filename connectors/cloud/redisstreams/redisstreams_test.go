package redisstreams

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testEnv(t testing.TB) connectors.Env {
	return connectors.Env{Pipeline: "p", Name: "n", Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), MaxMessage: 16 << 20}
}

func node(t testing.TB, yaml string) config.Node {
	t.Helper()
	var r config.Report
	f := config.Parse("x.yaml", []byte(yaml), config.Lookup{Env: func(name string) (string, bool) { return name, true }}, &r)
	if f == nil || r.Failed() {
		t.Fatal(r.Problems())
	}
	return f.Root()
}

func buildSource(t testing.TB, yaml string) connectors.Source {
	t.Helper()
	var r config.Report
	build, _ := Spec().Source.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	s, err := build(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func buildSink(t testing.TB, yaml string) connectors.Sink {
	t.Helper()
	var r config.Report
	build, _, _ := Spec().Sink.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	s, err := build(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The suite against a Redis in this process.
func TestSuite(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireUserAuth("app", "good")
	runSuite(t, server.Addr(), "app", "good")
}

// runSuite runs the suite against a server with a user.
func runSuite(t *testing.T, addr, user, password string) {
	client := redis.NewClient(&redis.Options{Addr: addr, Username: user, Password: password, DisableIdentity: true})
	t.Cleanup(func() { _ = client.Close() })
	in, out := "app.in."+t.Name(), "app.out."+t.Name()
	for _, stream := range []string{in, out} {
		if err := client.Del(t.Context(), stream).Err(); err != nil {
			t.Fatal(err)
		}
	}
	auth := "connect: redis://" + addr + "\nauth: {user: " + user + ", password: '${env:" + password + "}'}\n"
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New: func(t *testing.T) connectors.Source {
				return buildSource(t, auth+"topic: "+in+"\ngroup: g\nclaim_after: 1s\n")
			},
			Send: func(ctx context.Context, m message.Message) error {
				w := wm.NewMessage("u", m.Payload)
				for _, h := range m.Headers {
					w.Metadata.Set(h.Name, h.Value.Text())
				}
				values, err := redisstream.DefaultMarshallerUnmarshaller{}.Marshal(in, w)
				if err != nil {
					return err
				}
				return client.XAdd(ctx, &redis.XAddArgs{Stream: in, Values: values}).Err()
			},
			Intruder: func(t *testing.T) error {
				return buildSource(t, strings.Replace(auth, "${env:"+password, "${env:wrong", 1)+"topic: "+in+"\ngroup: g\n").Run(t.Context(), nil)
			},
		},
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink { return buildSink(t, auth+"topic: "+out+"\n") },
			Received: func(t *testing.T, n int) []message.Message {
				return received(t, client, out, n)
			},
			Away: func(t *testing.T) connectors.Sink { return buildSink(t, "{connect: 'redis://127.0.0.1:1', topic: x}") },
		},
	}, connectortest.Features{Redelivers: true, Headers: true, Single: true, LineBreaks: true, NUL: true})
}

// received returns the entries of a stream, as messages.
func received(t *testing.T, client *redis.Client, stream string, n int) (out []message.Message) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		entries, err := client.XRange(t.Context(), stream, "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) >= n || time.Now().After(limit) {
			for _, e := range entries {
				w, err := redisstream.DefaultMarshallerUnmarshaller{}.Unmarshal(e.Values)
				if err != nil {
					t.Fatal(err)
				}
				m := message.Message{ID: w.UUID, Payload: w.Payload}
				for name, value := range w.Metadata {
					m.Headers.Add(name, message.String(value))
				}
				out = append(out, m)
			}
			return out
		}
	}
}

// An entry of another program is a message, and not one that comes again for ever.
func TestEntriesOfOthers(t *testing.T) {
	for _, c := range []struct {
		values map[string]any
		want   *wm.Message
	}{
		{map[string]any{"payload": "p", "a": "1"}, &wm.Message{Payload: []byte("p"), Metadata: wm.Metadata{"a": "1"}}},
		{map[string]any{"a": "1"}, &wm.Message{Metadata: wm.Metadata{"a": "1"}}},
		{map[string]any{redisstream.UUIDHeaderKey: "u", "metadata": "\xff", "payload": "p"}, &wm.Message{UUID: "u", Payload: []byte("p"), Metadata: wm.Metadata{"metadata": "\xff"}}},
	} {
		got, err := unmarshaller{}.Unmarshal(c.values)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equals(c.want) {
			t.Error(cmp.Diff(c.want.Metadata, got.Metadata), got.UUID, string(got.Payload))
		}
	}
}

// The field of the id is no header.
func TestReservedHeader(t *testing.T) {
	w := wm.NewMessage("u", nil)
	if err := reserved(SinkConfig{}, nil, w); err != nil {
		t.Error(err)
	}
	w.Metadata.Set(redisstream.UUIDHeaderKey, "x")
	if reserved(SinkConfig{}, nil, w) == nil {
		t.Error("it is not refused")
	}
}

func TestConfigurations(t *testing.T) {
	for _, c := range []struct{ end, yaml, want string }{
		{"in", `{connect: "rediss://h:6379/1", tls: {ca: x}, auth: {user: u, password: p}, topic: t, group: g, consumer: c, start: latest, claim_after: 5s, subscriptions: 4}`, ""},
		{"in", `{connect: "redis://h", topic: t}`, `"group" is missing`},
		{"in", `{connect: "redis://u:p@h", topic: t, group: g}`, "do not belong"},
		{"in", `{connect: "http://h", topic: t, group: g}`, "not the address"},
		{"in", `{connect: "redis://h", topic: t, group: g, tls: {}}`, "no effect"},
		{"in", `{connect: "redis://h", topic: t, group: g, start: middle}`, "not a place"},
		{"in", `{connect: "redis://h", topic: t, group: g, claim_after: 0s}`, "must be positive"},
		{"in", `{connect: "redis://h", topic: t, group: g, subscriptions: -1}`, "not possible"},
		{"out", `{connect: "redis://h", topic: t, max_length: 1000, one_by_one: true}`, ""},
		{"out", `{connect: "redis://h", topic: t, max_length: -1}`, "not negative"},
	} {
		var r config.Report
		if c.end == "in" {
			Spec().Source.Decode(node(t, c.yaml), &r)
		} else {
			Spec().Sink.Decode(node(t, c.yaml), &r)
		}
		text := texts(&r)
		if c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q", c.yaml, text)
		}
	}
}

func texts(r *config.Report) string {
	var b strings.Builder
	for _, p := range r.Problems() {
		b.WriteString(p.Text())
	}
	return b.String()
}
