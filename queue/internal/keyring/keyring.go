// Package keyring holds the data keys of a queue. A data key is random and is stored
// only wrapped by a master key, which the directory does not hold. Who deletes a data
// key makes what was encrypted with it unreadable, for good.
//
// The ring is a file in two copies, of which one suffices. A change writes them one
// after the other, so that a crash or damage never takes both.
package keyring

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
)

// Errors that say what is wrong with keys.
var (
	// ErrNoMaster means that there is a ring and no master key to open it.
	ErrNoMaster = errors.New("the queue is encrypted and no key is configured; configure the keys it was written with")
	// ErrWrongMaster means that the master key does not open the ring.
	ErrWrongMaster = errors.New("the queue is encrypted with another key; configure the keys it was written with")
	// ErrNoKey means that a data key is not in the ring: it was shredded, or the ring is
	// not the one of this directory.
	ErrNoKey = errors.New("the data key is not in the keyring; restore the file keyring from a backup of this directory")
	// ErrWrite means that a change of the ring may not be stable.
	ErrWrite = errors.New("write keyring")
	// ErrDamaged means that no copy of the ring verifies.
	ErrDamaged = errors.New("no copy of the keyring verifies; restore the file keyring from a backup of this directory")
)

// Key describes a data key. It does not hold it.
type Key struct {
	// ID is what segments call it.
	ID uint32 `json:"id"`
	// Topic is the id of the topic that it is for, or 0 for the journal.
	Topic uint32 `json:"topic"`
	// Master names the master key that wraps it.
	Master  string    `json:"master"`
	Created time.Time `json:"created"`
	// Active keys encrypt what is new; the others are for reading.
	Active bool `json:"active"`
}

type entry struct {
	Key
	wrapped []byte
	plain   []byte // once it was unwrapped
}

// Ring is the open keyring. It is safe for concurrent use.
type Ring struct {
	fs  vfs.FS
	dir string

	mu      sync.Mutex
	master  Master
	version uint64 // counts the changes
	entries []entry
	stale   bool // a copy is missing, older or damaged
	damaged []string
}

const size = 32 // of a data key, in bytes

// Names returns the names of the two copies.
func Names() [2]string { return [2]string{"keyring", "keyring.2"} }

// Load reads the ring of a directory. found is false when there is none, and the ring
// is empty then. Nothing is unwrapped, so master may be nil.
func Load(fsys vfs.FS, dir string, master Master) (r *Ring, found bool, err error) {
	r = &Ring{fs: fsys, dir: dir, master: master}
	good := 0
	for _, name := range Names() {
		data, err := read(fsys, path.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			r.stale = true
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("read keyring: %w", err)
		}
		found = true
		version, entries, err := decode(data)
		if err != nil {
			r.stale, r.damaged = true, append(r.damaged, name)
			continue
		}
		r.stale = r.stale || good > 0 && version != r.version
		if good == 0 || version > r.version {
			r.version, r.entries = version, entries
		}
		good++
	}
	if found && good == 0 {
		return nil, true, fmt.Errorf("read keyring: %w", ErrDamaged)
	}
	return r, found, nil
}

func read(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.OpenRead(name)
	if err != nil {
		return nil, err
	}
	n, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	data := make([]byte, n)
	if got, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	} else if int64(got) < n {
		data = data[:got]
	}
	return data, f.Close()
}

// Check reports whether the master key opens the ring.
func (r *Ring) Check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.entries {
		if r.entries[i].Active {
			_, err := r.unwrap(ctx, &r.entries[i])
			return err
		}
	}
	return nil
}

// Repair writes both copies when one of them is missing, older or damaged.
func (r *Ring) Repair() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stale || len(r.entries) == 0 {
		return nil
	}
	return r.save(r.entries)
}

// Damaged names the copies that did not verify when the ring was loaded. No crash leaves
// one.
func (r *Ring) Damaged() []string { return r.damaged }

// Keys describes the keys, in the order of their creation.
func (r *Ring) Keys() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Key, len(r.entries))
	for i := range r.entries {
		out[i] = r.entries[i].Key
	}
	return out
}

// Has reports whether a key is there.
func (r *Ring) Has(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.find(id) != nil
}

func (r *Ring) find(id uint32) *entry {
	i := slices.IndexFunc(r.entries, func(e entry) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &r.entries[i]
}

func (r *Ring) active(topic uint32) *entry {
	i := slices.IndexFunc(r.entries, func(e entry) bool { return e.Topic == topic && e.Active })
	if i < 0 {
		return nil
	}
	return &r.entries[i]
}

func (r *Ring) unwrap(ctx context.Context, e *entry) ([]byte, error) {
	if e.plain != nil {
		return e.plain, nil
	}
	if r.master == nil {
		return nil, ErrNoMaster
	}
	key, err := r.master.Unwrap(ctx, e.Master, e.wrapped)
	if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	if len(key) != size {
		return nil, fmt.Errorf("open keyring: %w", ErrWrongMaster)
	}
	e.plain = key
	return key, nil
}

// Derive returns a working key: HKDF-SHA-256 of the data key, with the purpose and the
// epoch of the segment as info. Each segment has a key of its own without a change of
// the ring, which keeps the number of messages under one key far below the bound of
// AES-GCM with random nonces.
func (r *Ring) Derive(ctx context.Context, id uint32, purpose string, epoch uint64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.find(id)
	if e == nil {
		return nil, fmt.Errorf("data key %08x: %w", id, ErrNoKey)
	}
	key, err := r.unwrap(ctx, e)
	if err != nil {
		return nil, err
	}
	info := binary.LittleEndian.AppendUint64([]byte(purpose), epoch)
	return hkdf.Key(sha256.New, key, nil, string(info), size)
}

// Active returns the ids of the active keys of the topics, 0 meaning the journal, and
// makes those that are missing, all in one change of the ring.
func (r *Ring) Active(ctx context.Context, topics ...uint32) ([]uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := slices.Clone(r.entries)
	ids := make([]uint32, len(topics))
	for i, topic := range topics {
		if e := r.active(topic); e != nil {
			ids[i] = e.ID
			continue
		}
		e, err := r.make(ctx, topic)
		if err != nil {
			return nil, err
		}
		entries, ids[i] = append(entries, e), e.ID
	}
	if len(entries) == len(r.entries) {
		return ids, nil
	}
	return ids, r.save(entries)
}

// make makes a key. Its id is random, so that a key of another ring is never taken for
// it.
func (r *Ring) make(ctx context.Context, topic uint32) (entry, error) {
	if r.master == nil {
		return entry{}, ErrNoMaster
	}
	key := make([]byte, size+4)
	_, _ = rand.Read(key) // never fails
	id := binary.LittleEndian.Uint32(key[size:])
	for id == 0 || r.find(id) != nil {
		id++
	}
	master, wrapped, err := r.master.Wrap(ctx, key[:size])
	if err != nil {
		return entry{}, fmt.Errorf("wrap data key: %w", err)
	}
	return entry{
		Key:     Key{ID: id, Topic: topic, Master: master, Created: time.Now().UTC(), Active: true},
		wrapped: wrapped, plain: key[:size:size],
	}, nil
}

// Renew makes new keys active for the journal and for each of the topics that has one.
// all says that it is for all topics, else it is for the journal only.
func (r *Ring) Renew(ctx context.Context, all bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := r.renewed(ctx, all)
	if err != nil {
		return err
	}
	return r.save(entries)
}

func (r *Ring) renewed(ctx context.Context, all bool) ([]entry, error) {
	entries := slices.Clone(r.entries)
	for i := range r.entries {
		if !entries[i].Active || entries[i].Topic != 0 && !all {
			continue
		}
		e, err := r.make(ctx, entries[i].Topic)
		if err != nil {
			return nil, err
		}
		entries[i].Active = false
		entries = append(entries, e)
	}
	return entries, nil
}

// Rotate wraps all keys with another master key, drops those that are neither active
// nor used, and makes new ones active.
func (r *Ring) Rotate(ctx context.Context, next Master, used func(id uint32) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(r.entries), func(e entry) bool { return !e.Active && !used(e.ID) })
	for i := range kept {
		e := &kept[i]
		key, err := r.unwrap(ctx, e)
		if err != nil {
			return err
		}
		if e.Master, e.wrapped, err = next.Wrap(ctx, key); err != nil {
			return fmt.Errorf("wrap data key: %w", err)
		}
		e.plain = key
	}
	old, entries, version := r.master, r.entries, r.version
	r.master, r.entries = next, kept
	renewed, err := r.renewed(ctx, true)
	if err == nil {
		err = r.save(renewed)
	}
	if err != nil && r.version == version { // nothing was written
		r.master, r.entries = old, entries
	}
	return err
}

// Shred deletes keys. When it returns nil, no copy of the ring has them any more.
func (r *Ring) Shred(gone func(k Key) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.save(slices.DeleteFunc(slices.Clone(r.entries), func(e entry) bool { return gone(e.Key) }))
}

// save makes a change stable, in one copy after the other.
func (r *Ring) save(entries []entry) error {
	data := encode(r.version+1, entries)
	for i, name := range Names() {
		if err := r.write(path.Join(r.dir, name), data); err != nil {
			return fmt.Errorf("%w: %w", ErrWrite, err)
		}
		if i == 0 { // it counts from here on
			r.version, r.entries, r.stale = r.version+1, entries, true
		}
	}
	r.stale = false
	return nil
}

func (r *Ring) write(name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := r.fs.Create(tmp)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := r.fs.Rename(tmp, name); err != nil {
		return err
	}
	return r.fs.SyncDir(r.dir)
}
