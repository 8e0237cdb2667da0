package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/linkspan/linkspan/internal/keys"
)

func TestOpenOrCreate(t *testing.T) {
	dir := t.TempDir()
	first, made, err := keys.OpenOrCreate(dir)
	if err != nil || !made {
		t.Fatalf("made %v: %v", made, err)
	}
	info, err := os.Stat(filepath.Join(dir, "keys"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key file has mode %v: %v", info.Mode(), err)
	}
	second, made, err := keys.OpenOrCreate(dir)
	if err != nil || made {
		t.Fatalf("made again %v: %v", made, err)
	}
	a, _ := first.Derive("x")
	b, _ := second.Derive("x")
	c, _ := second.Derive("y")
	if !bytes.Equal(a, b) || bytes.Equal(a, c) || len(a) != keys.Size {
		t.Error("a purpose does not have one key of its own")
	}
	if err := os.WriteFile(filepath.Join(dir, "keys"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, made, err := keys.OpenOrCreate(dir); err == nil || made {
		t.Error("a damaged key was replaced by another")
	}
}

func TestNoKey(t *testing.T) {
	var absent *keys.Source
	for _, s := range []*keys.Source{absent, keys.None()} {
		if _, err := s.Derive("x"); !errors.Is(err, keys.ErrNoKey) {
			t.Errorf("%v", err)
		}
	}
	for _, text := range []string{"", "00", "zz", string(bytes.Repeat([]byte("0"), 62))} {
		if _, err := keys.Parse(text); err == nil {
			t.Errorf("%q is taken for a key", text)
		}
	}
}

// A file that never ends is no key, and is not read to its end.
func TestAnEndlessFileIsNoKey(t *testing.T) {
	if _, err := os.Stat("/dev/zero"); err != nil {
		t.Skip("no /dev/zero here")
	}
	if _, err := keys.ReadFile("/dev/zero"); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
		t.Errorf("got %v", err)
	}
}
