package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// fingerprint stands for the ID of a message in a topic: 128 bits of SHA-256. Nobody can
// make two IDs that share one, so a hit needs no look at the message, which may be long
// gone from storage when its twin comes.
type fingerprint [16]byte

const (
	// generations is how many parts a window has; the oldest is forgotten as a whole.
	generations = 8
	// maxKnown bounds the IDs of a topic. At the bound the window gets shorter.
	maxKnown = 1 << 20
)

// known remembers the IDs of a topic. The engine's lock guards it.
type known struct {
	window     time.Duration
	count      int
	gens       []generation
	pending    map[fingerprint]*batch // not stable yet
	duplicates uint64
	shortened  bool
}

// generation is the IDs of a part of the window.
type generation struct {
	since int64 // nanoseconds since 1970
	ids   map[fingerprint]struct{}
}

// fingerprints returns those of the messages, if the topic remembers them. A message
// without an ID has a zero one.
func (t *topic) fingerprints(msgs []message.Message) []fingerprint {
	o := t.options.Load()
	if o == nil || o.Dedup <= 0 {
		return nil
	}
	out := make([]fingerprint, len(msgs))
	for i := range msgs {
		out[i] = t.fingerprint(msgs[i].ID)
	}
	return out
}

func (t *topic) fingerprint(id string) (f fingerprint) {
	if id == "" {
		return f
	}
	h := sha256.New()
	h.Write(binary.LittleEndian.AppendUint32(nil, t.id))
	if plant.On(plant.DedupTooMuch) {
		id = id[:len(id)/2]
	}
	h.Write([]byte(id))
	copy(f[:], h.Sum(nil))
	return f
}

// sift takes the messages out of a unit that are known already. A message whose twin is
// on its way has to wait for it: what the twin was not promised, nobody was. The lock is
// held.
func (e *Engine) sift(u *unit) (wait <-chan struct{}) {
	now := e.now().UnixNano()
	at := 0
	for i := range u.parts {
		p := &u.parts[i]
		if p.topic == nil || len(p.ids) == 0 {
			at += u.size(at, p.count)
			continue
		}
		k := &p.topic.known
		k.forget(now)
		seen := map[fingerprint]bool{}
		for n := 0; n < p.count; {
			f, size := p.ids[n], u.size(at, 1)
			b, has := k.lookup(f)
			if b != nil {
				return b.done
			}
			if f == (fingerprint{}) || !has && !seen[f] {
				seen[f] = true
				at, n = at+size, n+1
				continue
			}
			k.duplicates++
			u.buf = append(u.buf[:at], u.buf[at+size:]...)
			p.ids = append(p.ids[:n], p.ids[n+1:]...)
			p.count--
		}
	}
	return nil
}

// size returns the length of n records.
func (u *unit) size(at, n int) (size int) {
	for range n {
		size += recordHeader + int(binary.LittleEndian.Uint32(u.buf[at+size:]))
	}
	return size
}

// lookup reports whether an ID is known, or in which batch it is on its way.
func (k *known) lookup(f fingerprint) (b *batch, has bool) {
	if b = k.pending[f]; b != nil {
		select {
		case <-b.done: // had it held, it would not be pending
		default:
			return b, false
		}
	}
	for i := range k.gens {
		if _, has = k.gens[i].ids[f]; has {
			return nil, true
		}
	}
	return nil, false
}

// begin notes IDs that are on their way in a batch. The lock is held.
func (t *topic) begin(ids []fingerprint, b *batch) {
	if len(ids) == 0 {
		return
	}
	b.then = append(b.then, func() { t.learned(ids) })
	k := &t.known
	if k.pending == nil {
		k.pending = map[fingerprint]*batch{}
	}
	for _, f := range ids {
		if f != (fingerprint{}) {
			k.pending[f] = b
		}
	}
}

// learn takes in IDs that are stable.
func (k *known) learn(ids []fingerprint, now int64) {
	k.forget(now)
	n := len(k.gens)
	if n == 0 || now-k.gens[n-1].since >= int64(k.window)/generations {
		k.gens = append(k.gens, generation{since: now, ids: map[fingerprint]struct{}{}})
		n++
	}
	for _, f := range ids {
		if f != (fingerprint{}) {
			k.gens[n-1].ids[f] = struct{}{}
			k.count++
			delete(k.pending, f)
		}
	}
}

// forget drops what is older than the window, and what is too much.
func (k *known) forget(now int64) {
	for len(k.gens) > 0 {
		last := k.gens[0].since + int64(k.window)/generations // it got its last ID before this
		if len(k.gens) > 1 {
			last = k.gens[1].since
		}
		full := k.count >= maxKnown && len(k.gens) > 1
		if !full && now-last <= int64(k.window) {
			return
		}
		k.shortened = k.shortened || full
		k.count -= len(k.gens[0].ids)
		k.gens = k.gens[1:]
	}
}

func (k *known) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(k.gens)))
	for _, g := range k.gens {
		b = binary.AppendVarint(b, g.since)
		b = binary.AppendUvarint(b, uint64(len(g.ids)))
		for f := range g.ids {
			b = append(b, f[:]...)
		}
	}
	return b
}

func (d *decoder) known() (k known) {
	for range d.count() {
		g := generation{since: d.varint()}
		n := d.count()
		if n > uint64(len(d.b)-d.at)/uint64(len(fingerprint{})) {
			d.fail()
			return k
		}
		g.ids = make(map[fingerprint]struct{}, n)
		for range n {
			var f fingerprint
			d.at += copy(f[:], d.b[d.at:])
			g.ids[f] = struct{}{}
		}
		k.count += len(g.ids)
		k.gens = append(k.gens, g)
	}
	return k
}

// learned takes in the IDs of messages that are stable now.
func (t *topic) learned(ids []fingerprint) {
	now := t.e.now().UnixNano()
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	t.known.learn(ids, now)
}
