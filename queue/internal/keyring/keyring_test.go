package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/internal/keyring"
)

func master(t *testing.T, b byte) keyring.Master {
	t.Helper()
	secret := make([]byte, keys.Size)
	secret[0] = b
	src, err := keys.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	m, err := keyring.NewMaster(src)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func load(t *testing.T, disk vfs.FS, m keyring.Master) *keyring.Ring {
	t.Helper()
	r, _, err := keyring.Load(disk, "", m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A working key depends on the data key, the purpose and the epoch, and comes again
// after a restart.
func TestDerive(t *testing.T) {
	disk, ctx := vfs.NewMem(), t.Context()
	r := load(t, disk, master(t, 1))
	ids, err := r.Active(ctx, 0, 7, 0)
	if err != nil || ids[0] == ids[1] || ids[0] != ids[2] && len(r.Keys()) != 3 {
		t.Fatalf("%v, %v", ids, err)
	}
	want := map[string]bool{}
	derive := func(r *keyring.Ring, id uint32, purpose string, epoch uint64) []byte {
		k, err := r.Derive(ctx, id, purpose, epoch)
		if err != nil || len(k) != 32 {
			t.Fatalf("%d bytes, %v", len(k), err)
		}
		return k
	}
	for _, id := range ids[:2] {
		for _, purpose := range []string{"a", "b"} {
			for epoch := range uint64(3) {
				want[string(derive(r, id, purpose, epoch))] = true
			}
		}
	}
	if len(want) != 12 {
		t.Errorf("%d different keys, want 12", len(want))
	}
	again := load(t, disk, master(t, 1))
	if !want[string(derive(again, ids[1], "b", 2))] {
		t.Error("another key after a restart")
	}
	if _, err := again.Derive(ctx, ids[0]^ids[1]^1, "a", 0); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a key that is not there: %v", err)
	}
	if err := load(t, disk, master(t, 2)).Check(ctx); !errors.Is(err, keyring.ErrWrongMaster) {
		t.Errorf("another master: %v", err)
	}
	if err := load(t, disk, nil).Check(ctx); !errors.Is(err, keyring.ErrNoMaster) {
		t.Errorf("no master: %v", err)
	}
}

// Whatever call the power goes at, the ring is there as it was or as it will be, and
// what Shred was done with is in no copy.
func TestCrash(t *testing.T) {
	ctx := t.Context()
	base := vfs.NewMem()
	first := load(t, base, master(t, 1))
	ids, err := first.Active(ctx, 0, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]func(r *keyring.Ring) error{
		"shred": func(r *keyring.Ring) error { return r.Shred(func(k keyring.Key) bool { return k.Topic == 1 }) },
		"renew": func(r *keyring.Ring) error { return r.Renew(ctx, true) },
		"rotate": func(r *keyring.Ring) error {
			return r.Rotate(ctx, master(t, 9), func(uint32) bool { return true })
		},
	}
	for name, change := range changes {
		for point := 0; ; point++ {
			rng := rand.New(rand.NewPCG(uint64(point), 1))
			disk := base.Crash(rng, vfs.KeepAll, true)
			var cut *vfs.Mem
			left := point
			r := load(t, vfs.WithHook(disk, func(op vfs.Op, _ string) error {
				if op.Changes() {
					if left--; left < 0 && cut == nil {
						cut = disk.Crash(rng, vfs.Survivals()[point%4], point%3 == 0)
					}
				}
				return nil
			}), master(t, 1))
			if err := change(r); err != nil {
				t.Fatal(err)
			}
			if cut == nil {
				break
			}
			found, ok, err := keyring.Load(cut, "", master(t, 1))
			if err != nil || !ok || len(found.Keys()) < 2 {
				t.Fatalf("%s point %d: %v, found %v", name, point, err, ok)
			}
			m := master(t, 1)
			if err := found.Check(ctx); errors.Is(err, keyring.ErrWrongMaster) && name == "rotate" {
				m = master(t, 9)
			}
			found = load(t, cut, m)
			for _, id := range []uint32{ids[0], ids[2]} {
				if _, err := found.Derive(ctx, id, "x", 1); err != nil {
					t.Errorf("%s point %d: %v", name, point, err)
				}
			}
			if err := found.Repair(); err != nil {
				t.Errorf("%s point %d: repair: %v", name, point, err)
			}
			if a, b := file(t, cut, "keyring"), file(t, cut, "keyring.2"); !bytes.Equal(a, b) {
				t.Errorf("%s point %d: the copies differ after a repair", name, point)
			}
		}
	}
	if err := first.Shred(func(k keyring.Key) bool { return k.Topic == 1 }); err != nil {
		t.Fatal(err)
	}
	lost := base.Crash(rand.New(rand.NewPCG(1, 1)), vfs.LoseAll, false)
	for _, name := range keyring.Names() {
		if err := lost.Remove(name); err != nil {
			t.Fatal(err)
		}
		if r := load(t, lost, master(t, 1)); r.Has(ids[1]) {
			t.Errorf("the shredded key is still there without %s", name)
		}
		lost = base.Crash(rand.New(rand.NewPCG(1, 1)), vfs.LoseAll, false)
	}
}

func file(t *testing.T, disk vfs.FS, name string) []byte {
	t.Helper()
	f, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := f.Size()
	data := make([]byte, n)
	_, _ = f.ReadAt(data, 0)
	return data
}

// Every bit of a copy: the other one takes over. Both: a refusal.
func TestDamage(t *testing.T) {
	disk := vfs.NewMem()
	r := load(t, disk, master(t, 1))
	if _, err := r.Active(t.Context(), 0, 5); err != nil {
		t.Fatal(err)
	}
	size := int64(len(file(t, disk, "keyring")))
	for bit := range size * 8 {
		disk.Flip("keyring", bit)
		got, _, err := keyring.Load(disk, "", nil)
		if err != nil || len(got.Keys()) != 2 {
			t.Fatalf("bit %d: %v", bit, err)
		}
		disk.Flip("keyring.2", (bit+99)%(size*8))
		if got, _, err := keyring.Load(disk, "", nil); !errors.Is(err, keyring.ErrDamaged) && len(got.Keys()) != 2 {
			t.Fatalf("bit %d of both: %v", bit, err)
		}
		disk.Flip("keyring", bit)
		disk.Flip("keyring.2", (bit+99)%(size*8))
	}
}

// A keeper of the master key that is away changes nothing.
func TestMasterAway(t *testing.T) {
	disk := vfs.NewMem()
	r := load(t, disk, away{})
	if _, err := r.Active(t.Context(), 0); !errors.Is(err, errAway) {
		t.Errorf("%v", err)
	}
	if names, err := disk.List(""); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
	r = load(t, disk, master(t, 1))
	if _, err := r.Active(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	before := file(t, disk, "keyring")
	if err := r.Rotate(t.Context(), away{}, func(uint32) bool { return true }); !errors.Is(err, errAway) {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(before, file(t, disk, "keyring")) {
		t.Error("the ring was changed")
	}
	if _, err := r.Active(t.Context(), 3); err != nil {
		t.Errorf("the old master does not work any more: %v", err)
	}
}

var errAway = errors.New("away")

type away struct{}

func (away) Wrap(context.Context, []byte) (string, []byte, error) { return "", nil, errAway }

func (away) Unwrap(context.Context, string, []byte) ([]byte, error) { return nil, errAway }

// FuzzLoad: no file makes the decoder panic.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("LSSK"))
	f.Fuzz(func(t *testing.T, data []byte) {
		disk := vfs.NewMem()
		file, err := disk.Create("keyring")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		if r, _, err := keyring.Load(disk, "", nil); err == nil {
			r.Keys()
		}
	})
}
