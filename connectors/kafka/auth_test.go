package kafka

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/linkspan/linkspan/internal/config"
)

// A token is fetched with the client's credentials, kept until it expires, and never
// quoted when it cannot be had.
func TestBearer(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_ = r.ParseForm()
		id, password, _ := r.BasicAuth()
		if id != "bridge" || password != "s3cret" || r.Form.Get("grant_type") != "client_credentials" || r.Form.Get("scope") != "a b" {
			http.Error(w, `{"error":"invalid_client","error_description":"s3cret was wrong"}`, http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"T0KEN","token_type":"bearer","expires_in":3600}`))
	}))
	defer server.Close()
	address := func(text string) config.Address {
		a, err := config.NewAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	auth := func(url, password string) *Auth {
		return &Auth{Mechanism: mechanismOAuth, TokenURL: address(url), ClientID: "bridge", ClientSecret: secret(password), Scopes: []string{"a", "b"}}
	}
	m := auth(server.URL, "s3cret").mechanism(t.Context())
	for range 3 {
		_, first, err := m.Authenticate(t.Context(), "")
		if err != nil || !strings.Contains(string(first), "Bearer T0KEN") {
			t.Fatalf("%q, %v", first, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the token was fetched %d times", n)
	}
	_, first, err := (&Auth{Mechanism: mechanismOAuth, Token: secret("F1XED")}).mechanism(t.Context()).Authenticate(t.Context(), "")
	if err != nil || !strings.Contains(string(first), "Bearer F1XED") {
		t.Errorf("%q, %v", first, err)
	}
	for _, c := range []struct {
		auth *Auth
		code string
	}{
		{auth(server.URL, "wrong"), codeCredentials},
		{auth("http://127.0.0.1:1/token", "s3cret"), codeUnreachable},
	} {
		_, _, err := c.auth.mechanism(t.Context()).Authenticate(t.Context(), "")
		if coded, ok := errors.AsType[*codedError](err); !ok || coded.code != c.code || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("want %s, got %v", c.code, err)
		}
	}
}
