package generate

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func collect(t *testing.T, change func(*Config)) (payloads []string, sizes []int) {
	t.Helper()
	cfg := defaults()
	change(&cfg)
	src, err := newSource(cfg, connectors.Env{Name: "in"})
	if err != nil {
		t.Fatal(err)
	}
	h := message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
		sizes = append(sizes, b.Len())
		for _, m := range b.Messages {
			payloads = append(payloads, string(m.Payload))
			if cfg.Template == "order" && len(m.Key) < 3 {
				t.Errorf("key %q", m.Key)
			}
		}
		return nil
	})
	if err := src.Run(t.Context(), h); !errors.Is(err, connectors.ErrEnd) {
		t.Fatalf("got %v", err)
	}
	return payloads, sizes
}

func TestOrdersAreDeterministicJSON(t *testing.T) {
	a, sizes := collect(t, func(c *Config) { c.Count = 600 })
	b, _ := collect(t, func(c *Config) { c.Count = 600; c.Batch = 100 })
	if len(sizes) != 3 || sizes[2] != 88 {
		t.Errorf("batches %v", sizes)
	}
	for i := range a {
		var order struct {
			Seq  int
			Card struct{ Number string }
		}
		if err := json.Unmarshal([]byte(a[i]), &order); err != nil || order.Seq != i+1 || len(order.Card.Number) != 16 {
			t.Fatalf("%v: %s", err, a[i])
		}
		if a[i] != b[i] {
			t.Fatalf("the series differ at %d", i)
		}
	}
	if c, _ := collect(t, func(c *Config) { c.Count = 1; c.Seed = 2 }); c[0] == a[0] {
		t.Error("another seed gives the same order")
	}
}

func TestRate(t *testing.T) {
	start := time.Now()
	got, _ := collect(t, func(c *Config) { c.Count = 21; c.Rate = 200; c.Template = "counter" })
	if d := time.Since(start); d < 50*time.Millisecond || got[20] != `{"seq":21}` {
		t.Errorf("%s, last %s", d, got[len(got)-1])
	}
}

func TestStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src, _ := newSource(defaults(), connectors.Env{})
	h := message.HandlerFunc(func(context.Context, *message.Batch) error { cancel(); return nil })
	if err := src.Run(ctx, h); err != nil {
		t.Error(err)
	}
}
