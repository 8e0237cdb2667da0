package cmd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/internal/run"
)

var update = flag.Bool("update", false, "write what the command printed into the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"linkspan": func() { os.Exit(Main()) }})
}

// TestScripts runs the real command in the situations of testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ADMIN", "127.0.0.1:0")
			// The race detector lets every process sleep a second at its end.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"freeaddr": freeAddress, "occupy": occupy, "ready": waitReady, "reachable": waitReachable,
			"haslines": waitLines, "get": get, "exits": exits, "flip": flip, "terminate": terminate, "certificate": certificate, "silent": silent, "until": waitGet,
		},
	})
}

// until waits for a condition, at most ten seconds.
func until(ts *testscript.TestScript, what string, done func(ctx context.Context) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !done(ctx) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			ts.Fatalf("%s: not in time", what)
		}
	}
}

func listen(ts *testscript.TestScript) net.Listener {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	ts.Check(err)
	return ln
}

// freeAddress: freeaddr VAR... sets variables to addresses that nobody listens on.
func freeAddress(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ln := listen(ts)
		defer func() { ts.Check(ln.Close()) }()
		ts.Setenv(name, ln.Addr().String())
	}
}

// occupy: occupy VAR listens on an address until the script ends.
func occupy(ts *testscript.TestScript, _ bool, args []string) {
	ln := listen(ts)
	ts.Defer(func() { _ = ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
}

// waitReady: ready DATA waits until the linkspan of a data directory is ready, and
// sets URL and TOKEN.
func waitReady(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, "ready", func(ctx context.Context) bool {
		f, err := console.ReadAdminFile(ts.MkAbs(args[0]))
		if err != nil {
			return false
		}
		ts.Setenv("URL", "http://"+f.Address)
		ts.Setenv("TOKEN", f.Token)
		code, _, err := fetch(ctx, "http://"+f.Address+"/ready", "")
		return err == nil && code == http.StatusOK
	})
}

// waitReachable: reachable ADDRESS waits until somebody listens.
func waitReachable(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, args[0], func(ctx context.Context) bool {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", args[0])
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// waitLines: haslines FILE N waits until a file has N lines.
func waitLines(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	until(ts, args[0], func(context.Context) bool {
		data, _ := os.ReadFile(ts.MkAbs(args[0]))
		return bytes.Count(data, []byte("\n")) >= want
	})
}

func fetch(ctx context.Context, url, token string) (code int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// get: get URL [TOKEN] prints the status and the body.
func get(ts *testscript.TestScript, _ bool, args []string) {
	code, body, err := fetch(context.Background(), args[0], strings.Join(args[1:], ""))
	ts.Check(err)
	_, _ = fmt.Fprintf(ts.Stdout(), "%d\n%s", code, body)
}

// exits: exits CODE linkspan ARGS... runs the command and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		text := err.Error()
		if _, scanErr := fmt.Sscanf(text, "exit status %d", &code); scanErr != nil {
			ts.Fatalf("%s: %s", args[1], text)
		}
	}
	if code != want {
		ts.Fatalf("%s exited with %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// flip: flip PATTERN middle|last changes a byte of the first file that matches and
// has content: in the middle of what is written, or the last one.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		ts.Check(err)
		end := len(bytes.TrimRight(data, "\x00"))
		if end == 0 {
			continue
		}
		at := end - 1
		if args[1] == "middle" {
			at = end / 2
		}
		data[at] ^= 0xff
		ts.Check(os.WriteFile(name, data, 0o600))
		return
	}
	ts.Fatalf("no file matches %s", args[0])
}

// terminate sends SIGTERM to the commands in the background.
func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	for _, cmd := range ts.BackgroundCmds() {
		if err := cmd.Process.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			ts.Check(err)
		}
	}
}

// certificate: certificate CERT KEY writes a self-signed certificate and its key.
func certificate(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"bridge.plant"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// silent: silent VAR listens on an address, accepts, and never answers.
func silent(ts *testscript.TestScript, _ bool, args []string) {
	ln := listen(ts)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}
	g := run.NewGroup(context.Background())
	g.Go("silent server", func(context.Context) error { _ = server.Serve(ln); return nil })
	ts.Defer(func() {
		_ = server.Close()
		_ = g.Wait()
	})
	ts.Setenv(args[0], ln.Addr().String())
}

// waitGet: until URL CODE TEXT waits until URL answers with this status and text.
func waitGet(ts *testscript.TestScript, _ bool, args []string) {
	code, err := strconv.Atoi(args[1])
	ts.Check(err)
	until(ts, strings.Join(args, " "), func(ctx context.Context) bool {
		got, body, err := fetch(ctx, args[0], "")
		return err == nil && got == code && strings.Contains(body, args[2])
	})
}
