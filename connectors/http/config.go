package http

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// Spec describes the http connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name:   "http",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Answers: true, Headers: true, Carries: carries()}, sourceDefaults, newSource),
		Sink:   connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true, Carries: carries()}, sinkDefaults, newSink),
	}
}

func carries() connectors.Properties {
	return connectors.Properties{
		ID: "header Idempotency-Key", ContentType: "header Content-Type", Kinds: connectors.TextOnly(), Repeats: true,
		Notes: []string{
			"Header names arrive in lower case (RFC 9110 §5.1).",
			"Headers that frame the request (RFC 9110 §7.6.1), Host and Content-Length are refused by the output.",
			"A message without a content type leaves as application/octet-stream.",
		},
	}
}

// SourceConfig is what a user writes under `http:` of an input.
type SourceConfig struct {
	// Listen is the address, host:port. Several inputs may share it, with different
	// paths.
	Listen string `yaml:"listen,required"`
	// Path is the path that receives. It starts with a slash; `/orders/*` takes
	// everything below /orders/.
	Path string `yaml:"path,required"`
	// Methods are the methods that are taken. Default: POST.
	Methods []string `yaml:"methods"`
	// MaxBody is the largest body, after decompression. Default: the largest message
	// that the queue takes, at most 1MiB.
	MaxBody config.Size `yaml:"max_body"`
	// MaxInFlight is the number of requests worked on at once; more are answered with
	// 503. Default: 1024.
	MaxInFlight int `yaml:"max_in_flight"`
	// ReadTimeout is how long a client may take to send a body. Default: 30s.
	ReadTimeout time.Duration `yaml:"read_timeout"`
	// Reply makes a request wait for the pipeline's reply, which becomes the response.
	// Default: 202 as soon as the message is stored.
	Reply *ReplyConfig `yaml:"reply"`
	// Wait is how long a request waits for room in the queue before it is answered
	// with 503. Default: 5s.
	Wait time.Duration `yaml:"wait"`
	// ContentTypes are the media types that are taken, such as application/json or
	// text/*. Empty: all.
	ContentTypes []string `yaml:"content_types"`
	// Batch says that a body holds several messages: ndjson (a line each) or array (a JSON
	// array). Default: a body is one message.
	Batch string `yaml:"batch"`
	// Auth is what a client must present. Absent: anyone may send.
	Auth *Auth `yaml:"auth"`
	// TLS makes the address speak TLS. All inputs on one address have the same.
	TLS *tlsconf.Server `yaml:"tls"`
}

// ReplyConfig is how a request waits for its reply.
type ReplyConfig struct {
	// Timeout is how long a request waits; then it is answered with 504, and its reply,
	// should it come, is dead-lettered. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
}

func sourceDefaults() SourceConfig {
	return SourceConfig{
		Methods:     []string{http.MethodPost},
		MaxInFlight: 1024,
		ReadTimeout: 30 * time.Second,
		Wait:        5 * time.Second,
	}
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		r.Errorf(n.Get("listen"), "LS1150", "write host:port, such as 127.0.0.1:8080", "this is not an address to listen on")
	}
	if !strings.HasPrefix(c.Path, "/") || strings.Contains(strings.TrimSuffix(c.Path, "/*"), "*") {
		r.Errorf(n.Get("path"), "LS1150", "write a path such as /orders, or /orders/* for everything below it", "this is not a path")
	}
	if len(c.Methods) == 0 {
		r.Errorf(n.Get("methods"), "LS1150", "write [POST]", "no method is taken, so nothing can arrive")
	}
	for _, m := range c.Methods {
		if !validMethod(m) {
			r.Errorf(n.Get("methods"), "LS1150", "write methods in capitals, such as POST or PUT", "%q is not a method that carries a message", m)
		}
	}
	if c.MaxInFlight < 1 || c.ReadTimeout <= 0 || c.Wait <= 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_in_flight, read_timeout and wait must be more than zero")
	}
	if c.Reply != nil && (c.Reply.Timeout <= 0 || c.Reply.Timeout > time.Hour) {
		r.Errorf(n.Get("reply"), "LS1150", "write 30s", "reply.timeout must be more than zero and at most 1h")
	}
	switch c.Batch {
	case batchNone, batchNDJSON, batchArray:
	default:
		r.Errorf(n.Get("batch"), "LS1150", "write ndjson or array", "%q is not a form of batch", c.Batch)
	}
	if c.Batch != batchNone && c.Reply != nil {
		r.Errorf(n.Get("reply"), "LS1150", "remove one of them", "a batch has no single reply")
	}
	c.Auth.check(true, n.Get("auth"), r)
}

func validMethod(m string) bool {
	return slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet}, m)
}

// SinkConfig is what a user writes under `http:` of an output.
type SinkConfig struct {
	// URL is the endpoint, http or https: an address, or {expr: …}, which must start with
	// a text or have an allow list.
	URL endpointURL `yaml:"url,required"`
	// AllowNetworks are private networks, such as 10.1.0.0/16, that a computed URL may
	// lead to. Default: none. A fixed URL may lead anywhere.
	AllowNetworks []string `yaml:"allow_networks"`
	// Method of the requests. Default: POST.
	Method string `yaml:"method"`
	// Headers are sent with each request. A value is text, or {expr: …}.
	Headers headerOptions `yaml:"headers"`
	// ContentType is sent in place of the message's own. Default: the message's own,
	// else application/octet-stream.
	ContentType string `yaml:"content_type"`
	// Timeout bounds one request, from dialling to the last byte of the answer.
	// Default: 10s.
	Timeout time.Duration `yaml:"timeout"`
	// MaxInFlight is the number of requests under way at once. Default: 16.
	MaxInFlight int `yaml:"max_in_flight"`
	// Auth is presented to the endpoint.
	Auth *Auth `yaml:"auth"`
	// TLS is used for https.
	TLS *tlsconf.Client `yaml:"tls"`
}

// headerOptions are header names with their values, in the order of the file.
type headerOptions []headerOption

type headerOption struct {
	Name  string
	Value config.Option
}

// DecodeConfig implements config.Decoder.
func (h *headerOptions) DecodeConfig(n config.Node, r *config.Report) {
	if !n.IsMapping() {
		r.Errorf(n, "LS1110", "write names and values", "a mapping of header names to values is needed here")
		return
	}
	for _, f := range n.Fields() {
		o := headerOption{Name: f.Name}
		o.Value.DecodeConfig(f.Value, r)
		if !validName(f.Name) || reserved(f.Name) || !validValue(o.Value.Literal) {
			r.Errorf(f.Key, "LS1150", "use letters, digits and hyphens in the name and no line break in the value; content_type and auth have options of their own",
				"this header cannot be set")
		}
		*h = append(*h, o)
	}
}

func sinkDefaults() SinkConfig {
	return SinkConfig{Method: http.MethodPost, Timeout: 10 * time.Second, MaxInFlight: 16}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	for _, text := range c.AllowNetworks {
		if _, err := netip.ParsePrefix(text); err != nil {
			r.Errorf(n.Get("allow_networks"), "LS1150", "write 10.1.0.0/16", "%q is not a network", text)
		}
	}
	if c.URL.computed() {
		// checked for each message
	} else if u := c.URL.Fixed.URL(); u == nil || u.Scheme != "http" && u.Scheme != "https" {
		r.Errorf(n.Get("url"), "LS1150", "write https://host/path", "only http and https can be called")
	} else if u.User != nil {
		r.Errorf(n.Get("url"), "LS1150", "write `auth: {basic: {user: …, password: …}}`", "a name and password do not belong into the address")
	}
	if !validMethod(c.Method) {
		r.Errorf(n.Get("method"), "LS1150", "write POST, PUT, PATCH, DELETE or GET", "%q is not a method", c.Method)
	}
	if !validValue(c.ContentType) {
		r.Errorf(n.Get("content_type"), "LS1150", "write a media type such as application/json", "this is not a media type")
	}
	if c.MaxInFlight < 1 || c.Timeout <= 0 {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_in_flight and timeout must be more than zero")
	}
	c.Auth.check(false, n.Get("auth"), r)
	if c.TLS != nil {
		c.TLS.Check(n.Get("tls"), r)
	}
}
