package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// drainLimit is how much of an answer is read so that its connection can be used
	// again; more than that is cheaper to throw away with the connection.
	drainLimit = 64 << 10
	// maxRetryAfter bounds what an endpoint may ask for.
	maxRetryAfter = time.Hour
)

type sink struct {
	cfg    SinkConfig
	client *http.Client
	// tokens are given with oauth2.
	tokens *tokens
	// slots bounds the requests under way, over all lanes.
	slots chan struct{}
}

func newSink(cfg SinkConfig, _ connectors.Env) (connectors.Sink, error) {
	dialer := &net.Dialer{Timeout: cfg.Timeout, KeepAlive: 15 * time.Second}
	proxy := http.ProxyFromEnvironment
	if cfg.URL.computed() {
		var allow []netip.Prefix
		for _, text := range cfg.AllowNetworks {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("allow_networks: %w", err)
			}
			allow = append(allow, p)
		}
		dialer.Control = guard(allow)
		proxy = nil // a proxy would dial for us, where nobody looks
	}
	transport := &http.Transport{
		Proxy:                  proxy,
		DialContext:            dialer.DialContext,
		MaxIdleConns:           cfg.MaxInFlight,
		MaxIdleConnsPerHost:    cfg.MaxInFlight,
		IdleConnTimeout:        90 * time.Second,
		ResponseHeaderTimeout:  cfg.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	transport.ForceAttemptHTTP2 = true
	transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		// The files are read for each connection, so renewed ones need no restart.
		conf, err := cfg.TLS.Load(host)
		if err != nil {
			return nil, err
		}
		conf.NextProtos = []string{"h2", "http/1.1"}
		d := &tls.Dialer{NetDialer: dialer, Config: conf}
		return d.DialContext(ctx, network, address)
	}
	s := &sink{
		cfg: cfg, slots: make(chan struct{}, cfg.MaxInFlight),
		client: &http.Client{
			Transport: transport,
			// A redirect would send the message, with its credentials, where nobody configured.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if cfg.Auth != nil && cfg.Auth.OAuth2 != nil {
		s.tokens = newTokens(cfg.Auth.OAuth2, &http.Client{Timeout: cfg.Timeout, CheckRedirect: s.client.CheckRedirect})
	}
	return s, nil
}

// Open implements connectors.Sink. Connections are made per request.
func (s *sink) Open(context.Context) error { return nil }

// Close implements connectors.Sink.
func (s *sink) Close(context.Context) error {
	s.client.CloseIdleConnections()
	return nil
}

// Handle implements message.Handler.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	chains := chainsOf(b)
	errs := make([]error, b.Len())
	if len(chains) == 1 {
		s.sendChain(ctx, b, chains[0], errs)
		return partial(errs)
	}
	var taken atomic.Int64
	group := run.NewGroup(ctx)
	for range min(len(chains), s.cfg.MaxInFlight) {
		group.Go("http requests", func(ctx context.Context) error {
			for i := taken.Add(1) - 1; int(i) < len(chains); i = taken.Add(1) - 1 {
				s.sendChain(ctx, b, chains[i], errs)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return partial(errs)
}

// chainsOf groups the indexes of messages that must be sent one after the other.
func chainsOf(b *message.Batch) [][]int {
	chains := make([][]int, 0, b.Len())
	byKey := map[string]int{}
	for i := range b.Messages {
		key := b.Messages[i].Key
		if key == nil {
			chains = append(chains, []int{i})
			continue
		}
		at, ok := byKey[string(key)]
		if !ok {
			at = len(chains)
			byKey[string(key)] = at
			chains = append(chains, nil)
		}
		chains[at] = append(chains[at], i)
	}
	return chains
}

func partial(errs []error) error {
	var failed []message.Failed
	for i, err := range errs {
		if err != nil {
			failed = append(failed, message.Failed{Index: i, Err: err})
		}
	}
	if failed == nil {
		return nil
	}
	return &message.PartialError{Failed: failed}
}

// sendChain sends messages of one key in order. After one has failed, the others
// wait: overtaking it would break the order.
func (s *sink) sendChain(ctx context.Context, b *message.Batch, chain []int, errs []error) {
	for n, i := range chain {
		err := s.send(ctx, &b.Messages[i])
		if err == nil {
			continue
		}
		errs[i] = err
		for _, j := range chain[n+1:] {
			errs[j] = message.ErrBehind
		}
		return
	}
}

func (s *sink) send(ctx context.Context, m *message.Message) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	req, err := s.request(ctx, m)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	switch {
	case errors.Is(err, errPrivate):
		return &message.Reason{Code: "LS4105", Text: errPrivate.Error(), Permanent: true}
	case s.cfg.URL.computed() && noSuchHost(err):
		return &message.Reason{Code: "LS4106", Text: "the host of the computed url does not exist"}
	case err != nil:
		return message.Unavailable(fmt.Errorf("call %s: %w", req.URL.Host, safeError(err)))
	}
	_, _ = io.CopyN(io.Discard, resp.Body, drainLimit) // only to use the connection again
	_ = resp.Body.Close()
	if token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok && s.tokens != nil && resp.StatusCode == http.StatusUnauthorized {
		s.tokens.forget(token) // it may have been revoked; the next attempt gets another
	}
	return verdict(resp)
}

// noSuchHost reports whether the name servers say that there is no such host, which is
// more than that they do not answer. With a computed url that is the message's fault: a
// sender that makes up hosts must not make the output unavailable for the others.
func noSuchHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound && !dns.IsTemporary && !dns.IsTimeout
}

// safeError keeps the errors of the network and of TLS. Others may quote the address,
// whose query may hold a secret, or what the endpoint answered, which may be the
// message.
func safeError(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	_, network := errors.AsType[net.Error](err)
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	if network || certificate || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.New("the answer cannot be read")
}

// verdict says what an answer means for the message.
func verdict(resp *http.Response) error {
	status := resp.StatusCode
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 500, slices.Contains([]int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}, status):
		return &message.UnavailableError{
			Err:   fmt.Errorf("the endpoint answered %d", status),
			After: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
		}
	default:
		return &message.Reason{Code: "LS4101", Text: "the endpoint answered " + strconv.Itoa(status)}
	}
}

// retryAfter reads seconds or a date (RFC 9110 §10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return min(time.Duration(max(seconds, 0))*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

func (s *sink) request(ctx context.Context, m *message.Message) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, s.cfg.Method, "", bytes.NewReader(m.Payload))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if req.URL, err = s.cfg.URL.resolve(m.Options); err != nil {
		return nil, err
	}
	req.Host = req.URL.Host
	if err := s.setHeaders(req.Header, m); err != nil {
		return nil, err
	}
	a := s.cfg.Auth
	switch {
	case a == nil:
	case a.Basic != nil:
		req.SetBasicAuth(a.Basic.User, a.Basic.Password.Reveal())
	case s.tokens != nil:
		token, err := s.tokens.get(ctx)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	default:
		req.Header.Set("Authorization", "Bearer "+a.Bearer.Reveal())
	}
	return req, nil
}

// setHeaders puts the message's headers, then the configured ones over them. What
// HTTP cannot carry is refused, so that no value can start a header of its own.
func (s *sink) setHeaders(h http.Header, m *message.Message) error {
	for i := range m.Headers {
		name, value := m.Headers[i].Name, m.Headers[i].Value.Text()
		if !validName(name) || reserved(name) || !validValue(value) {
			return cannotCarry("a header of the message has a name or value that HTTP cannot carry")
		}
		h.Add(name, value)
	}
	for i := range s.cfg.Headers {
		value := s.cfg.Headers[i].Value.Value(m.Options)
		if !validValue(value) {
			return cannotCarry("the computed header " + s.cfg.Headers[i].Name + " has control characters")
		}
		h.Set(s.cfg.Headers[i].Name, value)
	}
	for _, p := range []struct{ name, value string }{
		{"Content-Type", s.contentType(m)},
		{"Idempotency-Key", m.ID},
	} {
		if !validValue(p.value) {
			return cannotCarry("the message's " + p.name + " has control characters")
		}
		if p.value != "" {
			h.Set(p.name, p.value)
		}
	}
	return nil
}

func (s *sink) contentType(m *message.Message) string {
	switch {
	case s.cfg.ContentType != "":
		return s.cfg.ContentType
	case m.ContentType != "":
		return m.ContentType
	default:
		return "application/octet-stream"
	}
}

func cannotCarry(text string) error {
	return &message.Reason{Code: "LS4102", Text: text, Permanent: true}
}
