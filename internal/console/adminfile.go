package console

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// AdminFile is DATA/admin: where a running process answers, and the token that it
// wants. It exists while the process listens, with mode 0600.
type AdminFile struct {
	// Address is host:port, as it can be dialled from this machine.
	Address string `json:"address"`
	// Token is the bearer token of this run, 64 hexadecimal digits.
	Token string `json:"token"`
	// Certificate is the PEM file that is served. Empty: no TLS.
	Certificate string `json:"certificate,omitempty"`
}

func adminPath(dir string) string { return filepath.Join(dir, "admin") }

func (s *Server) adminFile() AdminFile {
	f := AdminFile{Address: s.Address(), Token: s.token}
	if tcp, ok := s.ln.Addr().(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		host := "127.0.0.1"
		if tcp.IP.To4() == nil {
			host = "localhost" // an IPv6 socket may or may not take IPv4
		}
		f.Address = net.JoinHostPort(host, strconv.Itoa(tcp.Port))
	}
	if s.o.TLS != nil {
		f.Certificate = s.o.TLS.Cert
		if full, err := filepath.Abs(f.Certificate); err == nil {
			f.Certificate = full
		}
	}
	return f
}

// ReadAdminFile reads DATA/admin. The error is fs.ErrNotExist when nobody listens.
func ReadAdminFile(dir string) (AdminFile, error) {
	var f AdminFile
	data, err := os.ReadFile(adminPath(dir))
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("read %s: %w", adminPath(dir), err)
	}
	return f, nil
}

// replaceAdminFile writes the file of this run. On a full disk that of a run that was
// killed makes room for it; in any case it does not stay, because its token opens
// nothing any more.
func replaceAdminFile(dir string, f AdminFile) error {
	err := writeAdminFile(dir, f)
	if err == nil {
		return nil
	}
	if gone := os.Remove(adminPath(dir)); gone != nil {
		return err
	}
	return writeAdminFile(dir, f)
}

// writeAdminFile makes the file appear whole, so that no reader sees half a token.
func writeAdminFile(dir string, f AdminFile) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	// CreateTemp makes files with mode 0600.
	tmp, err := os.CreateTemp(dir, "admin-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), adminPath(dir))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// removeAdminFile removes the file, unless another run has written its own since.
func removeAdminFile(dir, token string) error {
	f, err := ReadAdminFile(dir)
	if err == nil && f.Token == token {
		err = os.Remove(adminPath(dir))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func firstCertificate(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return block.Bytes, nil
		}
	}
	return nil, fmt.Errorf("read certificate: %s has no PEM certificate", file)
}
