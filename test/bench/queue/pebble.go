package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// pebbleStore is a thin queue on Pebble. A key is the topic (4 bytes) and the offset (8
// bytes), big-endian; the value is the payload. Publishing is a Set with Sync, so that
// Pebble's group commit serves all publishers. An acknowledgement is a Delete without
// Sync: losing it is a redelivery.
type pebbleStore struct {
	db   *pebble.DB
	next []atomic.Uint64 // by topic

	mu     sync.Mutex
	cursor uint64        // of topic 0: what is below was handed out
	old    uint64        // of topic 0: what is below was there when the store was opened
	more   chan struct{} // a token for who waits for messages
}

func openPebble(_ context.Context, dir string, topics int) (store, error) {
	cache := pebble.NewCache(64 << 20)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       1000,
		Logger:                      quiet{},
	})
	if err != nil {
		return nil, err
	}
	s := &pebbleStore{db: db, next: make([]atomic.Uint64, topics), more: make(chan struct{}, 1)}
	return s, s.recover()
}

// recover finds where each topic begins and ends.
func (s *pebbleStore) recover() error {
	for topic := range s.next {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: pebbleKey(topic, 0), UpperBound: pebbleKey(topic+1, 0)})
		if err != nil {
			return err
		}
		if it.Last() {
			s.next[topic].Store(offsetOf(it.Key()) + 1)
		}
		if topic == 0 && it.First() {
			s.cursor, s.old = offsetOf(it.Key()), s.next[0].Load()
		}
		if err := it.Close(); err != nil {
			return err
		}
	}
	return nil
}

func pebbleKey(topic int, offset uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(make([]byte, 0, 12), uint32(topic)), offset)
}

func offsetOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[4:]) }

func (s *pebbleStore) publisher(topic int) func(ctx context.Context, payload []byte) error {
	return func(_ context.Context, payload []byte) error {
		if err := s.db.Set(pebbleKey(topic, s.next[topic].Add(1)-1), payload, pebble.Sync); err != nil {
			return err
		}
		s.signal()
		return nil
	}
}

func (s *pebbleStore) signal() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *pebbleStore) subscribe(context.Context) error { return nil }

func (s *pebbleStore) consume(ctx context.Context, limit int) (int, error) {
	for {
		offsets, err := s.take(limit)
		if err != nil {
			return 0, err
		}
		if len(offsets) > 0 {
			s.signal() // there may be more for another consumer
			return len(offsets), s.ack(offsets)
		}
		select {
		case <-s.more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// take hands out the next messages. It stops at a gap, which is a message that is not
// committed yet, unless the gap is from before a crash: then it never will be.
func (s *pebbleStore) take(limit int) (offsets []uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: pebbleKey(0, s.cursor), UpperBound: pebbleKey(1, 0)})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok && len(offsets) < limit; ok = it.Next() {
		if offset := offsetOf(it.Key()); offset < s.old {
			s.cursor = offset
		} else if offset != s.cursor {
			break
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		if copied := append([]byte(nil), value...); len(copied) != payloadSize {
			return nil, errors.Join(fmt.Errorf("message %d has %d bytes", s.cursor, len(copied)), it.Close())
		}
		offsets = append(offsets, s.cursor)
		s.cursor++
	}
	return offsets, it.Close()
}

func (s *pebbleStore) ack(offsets []uint64) error {
	b := s.db.NewBatch()
	for _, o := range offsets {
		if err := b.Delete(pebbleKey(0, o), nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.NoSync)
}

func (s *pebbleStore) close(context.Context) error { return s.db.Close() }

// quiet drops Pebble's log. A fatal error ends the process, as it does by default.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("pebble: "+format, args...))
}
