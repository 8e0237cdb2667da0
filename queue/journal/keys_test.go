package journal_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// Rotation: the old master key opens nothing any more, the new one everything.
func TestRotate(t *testing.T) {
	mem := vfs.NewMem()
	o := secret(t, mem)
	e := mustOpen(t, o)
	publishMarked(t, e, "a", 0, 200)
	until(t, "topic segments", func() bool { return len(topicFiles(t, mem)) > 0 })
	before := len(e.Keys())
	next := master(t, 9)
	if err := e.RotateKeys(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	publishMarked(t, e, "a", 200, 200)
	if n := countMarked(t, e, "a"); n != 400 {
		t.Errorf("%d of 400 messages", n)
	}
	mustClose(t, e)
	if _, err := journal.Open(t.Context(), "/data", o); !errors.Is(err, journal.ErrWrongMaster) {
		t.Errorf("open with the old master key: %v", err)
	}
	o.Master = next
	e = mustOpen(t, o)
	if n := countMarked(t, e, "a"); n != 400 {
		t.Errorf("%d of 400 messages", n)
	}
	mustClose(t, e)
	third := master(t, 10)
	if err := journal.RotateKeys(t.Context(), "/data", o, third); err != nil {
		t.Fatal(err)
	}
	status, err := journal.KeysStatus(mem, "/data")
	if err != nil || len(status) < 2 || len(status) > before+4 {
		t.Errorf("keys %+v, %v", status, err)
	}
	active := 0
	for _, k := range status {
		if k.Active {
			active++
		}
	}
	if active != 2 { // the journal's and the topic's
		t.Errorf("%d active keys: %+v", active, status)
	}
	if err := journal.RotateKeys(t.Context(), "/plain", journal.Options{FS: vfs.NewMem()}, third); !errors.Is(err, journal.ErrPlain) {
		t.Errorf("rotate a plain directory: %v", err)
	}
}

// Shredding a topic leaves nothing with which it could be read, and all of the others.
func TestShred(t *testing.T) {
	mem := vfs.NewMem()
	o := secret(t, mem)
	e := mustOpen(t, o)
	for i := range 20 {
		publishMarked(t, e, "doomed", i*10, 10)
		publishMarked(t, e, "kept", i*10, 10)
	}
	copied := mem.Crash(rand.New(rand.NewPCG(1, 1)), vfs.KeepAll, true)
	keysBefore := e.Keys()
	if err := e.Shred(t.Context(), "doomed"); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(e.Topics(), "doomed") {
		t.Error("the topic is still there")
	}
	if n := countMarked(t, e, "kept"); n != 200 {
		t.Errorf("%d of 200 messages", n)
	}
	for _, k := range e.Keys() {
		if k.Topic == 1 || k.Topic == 0 && !k.Active {
			t.Errorf("key %+v is still there", k)
		}
		if k.Topic == 0 && slices.ContainsFunc(keysBefore, func(o journal.Key) bool { return o.ID == k.ID }) {
			t.Errorf("the journal still has the key %+v", k)
		}
	}
	if err := e.Shred(t.Context(), "doomed"); !errors.Is(err, queue.ErrUnknownTopic) {
		t.Errorf("shred again: %v", err)
	}
	mustClose(t, e)
	for _, name := range topicFiles(t, mem) {
		if strings.Contains(name, "/00000001/") {
			t.Errorf("%s is still there", name)
		}
	}
	// With the keyring of now, an old copy of the files is unreadable.
	for _, name := range []string{"/data/keyring", "/data/keyring.2"} {
		f, err := copied.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(contents(t, mem, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	o.FS = copied
	if _, err := journal.Open(t.Context(), "/data", o); !errors.Is(err, journal.ErrNoKey) {
		t.Errorf("open an old copy: %v, want ErrNoKey", err)
	}
	o.FS = mem
	e = mustOpen(t, o)
	if n := countMarked(t, e, "kept"); n != 200 {
		t.Errorf("%d of 200 messages", n)
	}
	mustClose(t, e)
}

// Shredding survives a power cut at any call: the topic is there whole, or it is gone,
// and the others are whole.
func TestShredCrash(t *testing.T) {
	base := vfs.NewMem()
	e := mustOpen(t, secret(t, base))
	publishMarked(t, e, "doomed", 0, 30)
	publishMarked(t, e, "kept", 0, 30)
	mustClose(t, e)
	rng := rand.New(rand.NewPCG(3, 3))
	for point := 0; ; point++ {
		disk := base.Crash(rng, vfs.KeepAll, true)
		var cut *vfs.Mem
		left := point
		mu := make(chan struct{}, 1)
		e, err := journal.Open(t.Context(), "/data", secret(t, vfs.WithHook(disk, func(op vfs.Op, _ string) error {
			mu <- struct{}{}
			defer func() { <-mu }()
			if op.Changes() {
				if left--; left < 0 && cut == nil {
					cut = disk.Crash(rng, vfs.Survivals()[point%4], point%2 == 0)
				}
			}
			return nil
		})))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Shred(t.Context(), "doomed"); err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		if cut == nil {
			break
		}
		e, err = journal.Open(t.Context(), "/data", secret(t, cut))
		if err != nil {
			t.Fatalf("point %d: %v", point, err)
		}
		if n := countMarked(t, e, "kept"); n != 30 {
			t.Errorf("point %d: %d of 30 messages are kept", point, n)
		}
		if slices.Contains(e.Topics(), "doomed") {
			if n := countMarked(t, e, "doomed"); n != 30 {
				t.Errorf("point %d: %d of 30 messages of a topic that is there", point, n)
			}
		}
		if err := e.Shred(t.Context(), "doomed"); err != nil && !errors.Is(err, queue.ErrUnknownTopic) {
			t.Errorf("point %d: shred again: %v", point, err)
		}
		for _, k := range e.Keys() {
			if !k.Active {
				t.Errorf("point %d: key %d of topic %d is left: it opens old copies", point, k.ID, k.Topic)
			}
		}
		mustClose(t, e)
	}
}

// A topic that is shredded before anything of it was copied has no key of its own yet;
// an interruption is finished all the same.
func TestShredInterrupted(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.Master = master(t, 1)
	e := mustOpen(t, o)
	publishMarked(t, e, "doomed", 0, 30)
	publishMarked(t, e, "kept", 0, 30)
	deleted, cancel := context.WithCancel(t.Context())
	g := run.NewGroup(t.Context())
	g.Go("interrupt", func(context.Context) error {
		for slices.Contains(e.Topics(), "doomed") {
			runtime.Gosched()
		}
		cancel()
		return nil
	})
	err := e.Shred(deleted, "doomed")
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("interrupted with %v", err)
	mustClose(t, e)
	e = mustOpen(t, o)
	if again := e.Shred(t.Context(), "doomed"); again != nil && err != nil {
		t.Errorf("shred again: %v", again)
	}
	for _, k := range e.Keys() {
		if !k.Active {
			t.Errorf("key %d of topic %d is left", k.ID, k.Topic)
		}
	}
	mustClose(t, e)
}

// What was stored in clear before a queue was encrypted goes with the topic too.
func TestShredWhatWasInClear(t *testing.T) {
	mem := vfs.NewMem()
	for _, staged := range []bool{false, true} {
		o := small(mem)
		if staged {
			o = staging(mem)
		}
		e := mustOpen(t, o)
		publishMarked(t, e, "doomed", 0, 60)
		sub, err := e.Topic(t.Context(), "kept")
		if err == nil {
			_, err = sub.Publish(t.Context(), []message.Message{{Payload: []byte("nothing special")}})
		}
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		o.Master = master(t, 1)
		e = mustOpen(t, o)
		if err := e.Shred(t.Context(), "doomed"); err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		for name, data := range allFiles(t, mem, "/data") {
			if bytes.Contains(data, []byte(marker)) {
				t.Errorf("staged %v: %s has the topic in clear", staged, name)
			}
		}
		mem = vfs.NewMem()
	}
}
