package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/delivery"
)

// goneSet is the set of a topic's offsets that are not in storage any more: they were
// freed, purged or lost.
type goneSet struct {
	mu  sync.Mutex
	set delivery.Set
}

func (g *goneSet) add(first, end uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set.AddRange(first, end)
}

func (g *goneSet) clone() delivery.Set {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.Clone()
}

func (g *goneSet) covers(first, end uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.Covers(first, end)
}

func (g *goneSet) append(b []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.Append(b)
}

// keeps reports whether the topic keeps messages that are settled.
func (t *topic) keeps() bool { return t.o.Keep > 0 || t.o.KeepBytes > 0 }

// free reports whether nobody needs the messages in entries i up to j of the topic. The
// index is locked.
func (t *topic) free(i, j int) bool {
	first, end := t.log.span(i, j)
	if !t.covered(first, end) {
		return false
	}
	o := t.options.Load()
	if o == nil || o.Keep == 0 && o.KeepBytes == 0 || t.gone.covers(first, end) {
		return true
	}
	age := t.e.now().Unix() - int64(t.log.entries[j-1].newest)
	if o.Keep > 0 && age > int64(o.Keep/time.Second) {
		return true
	}
	behind := uint64(0)
	if j < len(t.log.entries) {
		behind = t.log.bytes - t.log.entries[j].bytes
	}
	return o.KeepBytes > 0 && behind >= o.KeepBytes
}

// usable returns why the topic takes and gives nothing, or nil. The engine is locked.
func (t *topic) usable() error {
	switch {
	case t.deleted:
		return queue.ErrUnknownTopic
	case t.held.Load():
		return queue.ErrHeld
	}
	return nil
}

// Bits of what is stored with a topic's options.
const (
	optionHold = 1 << iota // what is lost holds the topic
	optionHeld             // it is held
)

func appendOptions(b []byte, o queue.TopicOptions, held bool) []byte {
	b = binary.AppendUvarint(b, uint64(o.Dedup))
	b = binary.AppendUvarint(b, uint64(o.Keep))
	b = binary.AppendUvarint(b, o.KeepBytes)
	flags := uint64(0)
	if o.OnDamage == queue.Hold {
		flags |= optionHold
	}
	if held {
		flags |= optionHeld
	}
	return binary.AppendUvarint(b, flags)
}

func (d *decoder) options() (o queue.TopicOptions, held bool) {
	o = queue.TopicOptions{
		Dedup: time.Duration(d.uvarint() & (1<<63 - 1)), Keep: time.Duration(d.uvarint() & (1<<63 - 1)), KeepBytes: d.uvarint(),
	}
	flags := d.uvarint()
	if flags&optionHold != 0 {
		o.OnDamage = queue.Hold
	}
	return o, flags&optionHeld != 0
}

// appendTopic encodes a topic that is new, or has new options.
func appendTopic(b []byte, id uint32, name string, o queue.TopicOptions, held bool) []byte {
	b, at := beginRecord(b, recordTopic, id, 0)
	b = appendString(b, name)
	b = appendOptions(b, o, held)
	endRecord(b, at)
	return b
}

// Configure implements queue.Topic.
func (t *topic) Configure(ctx context.Context, o queue.TopicOptions) error {
	if o.OnDamage != queue.ServeRest && o.OnDamage != queue.Hold {
		return fmt.Errorf("configure topic %q: damage policy %q: %w", t.name, o.OnDamage, queue.ErrUnsupported)
	}
	if o.Dedup < 0 || o.Keep < 0 {
		return fmt.Errorf("configure topic %q: a duration is negative", t.name)
	}
	t.e.mu.Lock()
	same, held := t.o == o, t.held.Load()
	t.e.mu.Unlock()
	if same {
		return nil
	}
	return t.change(ctx, o, held)
}

// Resume lets a topic go on that is held because messages were lost to damage.
func (e *Engine) Resume(ctx context.Context, name string) error {
	e.mu.Lock()
	t := e.topics[name]
	var o queue.TopicOptions
	if t != nil {
		o = t.o
	}
	e.mu.Unlock()
	if t == nil {
		return fmt.Errorf("resume topic %q: %w", name, queue.ErrUnknownTopic)
	}
	return t.change(ctx, o, false)
}

// change makes options stable, and takes them in.
func (t *topic) change(ctx context.Context, o queue.TopicOptions, held bool) error {
	err := t.e.command(ctx, func(u *unit) {
		u.buf = appendTopic(u.buf, t.id, t.name, o, held)
		u.then = func() { t.configure(o, held) }
	})
	if err != nil {
		return fmt.Errorf("configure topic %q: %w", t.name, err)
	}
	return nil
}

// configure takes options in.
func (t *topic) configure(o queue.TopicOptions, held bool) {
	t.e.mu.Lock()
	t.o = o
	t.known.window = o.Dedup
	t.e.mu.Unlock()
	t.options.Store(&o)
	t.held.Store(held)
	if !held {
		for _, s := range t.subscribers() {
			s.win.Wake()
		}
	}
}

// command makes one record stable.
func (e *Engine) command(ctx context.Context, encode func(u *unit)) error {
	u := e.unit()
	defer e.free(u)
	encode(u)
	u.parts = append(u.parts, part{count: 1})
	b, err := e.join(ctx, u, frees)
	if err != nil {
		return err
	}
	return b.wait(ctx)
}
