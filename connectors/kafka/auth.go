package kafka

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/linkspan/linkspan/internal/config"
)

// The values of auth.mechanism.
const (
	mechanismPlain    = "plain"
	mechanismScram256 = "scram-sha-256"
	mechanismScram512 = "scram-sha-512"
	mechanismOAuth    = "oauthbearer"
)

// tokenWithin bounds a request for a token.
const tokenWithin = 10 * time.Second

// Auth is who connects, by SASL.
type Auth struct {
	// Mechanism is plain, scram-sha-256, scram-sha-512 or oauthbearer.
	Mechanism string `yaml:"mechanism,required"`
	// User and Password are for plain and scram.
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
	// Token is a fixed token for oauthbearer.
	Token config.Secret `yaml:"token"`
	// TokenURL is where tokens for oauthbearer come from (OAuth 2 client credentials,
	// RFC 6749 §4.4), with ClientID, ClientSecret and Scopes.
	TokenURL     config.Address `yaml:"token_url"`
	ClientID     string         `yaml:"client_id"`
	ClientSecret config.Secret  `yaml:"client_secret"`
	Scopes       []string       `yaml:"scopes"`
}

func (a *Auth) check(secure bool, n config.Node, r *config.Report) {
	if a == nil {
		return
	}
	named := a.User != "" && !a.Password.IsZero()
	fetched := a.TokenURL.URL() != nil && a.ClientID != "" && !a.ClientSecret.IsZero()
	byToken := !a.Token.IsZero() || a.TokenURL.URL() != nil || a.ClientID != "" || !a.ClientSecret.IsZero() || len(a.Scopes) > 0
	switch a.Mechanism {
	case mechanismPlain, mechanismScram256, mechanismScram512:
		if !named || byToken {
			r.Errorf(n, "LS1150", "write `mechanism: "+a.Mechanism+"`, `user:` and `password:`", "%s needs a user and a password, and nothing else", a.Mechanism)
		}
	case mechanismOAuth:
		if fetched == !a.Token.IsZero() || a.User != "" || !a.Password.IsZero() {
			r.Errorf(n, "LS1150", "write `token:`, or `token_url:`, `client_id:` and `client_secret:`", "oauthbearer needs either a token or where to get one")
		}
		if u := a.TokenURL.URL(); u != nil && (u.User != nil || !slices.Contains([]string{"https", "http"}, u.Scheme)) {
			r.Errorf(n.Get("token_url"), "LS1150", "write https://host/path, without name and password", "this is not where tokens come from")
		}
	default:
		oneOf(n.Get("mechanism"), a.Mechanism, []string{mechanismPlain, mechanismScram256, mechanismScram512, mechanismOAuth}, r)
	}
	if !secure && (a.Mechanism == mechanismPlain || a.Mechanism == mechanismOAuth) {
		r.Warnf(n, "LS1151", "add `tls: {}`", "without TLS anyone on the path can read the password or token")
	}
}

// mechanism returns what proves who connects, or nil when nothing does.
func (a *Auth) mechanism(ctx context.Context) sasl.Mechanism {
	if a == nil {
		return nil
	}
	switch a.Mechanism {
	case mechanismPlain:
		return plain.Auth{User: a.User, Pass: a.Password.Reveal()}.AsMechanism()
	case mechanismScram256:
		return scram.Auth{User: a.User, Pass: a.Password.Reveal()}.AsSha256Mechanism()
	case mechanismScram512:
		return scram.Auth{User: a.User, Pass: a.Password.Reveal()}.AsSha512Mechanism()
	default:
		return a.bearer(ctx)
	}
}

// bearer shows a token. One that is fetched is used until it is about to expire.
func (a *Auth) bearer(ctx context.Context) sasl.Mechanism {
	if !a.Token.IsZero() {
		return oauth.Auth{Token: a.Token.Reveal()}.AsMechanism()
	}
	from := clientcredentials.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret.Reveal(), TokenURL: a.TokenURL.URL().String(), Scopes: a.Scopes}
	client := &http.Client{
		Timeout: tokenWithin,
		// A redirect would send the secret where nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		// No connection stays behind; tokens are asked for once an hour or so.
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true},
	}
	tokens := from.TokenSource(context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, client))
	return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
		token, err := tokens.Token()
		if err != nil {
			return oauth.Auth{}, tokenError(err)
		}
		return oauth.Auth{Token: token.AccessToken}, nil
	})
}

// tokenError says why there is no token. It leaves out the answer, which may quote
// credentials.
func tokenError(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.Response != nil {
		return &codedError{code: codeCredentials, text: "get a token: the server of token_url answered " + strconv.Itoa(refused.Response.StatusCode) + "; check client_id, client_secret and scopes"}
	}
	return &codedError{code: codeUnreachable, text: fmt.Sprintf("get a token: the server of token_url cannot be asked (%T)", errors.Unwrap(err))}
}
