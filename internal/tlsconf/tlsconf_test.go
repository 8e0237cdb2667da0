package tlsconf

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// issue writes a self-signed certificate for 127.0.0.1 with this serial number.
func issue(t *testing.T, dir, name string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der2, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: der2}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// handshake returns the serial number that the server shows.
func handshake(t *testing.T, server, client *tls.Config) (int64, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	group := run.NewGroup(t.Context())
	group.Go("server", func(ctx context.Context) error {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if err := s.HandshakeContext(ctx); err != nil {
			return err
		}
		_, err = s.Write([]byte{1})
		return err
	})
	conn, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1)) // a refused client certificate shows here
	}
	_ = group.Wait()
	if err != nil {
		return 0, err
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := issue(t, dir, "server", 1)
	server, err := (&Server{Cert: cert, Key: key}).Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{CA: cert}
	dial := func() (int64, error) {
		conf, err := c.Load("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		return handshake(t, server, conf)
	}
	if n, err := dial(); n != 1 || err != nil {
		t.Fatalf("%d %v", n, err)
	}
	issue(t, dir, "server", 2)
	if n, err := dial(); n != 2 || err != nil {
		t.Fatalf("after the renewal: %d %v", n, err)
	}
	if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := dial(); n != 2 || err != nil {
		t.Fatalf("with a broken file: %d %v", n, err)
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key := issue(t, dir, "server", 1)
	mine, mineKey := issue(t, dir, "client", 2)
	other, otherKey := issue(t, dir, "other", 3)
	server, err := (&Server{Cert: cert, Key: key, ClientCA: mine}).Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		client Client
		host   string
		ok     bool
	}{
		"the right one":     {Client{CA: cert, Cert: mine, Key: mineKey}, "127.0.0.1", true},
		"none":              {Client{CA: cert}, "127.0.0.1", false},
		"another authority": {Client{CA: cert, Cert: other, Key: otherKey}, "127.0.0.1", false},
		"unknown server":    {Client{CA: other, Cert: mine, Key: mineKey}, "127.0.0.1", false},
		"another host":      {Client{CA: cert, Cert: mine, Key: mineKey}, "127.0.0.2", false},
		"server name":       {Client{CA: cert, Cert: mine, Key: mineKey, ServerName: "127.0.0.1"}, "127.0.0.2", true},
		"not verified":      {Client{InsecureSkipVerify: true, Cert: mine, Key: mineKey}, "127.0.0.2", true},
	} {
		t.Run(name, func(t *testing.T) {
			conf, err := c.client.Load(c.host)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := handshake(t, server, conf); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := (&Server{Cert: key, Key: cert}).Config(nil); err == nil {
		t.Error("files that are not what they should be")
	}
	if _, err := (&Client{CA: key}).Load("x"); err == nil {
		t.Error("an authority without certificate")
	}
}
