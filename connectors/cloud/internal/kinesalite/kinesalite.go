// Package kinesalite starts the emulator of Kinesis of that name, which npm installs, for
// tests.
package kinesalite

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// version is the one that the tests were written against.
const version = "3.3.3"

// folder is where it is installed, once for a machine.
func folder() string { return filepath.Join(os.TempDir(), "linkspan-kinesalite-"+version) }

// Start installs the emulator if it is missing, starts it until the test ends, and returns
// its address. It keeps everything in memory.
func Start(t *testing.T) string {
	t.Helper()
	script := filepath.Join(folder(), "node_modules", "kinesalite", "cli.js")
	if _, err := os.Stat(script); err != nil {
		if err := os.MkdirAll(folder(), 0o700); err != nil {
			t.Fatal(err)
		}
		install := exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--prefix", folder(), "kinesalite@"+version)
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm install kinesalite: %v\n%s", err, out)
		}
	}
	addr := free(t)
	_, port, _ := net.SplitHostPort(addr)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	emulator := exec.CommandContext(ctx, "node", script, "--port", port, "--createStreamMs", "1", "--updateStreamMs", "1", "--shardLimit", strconv.Itoa(100))
	if err := emulator.Start(); err != nil {
		t.Fatalf("start kinesalite: %v", err)
	}
	t.Cleanup(func() { cancel(); _ = emulator.Wait() })
	dialer := net.Dialer{Timeout: time.Second}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); <-ticker.C {
		if conn, err := dialer.DialContext(t.Context(), "tcp", addr); err == nil {
			_ = conn.Close()
			return "http://" + addr
		}
	}
	t.Fatal("kinesalite does not listen")
	return ""
}

// free returns an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}
