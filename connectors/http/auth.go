package http

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/linkspan/linkspan/internal/config"
)

// Auth is how one side proves to the other who it is. Exactly one way is given.
type Auth struct {
	// Basic is a user and a password (RFC 7617).
	Basic *Basic `yaml:"basic"`
	// Bearer is a token (RFC 6750).
	Bearer config.Secret `yaml:"bearer"`
	// JWT checks signed tokens (RFC 7519). Inputs only.
	JWT *JWT `yaml:"jwt"`
	// Signature checks a signature over the body, as webhooks have it. Inputs only.
	Signature *Signature `yaml:"signature"`
	// OAuth2 gets tokens by client credentials (RFC 6749 §4.4). Outputs only.
	OAuth2 *OAuth2 `yaml:"oauth2"`
}

// Basic is a user and a password.
type Basic struct {
	User     string        `yaml:"user,required"`
	Password config.Secret `yaml:"password,required"`
}

// JWT says which signed tokens are accepted. A token needs the issuer, the audience, an
// expiry that has not passed, and a signature by one of the keys. Symmetric algorithms
// and `none` are never accepted.
type JWT struct {
	// Issuer is the claim iss, byte for byte.
	Issuer string `yaml:"issuer,required"`
	// Audience must be among the claim aud.
	Audience string `yaml:"audience,required"`
	// JWKS is where the issuer publishes its keys (RFC 7517). They are fetched when a
	// token needs one that is not known, every 10s at most.
	JWKS config.Address `yaml:"jwks_url"`
	// Keys is a PEM file with public keys, instead of jwks_url.
	Keys string `yaml:"keys"`
	// Algorithms that may sign. Default: RS256 and ES256.
	Algorithms []string `yaml:"algorithms"`
	// Scopes must all be in the claim scope (a text with spaces) or scp (a list).
	Scopes []string `yaml:"scopes"`
}

func asymmetric() []string {
	return []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}
}

func (a *Auth) check(listens bool, n config.Node, r *config.Report) {
	if a == nil {
		return
	}
	given := 0
	for _, is := range []bool{a.Basic != nil, !a.Bearer.IsZero(), a.JWT != nil, a.Signature != nil, a.OAuth2 != nil} {
		if is {
			given++
		}
	}
	ways, wrong := "basic, bearer and oauth2", a.JWT != nil || a.Signature != nil
	if listens {
		ways, wrong = "basic, bearer, jwt and signature", a.OAuth2 != nil
	}
	if given != 1 || wrong {
		r.Errorf(n, "LS1150", "write `basic: {user: …, password: …}`, for example", "exactly one of %s is needed", ways)
		return
	}
	a.JWT.check(n.Get("jwt"), r)
	a.Signature.check(n.Get("signature"), r)
	a.OAuth2.check(n.Get("oauth2"), r)
}

func (j *JWT) check(n config.Node, r *config.Report) {
	if j == nil {
		return
	}
	if (j.JWKS.URL() == nil) == (j.Keys == "") {
		r.Errorf(n, "LS1150", "write `jwks_url: https://issuer/keys`, or `keys: FILE.pem`", "exactly one of jwks_url and keys is needed")
	}
	if u := j.JWKS.URL(); u != nil && u.Scheme != "https" && u.Scheme != "http" {
		r.Errorf(n.Get("jwks_url"), "LS1150", "write https://issuer/keys", "keys are fetched over http or https")
	}
	for _, a := range j.Algorithms {
		if !slices.Contains(asymmetric(), a) {
			r.Errorf(n.Get("algorithms"), "LS1150", "use some of "+strings.Join(asymmetric(), ", "), "%q is not an algorithm with a public key", a)
		}
	}
}

// gatekeeper decides who may send.
type gatekeeper struct {
	auth     *Auth
	verifier *oidc.IDTokenVerifier
}

// newGatekeeper reads the keys of tokens. Ctx bounds later fetches of keys.
func newGatekeeper(ctx context.Context, a *Auth) (*gatekeeper, error) {
	g := &gatekeeper{auth: a}
	if a == nil || a.JWT == nil {
		return g, nil
	}
	var keys oidc.KeySet
	if a.JWT.Keys != "" {
		static, err := readKeys(a.JWT.Keys)
		if err != nil {
			return nil, err
		}
		keys = static
	} else {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &seldom{next: http.DefaultTransport}}
		keys = oidc.NewRemoteKeySet(oidc.ClientContext(ctx, client), a.JWT.JWKS.URL().String())
	}
	algorithms := a.JWT.Algorithms
	if len(algorithms) == 0 {
		algorithms = []string{oidc.RS256, oidc.ES256}
	}
	g.verifier = oidc.NewVerifier(a.JWT.Issuer, keys, &oidc.Config{ClientID: a.JWT.Audience, SupportedSigningAlgs: algorithms})
	return g, nil
}

func readKeys(name string) (*oidc.StaticKeySet, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("keys of tokens: %w", err)
	}
	set := &oidc.StaticKeySet{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key crypto.PublicKey
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("keys of tokens: %s: %w", name, err)
			}
			key = cert.PublicKey
		default:
			if key, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
				return nil, fmt.Errorf("keys of tokens: %s: %w", name, err)
			}
		}
		set.PublicKeys = append(set.PublicKeys, key)
	}
	if len(set.PublicKeys) == 0 {
		return nil, fmt.Errorf("keys of tokens: %s has no PEM block with a public key", name)
	}
	return set, nil
}

// seldom keeps tokens with made-up key ids from making the issuer busy.
type seldom struct {
	next http.RoundTripper

	mu   sync.Mutex
	last time.Time
}

// RoundTrip implements http.RoundTripper.
func (s *seldom) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	wait := time.Since(s.last) < 10*time.Second
	if !wait {
		s.last = time.Now()
	}
	s.mu.Unlock()
	if wait {
		return nil, errors.New("the keys were fetched a moment ago")
	}
	return s.next.RoundTrip(r)
}

// challenge returns what the client must answer to, or "" when it is who it should
// be. The comparison takes the same time for every wrong guess. A signature is checked
// when the body is there.
func (g *gatekeeper) challenge(r *http.Request) string {
	a := g.auth
	switch {
	case a == nil || a.Signature != nil:
		return ""
	case a.Basic != nil:
		user, password, _ := r.BasicAuth()
		if equal(user, a.Basic.User)&equal(password, a.Basic.Password.Reveal()) == 1 {
			return ""
		}
		return `Basic realm="linkspan", charset="UTF-8"`
	case a.JWT != nil:
		return g.token(r)
	default:
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "Bearer") && equal(token, a.Bearer.Reveal()) == 1 {
			return ""
		}
		return `Bearer realm="linkspan"`
	}
}

func (g *gatekeeper) token(r *http.Request) string {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return `Bearer realm="linkspan"`
	}
	token, err := g.verifier.Verify(r.Context(), raw)
	if err != nil {
		return `Bearer realm="linkspan", error="invalid_token"`
	}
	var claims struct {
		Scope string   `json:"scope"`
		Scp   []string `json:"scp"`
	}
	if len(g.auth.JWT.Scopes) > 0 && token.Claims(&claims) != nil {
		return `Bearer realm="linkspan", error="invalid_token"`
	}
	have := append(strings.Fields(claims.Scope), claims.Scp...)
	for _, need := range g.auth.JWT.Scopes {
		if !slices.Contains(have, need) {
			return `Bearer realm="linkspan", error="insufficient_scope"`
		}
	}
	return ""
}

func equal(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
