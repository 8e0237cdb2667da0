package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/memory"
)

// TestMetamorphic runs one script with random options many times: what clients see must
// not depend on the options, and must be what the memory engine shows.
func TestMetamorphic(t *testing.T) {
	runs := amount(t, 16, 240)
	const each = 8 // runs of one script
	first := seedOf(t)
	p := newPool()
	for s := range uint64(runs / each) {
		p.do(func() {
			want, err := metamorphosis(t.Context(), first+s, func(context.Context, func() time.Time) (queue.Engine, error) {
				return memory.New(), nil
			}, false)
			if err != nil {
				t.Errorf("script %d in memory: %v", s, err)
				return
			}
			for i := range uint64(each) {
				disk := vfs.NewMem()
				got, err := metamorphosis(t.Context(), first+s, func(ctx context.Context, now func() time.Time) (queue.Engine, error) {
					o := wild(disk, s*each+i)
					o.Now = now
					return journal.Open(ctx, "/data", o)
				}, true)
				if err != nil || got != want {
					t.Errorf("script %d, options %d: %v\n%s", s, i, err, firstDifference(want, got))
				}
			}
		})
	}
	p.wait()
	t.Logf("%d scripts with %d options each and the memory engine: equal results: %v", runs/each, each, !t.Failed())
}

// wild returns options from the smallest to the default ones.
func wild(disk vfs.FS, seed uint64) journal.Options {
	rng := rand.New(rand.NewPCG(seed, 11))
	o := varied(disk, seed)
	o.SegmentSize = 4 << 10 << rng.IntN(11)
	o.MaxSegmentSize = o.SegmentSize << rng.IntN(4)
	o.CheckpointBytes = 1 << rng.IntN(25)
	o.CacheBytes = 1 << rng.IntN(24)
	o.AckDelay = time.Duration(1+rng.IntN(20)) * time.Millisecond
	return o
}

func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return fmt.Sprintf("line %d: want %s\ngot %s", i, a[i], strings.Join(b[min(i, len(b)):min(i+1, len(b))], ""))
		}
	}
	return "none"
}

// metamorphosis runs a script and returns all that its client saw.
func metamorphosis(ctx context.Context, seed uint64, open func(context.Context, func() time.Time) (queue.Engine, error), durable bool) (string, error) {
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano()) // what is delayed or expires is far from it
	now := func() time.Time { return time.Unix(0, clock.Load()) }
	e, err := open(ctx, now)
	if err != nil {
		return "", err
	}
	c := &client{ctx: ctx, e: e, rng: rand.New(rand.NewPCG(seed, 13))}
	for range 250 {
		if durable && c.rng.IntN(40) == 0 {
			if err := e.Close(ctx); err != nil {
				return "", err
			}
			if e, err = open(ctx, now); err != nil {
				return "", err
			}
			c.e, c.flight = e, nil
			c.log("again")
		} else if !durable && c.rng.IntN(40) == 0 { // the same, as far as it can be
			if err := c.restart(); err != nil {
				return "", err
			}
			c.log("again")
		}
		if err := c.step(); err != nil {
			return "", errors.Join(err, e.Close(ctx))
		}
	}
	return c.out.String(), e.Close(ctx)
}

// client works with an engine, by chance.
type client struct {
	ctx    context.Context
	e      queue.Engine
	rng    *rand.Rand
	out    strings.Builder
	flight []uint64
	next   int
}

func (c *client) log(format string, args ...any) { fmt.Fprintf(&c.out, format+"\n", args...) }

func (c *client) open() (queue.Topic, queue.Subscription, error) {
	topic, err := c.e.Topic(c.ctx, "a")
	if err != nil {
		return nil, nil, err
	}
	sub, err := topic.Subscribe(c.ctx, "s", queue.SubOptions{MaxInFlight: 12, Order: queue.ByPriority})
	return topic, sub, err
}

// restart gives back what is in flight.
func (c *client) restart() error {
	_, sub, err := c.open()
	c.flight = nil
	return errors.Join(err, sub.Close())
}

func (c *client) step() error {
	topic, sub, err := c.open()
	if err != nil {
		return err
	}
	switch k := c.rng.IntN(10); {
	case k < 4:
		var msgs []message.Message
		for range 1 + c.rng.IntN(6) {
			x := msg(strconv.Itoa(c.next))
			x.Priority = uint8(c.rng.IntN(3))
			msgs, c.next = append(msgs, x), c.next+1
		}
		first, err := topic.Publish(c.ctx, msgs)
		c.log("published at %d", first)
		return err
	case k < 7:
		if st := sub.Stats(); st.Backlog == uint64(st.InFlight) || st.InFlight == 12 {
			return nil
		}
		limit := 1 + c.rng.IntN(6)
		before := len(c.flight)
		for len(c.flight)-before < limit {
			if st := sub.Stats(); st.Backlog == uint64(st.InFlight) || st.InFlight == 12 {
				break
			}
			records, err := sub.Receive(c.ctx, limit-(len(c.flight)-before))
			if err != nil {
				return err
			}
			for _, r := range records {
				c.log("received %d %s, attempt %d, %x", r.Offset, r.Message.ID, r.Attempt, r.Message.Payload)
				c.flight = append(c.flight, r.Offset)
			}
		}
		return nil
	case len(c.flight) == 0:
		return nil
	case k == 7:
		return c.take(func(o uint64) error { return sub.Nack(0, o) })
	case k == 8:
		var held []string
		for r, err := range topic.Browse(c.ctx, queue.Start{}) {
			if err != nil {
				return err
			}
			held = append(held, r.Message.ID)
		}
		c.log("held %v", held)
		return nil
	default:
		for len(c.flight) > 0 {
			if err := c.take(func(o uint64) error { return sub.Ack(o) }); err != nil {
				return err
			}
		}
		return nil
	}
}

func (c *client) take(f func(o uint64) error) error {
	i := c.rng.IntN(len(c.flight))
	o := c.flight[i]
	c.flight = append(c.flight[:i], c.flight[i+1:]...)
	c.log("gave back or settled %d", o)
	return f(o)
}
