package http

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/config"
)

// signer makes tokens (RFC 7515) by hand, also those that a library would not make.
type signer struct{ key *ecdsa.PrivateKey }

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key}
}

func encode(v any) string {
	b, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(b)
}

func (s signer) token(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	text := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	v.FillBytes(sig[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (s signer) pem(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (s signer) jwks(kid string) string {
	public := s.key.Public().(*ecdsa.PublicKey)
	raw, _ := public.Bytes()
	x, y := raw[1:33], raw[33:]
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":%q,"alg":"ES256","use":"sig","x":%q,"y":%q}]}`,
		kid, base64.RawURLEncoding.EncodeToString(x), base64.RawURLEncoding.EncodeToString(y))
}

func TestSourceChecksTokens(t *testing.T) {
	good, foreign := newSigner(t), newSigner(t)
	var fetches atomic.Int64
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write([]byte(good.jwks("k1")))
	}))
	defer issuer.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	jwks, err := config.NewAddress(issuer.URL)
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.pem")
	if err := os.WriteFile(keys, []byte(good.pem(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	base := JWT{Issuer: "https://issuer", Audience: "orders", Scopes: []string{"write"}}
	r.start(t, &recorder{}, func(c *SourceConfig) {
		j := base
		j.JWKS, c.Path = jwks, "/jwks"
		c.Auth = &Auth{JWT: &j}
	})
	r.start(t, &recorder{}, func(c *SourceConfig) {
		j := base
		j.Keys, c.Path = keys, "/pem"
		c.Auth = &Auth{JWT: &j}
	})
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": "https://issuer", "aud": []string{"x", "orders"}, "exp": time.Now().Add(time.Minute).Unix(), "sub": "u", "scope": "read write"}
		for k, v := range change {
			if v == nil {
				delete(c, k)
				continue
			}
			c[k] = v
		}
		return c
	}
	es := map[string]any{"alg": "ES256", "kid": "k1", "typ": "JWT"}
	// The public key as an HMAC secret is the classic mix-up.
	mixed := encode(map[string]any{"alg": "HS256", "kid": "k1"}) + "." + encode(claims(nil))
	mac := hmac.New(sha256.New, []byte(good.pem(t)))
	mac.Write([]byte(mixed))
	mixed += "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	whole := good.token(t, es, claims(nil))
	for name, c := range map[string]struct {
		token  string
		status int
	}{
		"good":             {whole, 202},
		"scp list":         {good.token(t, es, claims(map[string]any{"scope": nil, "scp": []string{"write"}})), 202},
		"none":             {"", 401},
		"no signature":     {encode(map[string]any{"alg": "none"}) + "." + encode(claims(nil)) + ".", 401},
		"mixed up":         {mixed, 401},
		"foreign key":      {foreign.token(t, es, claims(nil)), 401},
		"unknown key id":   {foreign.token(t, map[string]any{"alg": "ES256", "kid": "k9"}, claims(nil)), 401},
		"expired":          {good.token(t, es, claims(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})), 401},
		"without expiry":   {good.token(t, es, claims(map[string]any{"exp": nil})), 401},
		"too early":        {good.token(t, es, claims(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})), 401},
		"another audience": {good.token(t, es, claims(map[string]any{"aud": "billing"})), 401},
		"another issuer":   {good.token(t, es, claims(map[string]any{"iss": "https://issuer/"})), 401},
		"another scope":    {good.token(t, es, claims(map[string]any{"scope": "read"})), 401},
		"tampered":         {strings.Replace(whole, ".", ".e30", 1), 401},
		"garbage":          {"a.b.c", 401},
	} {
		for _, path := range []string{"/jwks", "/pem"} {
			t.Run(name+path, func(t *testing.T) {
				if status, _, _ := r.do(t, "POST", path, strings.NewReader("x"), "Authorization", "Bearer "+c.token); status != c.status {
					t.Errorf("got %d, want %d", status, c.status)
				}
			})
		}
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("made-up key ids made the issuer answer %d times", n)
	}
}

func TestReadKeysRefuses(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "no key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		file := filepath.Join(t.TempDir(), "keys.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKeys(file); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := readKeys("does-not-exist.pem"); err == nil {
		t.Error("a file that is not there is accepted")
	}
}

func TestSourceChecksSignatures(t *testing.T) {
	const body = `{"paid":true}`
	now := time.Now()
	mac := func(secret, text string) []byte {
		m := hmac.New(crypto.SHA256.New, []byte(secret))
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	at := strconv.FormatInt(now.Unix(), 10)
	old := strconv.FormatInt(now.Add(-time.Hour).Unix(), 10)
	whsec := "whsec_" + base64.StdEncoding.EncodeToString([]byte("standard"))
	// The example of the Standard Webhooks specification's shape, signed here.
	standard := func(id, at, secret string) string {
		return "v1," + base64.StdEncoding.EncodeToString(mac(secret, id+"."+at+"."+body))
	}
	type headers = []string
	for name, c := range map[string]struct {
		sig    Signature
		h      headers
		status int
	}{
		"github":            {Signature{Scheme: "github"}, headers{"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(mac("s1", body))}, 202},
		"github, old key":   {Signature{Scheme: "github"}, headers{"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(mac("s2", body))}, 202},
		"github, wrong":     {Signature{Scheme: "github"}, headers{"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(mac("s3", body))}, 401},
		"github, sha1":      {Signature{Scheme: "github"}, headers{"X-Hub-Signature", "sha1=" + hex.EncodeToString(mac("s1", body))}, 401},
		"github, none":      {Signature{Scheme: "github"}, nil, 401},
		"stripe":            {Signature{Scheme: "stripe"}, headers{"Stripe-Signature", "t=" + at + ",v1=00,v1=" + hex.EncodeToString(mac("s1", at+"."+body)) + ",v0=11"}, 202},
		"stripe, replayed":  {Signature{Scheme: "stripe"}, headers{"Stripe-Signature", "t=" + old + ",v1=" + hex.EncodeToString(mac("s1", old+"."+body))}, 401},
		"stripe, new time":  {Signature{Scheme: "stripe"}, headers{"Stripe-Signature", "t=" + at + ",v1=" + hex.EncodeToString(mac("s1", old+"."+body))}, 401},
		"stripe, no time":   {Signature{Scheme: "stripe"}, headers{"Stripe-Signature", "v1=" + hex.EncodeToString(mac("s1", "."+body))}, 401},
		"standard":          {Signature{Scheme: "standard", Secrets: []config.Secret{config.NewSecret(whsec)}}, headers{"webhook-id", "m1", "webhook-timestamp", at, "webhook-signature", "v1a,xx " + standard("m1", at, "standard")}, 202},
		"standard, other":   {Signature{Scheme: "standard", Secrets: []config.Secret{config.NewSecret(whsec)}}, headers{"webhook-id", "m2", "webhook-timestamp", at, "webhook-signature", standard("m1", at, "standard")}, 401},
		"standard, old":     {Signature{Scheme: "standard", Secrets: []config.Secret{config.NewSecret(whsec)}}, headers{"webhook-id", "m1", "webhook-timestamp", old, "webhook-signature", standard("m1", old, "standard")}, 401},
		"plain":             {Signature{Scheme: "plain", Header: "X-Sig"}, headers{"X-Sig", hex.EncodeToString(mac("s1", body))}, 202},
		"plain, other body": {Signature{Scheme: "plain", Header: "X-Sig"}, headers{"X-Sig", hex.EncodeToString(mac("s1", body+" "))}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			r, h := newRig(t), &recorder{}
			r.start(t, h, func(cfg *SourceConfig) {
				sig := c.sig
				if sig.Secrets == nil {
					sig.Secrets = []config.Secret{config.NewSecret("s1"), config.NewSecret("s2")}
				}
				cfg.Auth = &Auth{Signature: &sig}
			})
			if status, _, _ := r.do(t, "POST", "/orders", strings.NewReader(body), c.h...); status != c.status {
				t.Errorf("got %d, want %d", status, c.status)
			}
			if (len(h.got) == 1) != (c.status == 202) {
				t.Errorf("%d messages were handed on", len(h.got))
			}
		})
	}
}

func TestSinkGetsTokens(t *testing.T) {
	var fetched atomic.Int64
	refuse := atomic.Bool{}
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.FormValue("grant_type") != "client_credentials" || user != "bridge" || password != "s" || r.FormValue("scope") != "a b" || refuse.Load() {
			http.Error(w, `{"error":"invalid_client","error_description":"secret is s"}`, http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, fetched.Add(1))
	}))
	defer issuer.Close()
	valid := atomic.Pointer[string]{}
	first := "Bearer t1"
	valid.Store(&first)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != *valid.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	tokenURL, err := config.NewAddress(issuer.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := newTestSink(t, api.URL, func(c *SinkConfig) {
		c.Auth = &Auth{OAuth2: &OAuth2{TokenURL: tokenURL, ClientID: "bridge", ClientSecret: config.NewSecret("s"), Scopes: []string{"a", "b"}}}
	})
	send := func() error { return s.Handle(t.Context(), batchOf("x")) }
	for range 3 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	if fetched.Load() != 1 {
		t.Errorf("%d tokens were fetched for three messages", fetched.Load())
	}
	second := "Bearer t2"
	valid.Store(&second) // the first one is revoked
	if err := send(); err == nil {
		t.Error("a revoked token was accepted")
	}
	if err := send(); err != nil {
		t.Errorf("after a new token: %v", err)
	}
	refuse.Store(true)
	third := "Bearer t3"
	valid.Store(&third)
	_ = send()
	err = send()
	if err == nil || !strings.Contains(err.Error(), "LS4104") || strings.Contains(err.Error(), "secret is") {
		t.Errorf("a refused client: %v", err)
	}
}
