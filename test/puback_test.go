package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	connectorsall "github.com/linkspan/linkspan/connectors/all"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue/journal"
	stepsall "github.com/linkspan/linkspan/transform/all"
)

// bridgeOn runs a pipeline in this process on a journal over the given filesystem,
// until the test ends.
func bridgeOn(t *testing.T, fs vfs.FS, yaml string) *pipelines.Engine {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "p.yaml")
	if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := journal.Open(t.Context(), filepath.Join(dir, "data"), journal.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	var report config.Report
	d := pipelines.Load([]string{name}, pipelines.Registry{
		Connectors: connectorsall.Specs(), Steps: stepsall.Specs(), Keys: keys.None(), Queue: q.Caps(),
	}, config.Lookup{}, &report)
	if report.Failed() {
		t.Fatal(report.Problems()[0].Text())
	}
	e, err := pipelines.New(pipelines.Options{Queue: q, DataDir: dir, Logger: slog.New(slog.DiscardHandler)}, d.Plans)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for !e.Ready() {
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	return e
}

// While fdatasync of a message is held back, neither its PUBACK nor its 202 comes;
// when it returns, both do.
func TestNoAcknowledgementBeforeTheSync(t *testing.T) {
	gate := vfs.NewGate()
	defer gate.Release()
	mqttAddr, httpAddr := freePort(t), freePort(t)
	bridgeOn(t, vfs.WithHook(vfs.NewMem(), gate.Hook), fmt.Sprintf(`
pipeline: gate
in:
  bus: {mqtt: {listen: %q, topics: [in]}}
  web: {http: {listen: %q, path: /in}}
route: [{else: {drop: "only the acknowledgement matters here"}}]
out: {none: {file: {path: %q}}}
`, mqttAddr, httpAddr, filepath.Join(t.TempDir(), "none")))
	c, err := net.Dial("tcp", mqttAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	if _, err := c.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")); err != nil {
		t.Fatal(err)
	}
	if err := readFull(in, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		gate.Hold()
		if _, err := c.Write([]byte{0x32, 7, 0, 2, 'i', 'n', 0, byte(round + 1), 'x'}); err != nil {
			t.Fatal(err)
		}
		if err := gate.Arrived(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if b, err := in.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("round %d: %x came before the sync (%v)", round, b, err)
		}
		gate.Release()
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		puback := make([]byte, 4)
		if err := readFull(in, puback); err != nil || puback[0] != 0x40 || puback[3] != byte(round+1) {
			t.Fatalf("round %d: %x %v instead of PUBACK", round, puback, err)
		}
	}
	gate.Hold()
	answer := make(chan int, 1)
	go func() {
		resp, err := http.Post("http://"+httpAddr+"/in", "text/plain", strings.NewReader("x"))
		if err != nil {
			answer <- 0
			return
		}
		resp.Body.Close()
		answer <- resp.StatusCode
	}()
	if err := gate.Arrived(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-answer:
		t.Fatalf("%d came before the sync", code)
	case <-time.After(20 * time.Millisecond):
	}
	gate.Release()
	if code := <-answer; code != http.StatusAccepted {
		t.Fatalf("%d instead of 202", code)
	}
}
