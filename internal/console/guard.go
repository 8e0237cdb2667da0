package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard decides who may ask.
type guard struct {
	bound netip.Addr
	token [sha256.Size]byte
	// cert is the certificate that is served, nil without TLS. A host that it names may
	// be asked for.
	cert *x509.Certificate
}

func newGuard(addr net.Addr, token string) guard {
	g := guard{token: sha256.Sum256([]byte(token))}
	if tcp, ok := addr.(*net.TCPAddr); ok {
		g.bound = tcp.AddrPort().Addr().Unmap()
	}
	return g
}

func (g guard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		switch {
		case !g.host(r.Host):
			fail(w, http.StatusForbidden, "the Host header names another server; use the address that linkspan listens on")
		case strings.HasPrefix(r.URL.Path, "/api/") && !g.bearer(r.Header.Get("Authorization")):
			h.Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "the token is missing or wrong; send `Authorization: Bearer TOKEN` with the token in DATA/admin")
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			next.ServeHTTP(w, r)
		}
	})
}

// host reports whether a Host header may have been meant for this server. A web page
// of somebody else can make a browser ask under a name that it controls, never under
// an address or a name of ours.
func (g guard) host(header string) bool {
	name, _, err := net.SplitHostPort(header)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(header, "["), "]")
	}
	if loopback(name) {
		return true
	}
	if ip, err := netip.ParseAddr(name); err == nil && (g.bound.IsUnspecified() || ip.Unmap() == g.bound) {
		return true
	}
	return g.cert != nil && g.cert.VerifyHostname(name) == nil
}

// bearer compares in constant time: the digests have one length whatever was sent.
func (g guard) bearer(header string) bool {
	scheme, token, _ := strings.Cut(header, " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}
