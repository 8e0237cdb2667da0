package mqtt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
)

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A sink publishes to a listener, both with certificates, in both versions.
func TestSinkToListenerOverTLS(t *testing.T) {
	cert, key := certificate(t)
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, func(c *SourceConfig) {
		c.Auth = &Auth{Users: map[string]config.Secret{"u": config.NewSecret("p")}}
		c.TLS = &tlsconf.Either{Cert: cert, Key: key, ClientCA: cert}
	})
	secure, err := config.NewAddress("mqtts://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for _, version := range []string{"5", "3.1.1"} {
		for qos := 1; qos <= 2; qos++ {
			s := newTestSink(t, addr, func(c *SinkConfig) {
				c.Connect, c.Topic.Literal, c.Version, c.QoS = secure, "orders/x", version, qos
				c.Auth = &Auth{User: "u", Password: config.NewSecret("p")}
				c.TLS = &tlsconf.Either{CA: cert, Cert: cert, Key: key}
			})
			if err := s.Handle(t.Context(), numbered(500)); err != nil {
				t.Fatalf("version %s qos %d: %v", version, qos, err)
			}
			sent += 500
		}
	}
	if got := h.wait(t, sent); len(got) != sent || string(got[499].Payload) != "499" {
		t.Errorf("%d messages", len(got))
	}
	anonymous := newTestSink(t, addr, func(c *SinkConfig) {
		c.Connect, c.TLS = secure, &tlsconf.Either{CA: cert}
	})
	if err := anonymous.Handle(t.Context(), numbered(1)); !message.IsUnavailable(err) {
		t.Errorf("without a certificate: %v", err)
	}
}
