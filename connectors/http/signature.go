package http

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/config"
)

// Signature checks an HMAC-SHA256 over the body, by one of the schemes that webhooks
// use.
type Signature struct {
	// Scheme is github (header X-Hub-Signature-256: sha256=HEX), stripe (Stripe-Signature:
	// t=SECONDS,v1=HEX over "SECONDS.BODY"), standard (Standard Webhooks: webhook-id,
	// webhook-timestamp, webhook-signature: v1,BASE64 over "ID.SECONDS.BODY"), or plain
	// (HEX in the header that Header names).
	Scheme string `yaml:"scheme,required"`
	// Secrets are what the sender may have signed with: two while one replaces the other.
	Secrets []config.Secret `yaml:"secrets,required"`
	// Header names the header of scheme plain.
	Header string `yaml:"header"`
	// Tolerance is how far the sender's clock, where it signs the time, may be from ours:
	// an older request is refused, so that it cannot be replayed. Default: 5m.
	Tolerance time.Duration `yaml:"tolerance"`
}

func (s *Signature) check(n config.Node, r *config.Report) {
	if s == nil {
		return
	}
	switch s.Scheme {
	case "github", "stripe":
	case "standard":
		for _, secret := range s.Secrets {
			if _, err := standardKey(secret.Reveal()); err != nil {
				r.Errorf(n.Get("secrets"), "LS1150", "copy it as the sender shows it: whsec_…", "a secret of the scheme standard is base64")
			}
		}
	case "plain":
		if !validName(s.Header) {
			r.Errorf(n, "LS1150", "write `header: X-Signature`", "the scheme plain needs the name of the header")
		}
	default:
		r.Errorf(n.Get("scheme"), "LS1150", "write github, stripe, standard or plain", "%q is not a scheme of signatures", s.Scheme)
	}
	if s.Scheme != "plain" && s.Header != "" {
		r.Errorf(n.Get("header"), "LS1150", "remove it", "only the scheme plain has a header of your choice")
	}
	if len(s.Secrets) == 0 || s.Tolerance < 0 {
		r.Errorf(n, "LS1150", "write `secrets: [\"${env:SECRET}\"]`", "at least one secret is needed, and tolerance must not be negative")
	}
}

func standardKey(secret string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
}

// valid reports whether the request was signed by somebody who has a secret, and lately.
func (s *Signature) valid(h http.Header, body []byte, now time.Time) bool {
	switch s.Scheme {
	case "github":
		hexed, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
		return ok && s.signed(hexed, body)
	case "stripe":
		return s.stripe(h.Get("Stripe-Signature"), body, now)
	case "standard":
		return s.standard(h, body, now)
	default:
		return s.signed(h.Get(s.Header), body)
	}
}

func (s *Signature) stripe(header string, body []byte, now time.Time) bool {
	var at string
	var signatures []string
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "t":
			at = value
		case "v1":
			signatures = append(signatures, value)
		}
	}
	if !s.fresh(at, now) {
		return false
	}
	for _, hexed := range signatures {
		if s.signed(hexed, []byte(at), []byte("."), body) {
			return true
		}
	}
	return false
}

func (s *Signature) standard(h http.Header, body []byte, now time.Time) bool {
	id, at := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	if id == "" || !s.fresh(at, now) {
		return false
	}
	for _, secret := range s.Secrets {
		key, err := standardKey(secret.Reveal())
		if err != nil {
			continue
		}
		want := sum(key, []byte(id), []byte("."), []byte(at), []byte("."), body)
		for part := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
			encoded, ok := strings.CutPrefix(part, "v1,")
			got, err := base64.StdEncoding.DecodeString(encoded)
			if ok && err == nil && hmac.Equal(got, want) {
				return true
			}
		}
	}
	return false
}

func (s *Signature) fresh(seconds string, now time.Time) bool {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return false
	}
	tolerance := s.Tolerance
	if tolerance == 0 {
		tolerance = 5 * time.Minute
	}
	return now.Sub(time.Unix(n, 0)).Abs() <= tolerance
}

// signed reports whether the hexadecimal signature is that of the parts by any secret.
func (s *Signature) signed(hexed string, parts ...[]byte) bool {
	got, err := hex.DecodeString(hexed)
	if err != nil {
		return false
	}
	for _, secret := range s.Secrets {
		if hmac.Equal(got, sum([]byte(secret.Reveal()), parts...)) {
			return true
		}
	}
	return false
}

func sum(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}
