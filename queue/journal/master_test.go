package journal_test

import (
	"testing"

	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/queue/journal"
)

func master(t testing.TB, b byte) journal.Master {
	t.Helper()
	secret := make([]byte, keys.Size)
	secret[0] = b
	src, err := keys.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	m, err := journal.NewMaster(src)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// testMaster is a master key for the batteries.
func testMaster() journal.Master {
	src, err := keys.New(make([]byte, keys.Size))
	if err != nil {
		panic(err)
	}
	m, err := journal.NewMaster(src)
	if err != nil {
		panic(err)
	}
	return m
}
