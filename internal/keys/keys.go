// Package keys holds the secret of an installation and derives working keys from
// it. Two purposes never share a key, so what one leaks says nothing about another.
package keys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Size is the length of the master key and of every working key, in bytes.
const Size = 32

// maxFile bounds what is read of a file that may be no key at all: a running linkspan
// must not take in a disk because somebody named it.
const maxFile = 4 << 10

// ErrNoKey means that no key has been configured.
var ErrNoKey = errors.New("no key is configured; add keys: to linkspan.yaml, or pass --keys FILE")

// Source gives working keys. A Source without a master key gives ErrNoKey, which a
// step turns into a failed message: it never works without a key.
type Source struct {
	master []byte
}

// New returns a source over a master key of Size bytes.
func New(master []byte) (*Source, error) {
	if len(master) != Size {
		return nil, fmt.Errorf("a key of %d bytes is needed, as %d hexadecimal digits", Size, 2*Size)
	}
	return &Source{master: master}, nil
}

// None returns a source without a key.
func None() *Source { return &Source{} }

// Present reports whether there is a key.
func (s *Source) Present() bool { return s != nil && len(s.master) == Size }

// Derive returns the working key of a purpose: HKDF-SHA-256 (RFC 5869) of the master
// key with purpose as info.
func (s *Source) Derive(purpose string) ([]byte, error) {
	if !s.Present() {
		return nil, ErrNoKey
	}
	return hkdf.Key(sha256.New, s.master, nil, purpose, Size)
}

// Parse reads a master key from its text: hexadecimal digits.
func Parse(text string) (*Source, error) {
	master, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("a key of %d bytes is needed, as %d hexadecimal digits", Size, 2*Size)
	}
	return New(master)
}

// ReadFile reads a master key from a file.
func ReadFile(name string) (*Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	s, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", name, err)
	}
	return s, nil
}

// OpenOrCreate reads the master key of a data directory, and makes a random one when
// there is none. Made says so: whoever loses the file can no longer join old hashes
// with new ones.
func OpenOrCreate(dir string) (s *Source, made bool, err error) {
	name := filepath.Join(dir, "keys")
	s, err = ReadFile(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, false, err
	}
	master := make([]byte, Size)
	rand.Read(master)
	if err := writeNew(dir, name, master); err != nil {
		return nil, false, fmt.Errorf("write key: %w", err)
	}
	s, err = New(master)
	return s, true, err
}

// writeNew makes the file appear whole or not at all, because a torn key would
// silently be another key.
func writeNew(dir, name string, master []byte) error {
	tmp, err := os.CreateTemp(dir, "keys-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	if _, err := tmp.WriteString(hex.EncodeToString(master) + "\n"); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
