package http

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/linkspan/linkspan/internal/config"
)

// endpointURL is where an output calls: a fixed address, or one that is computed for
// each message.
type endpointURL struct {
	Fixed    config.Address
	Computed config.Option
}

// DecodeConfig implements config.Decoder.
func (e *endpointURL) DecodeConfig(n config.Node, r *config.Report) {
	if n.IsMapping() {
		e.Computed.Destination = true
		e.Computed.DecodeConfig(n, r)
		return
	}
	e.Fixed.DecodeConfig(n, r)
}

func (e *endpointURL) computed() bool { return !e.Computed.Expr.IsZero() }

// resolve returns the URL of a message. A computed one must be what it looks like: no
// credentials, and no dots that lead out of the path that was written.
func (e *endpointURL) resolve(options []string) (*url.URL, error) {
	if !e.computed() {
		u := *e.Fixed.URL()
		return &u, nil
	}
	text := e.Computed.Value(options)
	if !validValue(text) {
		return nil, cannotCarry("the computed url has control characters")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, cannotCarry("the computed url is not an http or https address")
	case u.User != nil || strings.Contains(text, `\`):
		return nil, cannotCarry("the computed url has a user or a backslash in it")
	case strings.Contains(text, "#"):
		return nil, cannotCarry("the computed url has a # in it, and what follows would not be sent; write %23")
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return nil, cannotCarry("the computed url has dots as a part of its path")
		}
	}
	return u, nil
}

var errPrivate = errors.New("LS4105: the computed url leads into a private network; allow it with `allow_networks`, if it is meant")

// guard keeps computed addresses out of networks that a sender could not reach itself
// (server-side request forgery). It sees the address that is dialled, after names were
// resolved.
func guard(allow []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return errPrivate
		}
		ip := at.Addr().Unmap()
		for _, p := range allow {
			if p.Contains(ip) {
				return nil
			}
		}
		if !public(ip) {
			return errPrivate
		}
		return nil
	}
}

// public reports whether anybody on the internet could have this address (RFC 6890).
func public(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10",
	} {
		if netip.MustParsePrefix(p).Contains(ip) {
			return false
		}
	}
	return true
}
