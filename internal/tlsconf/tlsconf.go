// Package tlsconf is the TLS part of every connector's configuration: files named
// in YAML, checked when the configuration is loaded into a connection, and read
// again when they change, so that a renewed certificate needs no restart.
//
// TLS 1.2 is the oldest version that is spoken.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/linkspan/linkspan/internal/config"
)

// Server is the `tls:` of something that listens.
type Server struct {
	// Cert is the PEM file with the certificate and its chain.
	Cert string `yaml:"cert,required"`
	// Key is the PEM file with the private key.
	Key string `yaml:"key,required"`
	// ClientCA is a PEM file with certificate authorities. When it is given, a client
	// must present a certificate signed by one of them.
	ClientCA string `yaml:"client_ca"`
}

// Client is the `tls:` of something that dials.
type Client struct {
	// CA is a PEM file with certificate authorities. Empty: those of the system.
	CA string `yaml:"ca"`
	// Cert and Key are PEM files that identify this side. Empty: it stays anonymous.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ServerName is the name that the peer's certificate must carry. Empty: the host
	// that is dialled.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate. Anyone on the path can then read and
	// change what is sent.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
}

// Check reports what cannot work or is unsafe.
func (c *Client) Check(n config.Node, r *config.Report) {
	if (c.Cert == "") != (c.Key == "") {
		r.Errorf(n, "LS1150", "give both `cert:` and `key:`, or neither", "a certificate needs its key, and a key its certificate")
	}
	if c.InsecureSkipVerify {
		r.Warnf(n.Get("insecure_skip_verify"), "LS1151", "name the peer's certificate authority with `ca:` instead",
			"the peer's certificate is not verified, so anyone on the path can read and change the messages")
	}
}

// Load reads the files and returns a configuration for one connection to host. It
// is called for each connection, so that renewed files are used by the next one.
func (c *Client) Load(host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c == nil {
		return conf, nil
	}
	if c.ServerName != "" {
		conf.ServerName = c.ServerName
	}
	conf.InsecureSkipVerify = c.InsecureSkipVerify
	if c.CA != "" {
		pool, err := readPool(c.CA)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = pool
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// Config reads the files once, to find mistakes early, and returns a configuration
// that reads them again at a handshake when they have changed. Files that cannot be
// read then leave the ones before in use. Protocols are the ALPN names, may be nil.
func (s *Server) Config(protocols []string) (*tls.Config, error) {
	r := &reloader{files: *s, protocols: protocols}
	if _, err := r.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return r.current()
		},
	}, nil
}

// reloader keeps the configuration that was read last and what the files looked
// like then.
type reloader struct {
	files     Server
	protocols []string

	mu    sync.Mutex
	conf  *tls.Config
	stamp stamp
}

// stamp changes when a file is replaced. Size is there for file systems with
// coarse times.
type stamp [3]struct {
	changed time.Time
	size    int64
}

func (r *reloader) current() (*tls.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.look()
	if r.conf != nil && now == r.stamp {
		return r.conf, nil
	}
	conf, err := r.read()
	if err != nil {
		// A half-written renewal must not stop the listener; it is tried again at the
		// next handshake.
		if r.conf != nil {
			return r.conf, nil
		}
		return nil, err
	}
	r.conf, r.stamp = conf, now
	return conf, nil
}

func (r *reloader) look() stamp {
	var s stamp
	for i, name := range []string{r.files.Cert, r.files.Key, r.files.ClientCA} {
		if info, err := os.Stat(name); err == nil {
			s[i].changed, s[i].size = info.ModTime(), info.Size()
		}
	}
	return s
}

func (r *reloader) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(r.files.Cert, r.files.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: r.protocols, Certificates: []tls.Certificate{pair}}
	if r.files.ClientCA != "" {
		pool, err := readPool(r.files.ClientCA)
		if err != nil {
			return nil, err
		}
		conf.ClientCAs, conf.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return conf, nil
}

func readPool(name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificate authorities: %w", errors.New(name+" has no PEM certificate"))
	}
	return pool, nil
}

// Either is the `tls:` of a connector end that can listen or dial.
type Either struct {
	// Cert and Key are PEM files that identify this side. Needed to listen.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA makes a listener demand client certificates signed by one of these
	// authorities (a PEM file).
	ClientCA string `yaml:"client_ca"`
	// CA are the authorities that a dialled peer is verified against (a PEM file).
	// Empty: those of the system.
	CA string `yaml:"ca"`
	// ServerName is the name that a dialled peer's certificate must carry. Empty: the
	// host that is dialled.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate of a dialled peer.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
}

// Server returns the part of a listener. It is nil for nil.
func (e *Either) Server() *Server {
	if e == nil {
		return nil
	}
	return &Server{Cert: e.Cert, Key: e.Key, ClientCA: e.ClientCA}
}

// Client returns the part of something that dials. It is nil for nil.
func (e *Either) Client() *Client {
	if e == nil {
		return nil
	}
	return &Client{CA: e.CA, Cert: e.Cert, Key: e.Key, ServerName: e.ServerName, InsecureSkipVerify: e.InsecureSkipVerify}
}

// Check reports what cannot work or is unsafe, for the side that is used.
func (e *Either) Check(listens bool, n config.Node, r *config.Report) {
	switch {
	case e == nil:
	case !listens && e.ClientCA != "":
		r.Errorf(n.Get("client_ca"), "LS1150", "name the peer's authority with `ca:`", "client_ca is for a listener")
	case !listens:
		e.Client().Check(n, r)
	case e.Cert == "" || e.Key == "":
		r.Errorf(n, "LS1150", "add `cert:` and `key:`", "a listener needs a certificate and its key")
	case e.CA != "" || e.ServerName != "" || e.InsecureSkipVerify:
		r.Errorf(n, "LS1150", "remove ca, server_name and insecure_skip_verify", "these verify a peer that is dialled; a listener verifies clients with client_ca")
	}
}
