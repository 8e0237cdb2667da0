// Package generate makes messages, for trying pipelines out and measuring them.
//
// The same seed gives the same messages in the same order. A source that is started
// again, after a batch was not taken over or in a new process, begins with the first
// message, so delivery is at least once.
package generate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// Spec describes the generate connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name:   "generate",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, OrderKey: "customer"}, defaults, newSource),
	}
}

// Config is what a user writes under `generate:` of an input.
type Config struct {
	// Count is how many messages are made. Default: 0, which means no end.
	Count int64 `yaml:"count"`
	// Rate is how many are made, such as 100/s. Default: as fast as they are taken.
	Rate Rate `yaml:"rate"`
	// Batch is the number of messages handed on at once. Default: 256.
	Batch int `yaml:"batch"`
	// Template says what is made: order (an order with customer, card, region and
	// total, in JSON) or counter ({"seq":1}). Default: order.
	Template string `yaml:"template"`
	// Seed selects the series of orders. Default: 1.
	Seed uint64 `yaml:"seed"`
}

// Rate is a number of messages in a second. Zero: no bound.
type Rate float64

// DecodeConfig implements config.Decoder: 100/s, 6000/m, or 0.
func (r *Rate) DecodeConfig(n config.Node, report *config.Report) {
	number, unit, _ := strings.Cut(n.Text(), "/")
	v, err := strconv.ParseFloat(number, 64)
	scale, ok := map[string]float64{"": 1, "s": 1, "m": 1.0 / 60, "h": 1.0 / 3600}[unit]
	if err != nil || v < 0 || v > 1e9 || !ok {
		report.Errorf(n, "LS1110", "write a rate such as 100/s, or 0 for no bound", "this is not a rate")
		return
	}
	*r = Rate(v * scale)
}

func defaults() Config { return Config{Batch: 256, Template: "order", Seed: 1} }

// Check implements connectors.Checker.
func (c *Config) Check(n config.Node, r *config.Report) {
	if c.Template != "order" && c.Template != "counter" {
		r.Errorf(n.Get("template"), "LS1150", config.Suggest(c.Template, []string{"order", "counter"}), "there is no template %q", c.Template)
	}
	if c.Batch < 1 || c.Batch > 10000 || c.Count < 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "batch must be 1 to 10000 and count not negative")
	}
}

type source struct {
	cfg Config
	env connectors.Env
}

func newSource(cfg Config, env connectors.Env) (connectors.Source, error) {
	return &source{cfg: cfg, env: env}, nil
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	g := &generator{source: s.env.Name, counter: s.cfg.Template == "counter", random: rand.New(rand.NewPCG(s.cfg.Seed, 0))} //nolint:gosec // nothing secret is made of it
	start := time.Now()
	var b message.Batch
	for made := int64(0); s.cfg.Count == 0 || made < s.cfg.Count; {
		n := int64(s.cfg.Batch)
		if s.cfg.Count > 0 {
			n = min(n, s.cfg.Count-made)
		}
		if s.cfg.Rate > 0 {
			// Small batches at a low rate, so that messages do not come in bursts.
			n = min(n, max(1, int64(s.cfg.Rate/20)))
			due := start.Add(time.Duration(float64(made) / float64(s.cfg.Rate) * float64(time.Second)))
			if !run.Pause(ctx, time.Until(due)) {
				return nil
			}
		}
		g.fill(&b, int(n), made)
		err := next.Handle(ctx, &b)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end of the context is no failure
		case err != nil:
			return fmt.Errorf("hand on %d messages: %w", b.Len(), err)
		}
		made += n
	}
	return connectors.ErrEnd
}
