package journal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/internal/keyring"
)

// Master wraps the data keys of a queue. A key management service can stand behind it.
type Master = keyring.Master

// Key describes a data key of a queue.
type Key = keyring.Key

// Errors about keys. Each says what to do.
var (
	// ErrNoMaster means that the directory is encrypted and Options.Master is nil.
	ErrNoMaster = keyring.ErrNoMaster
	// ErrWrongMaster means that Options.Master is not the one of the directory.
	ErrWrongMaster = keyring.ErrWrongMaster
	// ErrNoKey means that the keyring lacks a key that something was encrypted with.
	ErrNoKey = keyring.ErrNoKey
	// ErrKeyring means that no copy of the keyring verifies.
	ErrKeyring = keyring.ErrDamaged
)

// NewMaster returns a Master over the key that src derives for the queue.
func NewMaster(src *keys.Source) (Master, error) { return keyring.NewMaster(src) }

// MasterOf returns a Master over a secret of 32 bytes, for programs that keep it
// themselves.
func MasterOf(secret []byte) (Master, error) {
	src, err := keys.New(secret)
	if err != nil {
		return nil, err
	}
	return NewMaster(src)
}

// KeysStatus lists the data keys of a directory. It needs no master key.
func KeysStatus(fs vfs.FS, dir string) ([]Key, error) {
	ring, _, err := keyring.Load(fs, dir, nil)
	if err != nil {
		return nil, err
	}
	return ring.Keys(), nil
}

// What working keys are derived for.
const (
	journalPurpose = "linkspan queue journal segment "
	topicPurpose   = "linkspan queue topic segment "
)

// openVault reads the keyring and checks that the master key is the right one. It
// changes nothing.
func (e *Engine) openVault(ctx context.Context) error {
	ring, found, err := keyring.Load(e.fs, e.dir, e.o.Master)
	if err != nil {
		return err
	}
	e.ring = ring
	for _, name := range ring.Damaged() {
		e.log.Error("a copy of the keyring is damaged; the other one is used", slog.Any("copy", name))
		e.found.Status = Damaged
		e.found.Damage = append(e.found.Damage, DamageNote{Position: Position{Segment: name}, Found: time.Now().UTC()})
	}
	switch {
	case !found:
		return nil
	case e.o.Master == nil:
		return ErrNoMaster
	}
	return ring.Check(ctx)
}

// beginKeys makes sure that there is a key for what is new, and that both copies of the
// keyring are whole.
func (e *Engine) beginKeys(ctx context.Context) error {
	if err := e.ring.Repair(); err != nil && !isFull(err) { // one copy suffices
		return err
	}
	keys, err := e.newKeys(ctx, 0)
	if err != nil {
		return err
	}
	e.journalKey = keys[0]
	return nil
}

// errKeys means that a data key cannot be had now. Whoever keeps the master key may be
// away, so this is no failure of storage.
var errKeys = errors.New("a data key is not available")

// newKeys returns the ids of the keys for what is new of these topics, 0 meaning the
// journal, or zeros when nothing is encrypted.
func (e *Engine) newKeys(ctx context.Context, topics ...uint32) ([]uint32, error) {
	if e.o.Master == nil {
		return make([]uint32, len(topics)), nil
	}
	ids, err := e.ring.Active(ctx, topics...)
	if err != nil && !errors.Is(err, keyring.ErrWrite) {
		err = fmt.Errorf("%w: %w", errKeys, err)
	}
	return ids, err
}

// unlock gives a segment its cipher, if it is encrypted.
func (e *Engine) unlock(ctx context.Context, s *segment) error {
	if s.key == 0 || s.aead != nil {
		return nil
	}
	aead, err := e.cipherOf(ctx, s)
	if err != nil {
		return fmt.Errorf("open segment %s: %w", s.path(), err)
	}
	s.aead = aead
	return nil
}

// cipherOf returns the cipher of an encrypted segment.
func (e *Engine) cipherOf(ctx context.Context, s *segment) (cipher.AEAD, error) {
	purpose := journalPurpose
	if s.topic != nil {
		purpose = topicPurpose
	}
	key, err := e.ring.Derive(ctx, s.key, purpose, s.epoch)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeys, err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("use data key: %w", err)
	}
	// Counters would repeat after a crash, with other content: random nonces do not.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("use data key: %w", err)
	}
	return aead, nil
}
