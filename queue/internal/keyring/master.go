package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/linkspan/linkspan/internal/keys"
)

// Master wraps data keys. A key management service can stand behind it. It is safe for
// concurrent use.
type Master interface {
	// Wrap encrypts a data key of 32 bytes. id names the master key, without secret.
	Wrap(ctx context.Context, key []byte) (id string, wrapped []byte, err error)
	// Unwrap is the inverse. A wrapped key that this master key did not make is
	// ErrWrongMaster.
	Unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error)
}

// NewMaster returns a master that wraps with AES-256-GCM under the key that src derives
// for the queue.
func NewMaster(src *keys.Source) (Master, error) {
	key, err := src.Derive("queue master")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make master key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make master key: %w", err)
	}
	name, err := src.Derive("queue master id")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(name)
	return &local{aead: aead, id: hex.EncodeToString(sum[:8])}, nil
}

// local is a master key that the process holds itself.
type local struct {
	aead cipher.AEAD
	id   string
}

func (m *local) Wrap(_ context.Context, key []byte) (string, []byte, error) {
	return m.id, m.aead.Seal(nil, nil, key, []byte(m.id)), nil
}

func (m *local) Unwrap(_ context.Context, id string, wrapped []byte) ([]byte, error) {
	key, err := m.aead.Open(nil, nil, wrapped, []byte(id))
	if err != nil {
		return nil, fmt.Errorf("unwrap a key of %s with %s: %w", id, m.id, ErrWrongMaster)
	}
	return key, nil
}
