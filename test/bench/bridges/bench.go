package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// The paths.
const (
	kafkaPath  = "kafka"
	rabbitPath = "rabbitmq"
	mqttPath   = "mqtt"
)

// path is a source and its destinations, at real brokers.
type path interface {
	// prepare empties both and puts the orders into the source, or, when they are sent
	// later, gets ready for that.
	prepare(ctx context.Context, w *work) error
	// send sends what prepare has not sent.
	send(ctx context.Context, w *work) error
	// read takes what arrives at the destinations until ctx ends. It calls reading when
	// nothing can be missed any more.
	read(ctx context.Context, l *ledger, reading func()) error
	// sources is the number of partitions of the source.
	sources() int
	// env is what the pipeline files refer to.
	env() []string
}

// bench measures all bridges in turn and collects the results.
type bench struct {
	options
	root, dir string
	templates []template
	results   results
	progress  io.Writer
	runs      int
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, format+"\n", args...) // it is a comfort only
}

// build makes the two programs.
func (b *bench) build(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/linkspan/linkspan").Output()
	if err != nil {
		return fmt.Errorf("find the module (run this in test/bench): %w", err)
	}
	b.root = strings.TrimSpace(string(out))
	if b.templates, err = templates(b.root); err != nil {
		return err
	}
	if b.linkspan == "" {
		b.linkspan = filepath.Join(b.dir, "linkspan")
		if err := b.goBuild(ctx, b.root, b.linkspan, "./cmd/linkspan"); err != nil {
			return err
		}
	}
	if b.peer == "" && !b.own {
		b.peer = filepath.Join(b.dir, "peer")
		return b.goBuild(ctx, filepath.Join(b.root, "test", "bench", "peer"), b.peer, ".")
	}
	return nil
}

func (b *bench) goBuild(ctx context.Context, dir, to, what string) error {
	b.say("building %s", filepath.Base(to))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, what) //nolint:gosec // the arguments are constants and our own directory
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", to, err, out)
	}
	return nil
}

// orders is how many orders are sent over a path.
func (b *bench) orders(name string) int {
	n := 20_000 * b.factor
	if name == kafkaPath {
		n = 100_000 * b.factor
	}
	if b.short {
		n /= 2
	}
	return n
}

func (b *bench) run(ctx context.Context) error {
	for _, name := range b.paths {
		p, err := b.open(ctx, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		bridges := bridges(name, b.own)
		for round := range b.rounds {
			for _, procs := range processors() {
				for _, v := range bridges {
					b.say("%s, round %d of %d, GOMAXPROCS %d: %s", name, round+1, b.rounds, procs, v.name)
					if err := b.measure(ctx, p, v, key{name, procs, v.name}); err != nil {
						return fmt.Errorf("%s, %s: %w", name, v.name, err)
					}
				}
			}
			slices.Reverse(bridges) // nobody is always the first
		}
	}
	return nil
}

func (b *bench) open(ctx context.Context, name string) (path, error) {
	switch name {
	case kafkaPath:
		return newKafka(ctx, b.kafka)
	case rabbitPath:
		return newRabbit(ctx, b.rabbit)
	}
	return newMQTT(ctx, b.mosqu, b.rabbit)
}

// processors are the values of GOMAXPROCS: one, and the machine's.
func processors() []int { return slices.Compact([]int{1, runtime.NumCPU()}) }

// patience is how long nothing arrives before the rest counts as lost.
const patience = 15 * time.Second

// measure lets one bridge carry the orders over the path.
func (b *bench) measure(ctx context.Context, p path, v bridge, k key) error {
	w := &work{templates: b.templates, n: b.orders(k.path)}
	if err := p.prepare(ctx, w); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	l, g := newLedger(w, p.sources()), run.NewGroup(ctx)
	reading := make(chan struct{})
	g.Go("reader", func(ctx context.Context) error {
		if err := p.read(ctx, l, func() { close(reading) }); err != nil && ctx.Err() == nil {
			return fmt.Errorf("read: %w", err)
		}
		return nil
	})
	g.Go("measure", func(ctx context.Context) error {
		defer g.Stop()
		select {
		case <-reading:
		case <-ctx.Done():
			return ctx.Err()
		}
		return b.carry(ctx, g, p, v, k, l)
	})
	return g.Wait()
}

// carry starts the bridge and waits until it has carried everything.
func (b *bench) carry(ctx context.Context, g *run.Group, p path, v bridge, k key, l *ledger) error {
	c, err := b.start(ctx, g, p, v, k.procs)
	if err != nil {
		return err
	}
	defer c.kill()
	if err := c.ready(ctx); err != nil {
		return err
	}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	from := time.Now()
	g.Go("sender", func(ctx context.Context) error { return p.send(ctx, l.work) })
	if err := c.await(ctx, l); err != nil {
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	took := time.Since(from)
	run.Pause(ctx, 300*time.Millisecond) // for what comes twice
	got, _ := l.state()
	b.results.add(k, figure{
		cpu: float64((after - before).Microseconds()) / float64(l.work.n), perSecond: float64(l.work.n) / took.Seconds(),
		lost: l.want - got.arrived, counts: got,
	})
	b.say("  %s", b.results.last(k))
	if got.arrived < l.want || got.twice+got.wrong > 0 {
		c.kill() // so that its log is complete
		b.say("  its log ends with: %s", c.tail())
	}
	return nil
}

// await returns when everything has arrived, or nothing has for long.
func (c *child) await(ctx context.Context, l *ledger) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return nil
		case <-c.ended:
			return c.failure("it ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if _, quiet := l.state(); quiet > patience {
				return nil
			}
		}
	}
}

// start runs the bridge with a directory and a consumer group of its own.
func (b *bench) start(ctx context.Context, g *run.Group, p path, v bridge, procs int) (*child, error) {
	b.runs++
	dir := filepath.Join(b.dir, strconv.Itoa(b.runs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	env := append(p.env(), v.env(procs)...)
	env = append(env, "GOMAXPROCS="+strconv.Itoa(procs), fmt.Sprintf("GROUP=bench-%d-%d", os.Getpid(), b.runs))
	if v.peer {
		return start(ctx, g, b.peer, []string{"-c", filepath.Join(b.root, "test", "bench", "peerconf", v.config)}, env)
	}
	text, err := os.ReadFile(filepath.Join(b.root, "test", "bench", "bridges", "pipelines", v.config))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, v.config)
	if err := os.WriteFile(file, append(text, v.more...), 0o600); err != nil { //nolint:gosec // the folder is our own
		return nil, err
	}
	return start(ctx, g, b.linkspan, []string{"run", file, "--data", filepath.Join(dir, "data"), "--admin", "${ADMIN}"}, env)
}
