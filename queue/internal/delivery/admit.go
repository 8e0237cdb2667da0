package delivery

import (
	"container/heap"
	"hash/maphash"
	"slices"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// admit decides, now that the messages are read, which of them a receiver gets. The
// others wait for their time or their key, or are dead.
func (w *Window) admit(records []queue.Record) (got []queue.Record, dead []Dead) {
	if !w.choosy(records) {
		return records, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	got = records[:0]
	for i := range records {
		r := &records[i]
		m := &r.Message
		switch {
		case m.Expired(now) && !w.o.DeliverExpired && !plant.On(plant.ExpiredDelivered):
			dead = append(dead, Dead{Record: *r, Expired: true})
		case m.NotBefore.After(now) && !plant.On(plant.EarlyDelivery):
			w.putBack(r.Offset, m.NotBefore.UnixNano(), true, 1)
		case w.o.MaxAttempts > 0 && r.Attempt > w.o.MaxAttempts:
			dead = append(dead, Dead{Record: *r})
		case w.o.Order == queue.ByKey && m.Key != nil && !w.claim(r):
		case w.failed[r.Offset].Due > now.UnixNano(): // it failed before this opening
			w.putBack(r.Offset, w.failed[r.Offset].Due, true, 1)
		default:
			got = append(got, *r)
		}
	}
	clear(records[len(got):])
	if len(got) == 0 {
		w.signal() // there may be room now
	}
	return got, dead
}

// choosy reports whether a look at the messages is needed at all.
func (w *Window) choosy(records []queue.Record) bool {
	o := w.Options()
	if o.Order == queue.ByKey || o.MaxAttempts > 0 {
		return true
	}
	return slices.ContainsFunc(records, func(r queue.Record) bool {
		return !r.Message.Expires.IsZero() || !r.Message.NotBefore.IsZero()
	})
}

// claim reports whether the message may go out for its key; otherwise it waits.
func (w *Window) claim(r *queue.Record) bool {
	it := item{offset: r.Offset, delivery: w.inFlight[r.Offset].delivery - 1}
	if w.keys.claim(r.Message.Key, it) || plant.On(plant.KeyOvertakes) {
		return true
	}
	delete(w.inFlight, r.Offset)
	return false
}

// keyring knows which keys are busy. A message holds its key from when it is handed out
// until it is settled, also while it waits for another attempt.
type keyring struct {
	seed    maphash.Seed
	busy    map[uint64]*holder // by hash of the key: a collision makes two keys wait for each other
	holders map[uint64]uint64  // offset → hash
	waiting int
}

type holder struct {
	offset  uint64
	waiting byRank
}

func newKeyring() keyring {
	return keyring{seed: maphash.MakeSeed(), busy: map[uint64]*holder{}, holders: map[uint64]uint64{}}
}

// claim takes the key for an offset, or lets the offset wait for it.
func (k *keyring) claim(key []byte, it item) bool {
	hash := maphash.Bytes(k.seed, key)
	h := k.busy[hash]
	switch {
	case h == nil:
		k.busy[hash] = &holder{offset: it.offset}
		k.holders[it.offset] = hash
		return true
	case h.offset == it.offset:
		return true
	}
	heap.Push(&h.waiting, it)
	k.waiting++
	return false
}

// release frees the key that the offset holds, for the first that waits for it. ok says
// that there is one: it is to be handed out.
func (k *keyring) release(offset uint64, settled func(uint64) bool) (next item, ok bool) {
	hash, held := k.holders[offset]
	if !held {
		return item{}, false
	}
	delete(k.holders, offset)
	h := k.busy[hash]
	for len(h.waiting) > 0 {
		next = heap.Pop(&h.waiting).(item) //nolint:forcetypeassert // the heap holds nothing else
		k.waiting--
		if settled(next.offset) {
			continue
		}
		h.offset = next.offset
		k.holders[next.offset] = hash
		return next, true
	}
	delete(k.busy, hash)
	return item{}, false
}

// heldIn returns the offsets from first up to end that hold a key.
func (k *keyring) heldIn(first, end uint64) (out []uint64) {
	for o := range k.holders {
		if o >= first && o < end {
			out = append(out, o)
		}
	}
	return out
}
