package http

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// OAuth2 gets access tokens by client credentials (RFC 6749 §4.4).
type OAuth2 struct {
	// TokenURL is the token endpoint of the authorization server.
	TokenURL config.Address `yaml:"token_url,required"`
	// ClientID and ClientSecret are sent in the Authorization header, or in the body if
	// the server wants them there.
	ClientID     string        `yaml:"client_id,required"`
	ClientSecret config.Secret `yaml:"client_secret,required"`
	// Scopes are asked for.
	Scopes []string `yaml:"scopes"`
	// Audience is sent as a parameter, for servers that want one.
	Audience string `yaml:"audience"`
}

func (o *OAuth2) check(n config.Node, r *config.Report) {
	if o == nil {
		return
	}
	if u := o.TokenURL.URL(); u == nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		r.Errorf(n.Get("token_url"), "LS1150", "write https://issuer/token", "this is not a token endpoint")
	}
}

// tokens keeps an access token until it expires, or until the endpoint refuses it.
type tokens struct {
	conf   clientcredentials.Config
	client *http.Client

	mu   sync.Mutex
	held *oauth2.Token
}

func newTokens(o *OAuth2, client *http.Client) *tokens {
	c := clientcredentials.Config{
		ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(), TokenURL: o.TokenURL.URL().String(), Scopes: o.Scopes,
	}
	if o.Audience != "" {
		c.EndpointParams = url.Values{"audience": {o.Audience}}
	}
	return &tokens{conf: c, client: client}
}

// get returns a token that has not expired. One caller fetches for all.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held.Valid() {
		return t.held.AccessToken, nil
	}
	token, err := t.conf.Token(context.WithValue(ctx, oauth2.HTTPClient, t.client))
	if err != nil {
		return "", message.Unavailable(tokenError(err))
	}
	t.held = token
	return token.AccessToken, nil
}

// forget drops a token that the endpoint did not accept.
func (t *tokens) forget(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held != nil && t.held.AccessToken == token {
		t.held = nil
	}
}

// tokenError keeps what the authorization server says by its status and code, and
// nothing of what it answered besides.
func tokenError(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return fmt.Errorf("get a token: %w", safeError(err))
	}
	if refused.Response != nil && refused.Response.StatusCode < http.StatusInternalServerError {
		return fmt.Errorf("LS4104: the authorization server refused the client with status %d; check client_id, client_secret and scopes", refused.Response.StatusCode)
	}
	return errors.New("get a token: the authorization server failed")
}
