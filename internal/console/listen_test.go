package console_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/queue/memory"
)

func TestTheAdminFileIsPrivateAndGoesWithTheServer(t *testing.T) {
	w := newWorld(t, console.Options{})
	name := filepath.Join(w.dir, "admin")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := w.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(w.dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// What a run that was killed left in the place of the admin file must not stay there:
// its token opens nothing any more. An empty directory stands for what cannot be
// replaced, but removed, like a file on a full disk.
func TestALeftAdminFileMakesRoom(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "admin"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := console.Listen(t.Context(), console.Options{Address: "127.0.0.1:0", DataDir: dir, Queue: memory.New(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if f, err := console.ReadAdminFile(dir); err != nil || f.Address != s.Address() || log.Len() > 0 {
		t.Errorf("got %+v, %v; log: %s", f, err, &log)
	}
}

func TestAnAddressInUseIsSaidAtOnce(t *testing.T) {
	w := newWorld(t, console.Options{})
	_, err := console.Listen(t.Context(), console.Options{Address: w.server.Address(), DataDir: t.TempDir(), Queue: w.q, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listen on "+w.server.Address()+":") {
		t.Errorf("got %v", err)
	}
}

func TestAnAddressOthersCanReachNeedsTLS(t *testing.T) {
	for address, plain := range map[string]bool{
		"127.0.0.1:5480": true, "localhost:1": true, "[::1]:1": true, "127.1.2.3:1": true,
		":5480": false, "0.0.0.0:5480": false, "[::]:5480": false, "10.0.0.1:1": false, "bridge.plant:1": false,
	} {
		if err := console.CheckAddress(address, false); (err == nil) != plain {
			t.Errorf("%s without TLS: %v", address, err)
		}
		if err := console.CheckAddress(address, true); err != nil {
			t.Errorf("%s with TLS: %v", address, err)
		}
	}
	if err := console.CheckAddress("5480", true); err == nil {
		t.Error("an address without a host was taken")
	}
}

// certificate writes a self-signed certificate for a name.
func certificate(t *testing.T, name string) *tlsconf.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &tlsconf.Server{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for name, block := range map[string]*pem.Block{s.Cert: {Type: "CERTIFICATE", Bytes: der}, s.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestWithTLSTheClientTrustsTheFileAndNothingElse(t *testing.T) {
	w := newWorld(t, console.Options{Address: "0.0.0.0:0", TLS: certificate(t, "bridge.plant")}).start()
	if host, _, _ := net.SplitHostPort(w.file.Address); host != "127.0.0.1" && host != "localhost" {
		t.Errorf("the address in the file is %s", w.file.Address)
	}
	client := console.NewClient(w.file)
	defer client.Close()
	if s, err := client.Status(t.Context()); err != nil || s.State != "ready" {
		t.Errorf("status: %+v, %v", s, err)
	}
	w.file.Certificate = certificate(t, "bridge.plant").Cert
	other := console.NewClient(w.file)
	defer other.Close()
	if _, err := other.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate is not the one") {
		t.Errorf("another certificate was taken: %v", err)
	}
}

func TestEveryMetricIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, console.Options{}).start()
	_, body := w.do(request{path: "/metrics"})
	var names []string
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	for _, name := range names {
		if !bytes.Contains(doc, []byte("`"+name+"`")) {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
	}
	// What is documented exists, too. Those of the process are the system's affair.
	for part := range strings.SplitSeq(string(doc), "`") {
		if strings.HasPrefix(part, "linkspan_") && !strings.ContainsAny(part, " ()") && !slices.Contains(names, part) {
			t.Errorf("docs/metrics.md lists %s, which is not exported", part)
		}
	}
	for _, want := range []string{
		`linkspan_source_received_messages_total{pipeline="orders",source="web"} 7`,
		`linkspan_sink_delivered_messages_total{pipeline="orders",sink="out"} 5`,
		`linkspan_dropped_messages_total{pipeline="orders",step="steps[0] keep"} 1`,
		`linkspan_dead_lettered_messages_total{code="LS2401",pipeline="orders"} 2`,
		`linkspan_queue_topic_appended_messages_total{topic="orders"} 2`,
		`linkspan_queue_subscription_backlog_messages{subscription="s",topic="orders.dead"} 3`,
		`linkspan_ready 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

// Scrapes and requests run beside the start of the pipelines.
func TestAskingDuringTheStartIsSafe(t *testing.T) {
	w := newWorld(t, console.Options{})
	var asked sync.WaitGroup
	for range 4 {
		asked.Go(func() {
			for range 20 {
				w.do(request{path: "/metrics"})
				w.do(request{path: "/api/v1/status"})
			}
		})
	}
	w.start()
	asked.Wait()
}
