package console

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

// Client asks the admin server of a running process on this machine.
type Client struct {
	file AdminFile
	http *http.Client
}

// NewClient returns a client for what DATA/admin says. It dials nothing yet.
func NewClient(f AdminFile) *Client {
	transport := &http.Transport{
		// The server is on this machine: a proxy would only see the token.
		Proxy:       nil,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	if f.Certificate != "" {
		transport.TLSClientConfig = pinned(f.Certificate)
	}
	return &Client{file: f, http: &http.Client{Transport: transport}}
}

// pinned accepts the certificate of the file and no other, whatever name it carries:
// who wrote the data directory says which file the server has.
func pinned(file string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection is stricter
		VerifyConnection: func(c tls.ConnectionState) error {
			want, err := firstCertificate(file)
			if err != nil {
				return err
			}
			if len(c.PeerCertificates) == 0 || !bytes.Equal(c.PeerCertificates[0].Raw, want) {
				return fmt.Errorf("the server's certificate is not the one in %s", file)
			}
			return nil
		},
	}
}

// Close frees the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// RefusedError is an answer that is not a success.
type RefusedError struct {
	// Status is the HTTP status code.
	Status int
	// Text is what the server said.
	Text string
}

// Error implements error.
func (e *RefusedError) Error() string { return e.Text }

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	scheme := "http"
	if c.file.Certificate != "" {
		scheme = "https"
	}
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+c.file.Address+path, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.file.Token)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the running linkspan: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var p problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&p); err != nil || p.Error == "" {
		p.Error = "the admin server answered " + resp.Status
	}
	return nil, &RefusedError{Status: resp.StatusCode, Text: p.Error}
}

func (c *Client) object(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return nil
}

// each reads one JSON object a line. A line that is an error ends the list.
func each[T any](ctx context.Context, c *Client, path string, f func(T) error) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	decoder := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var line json.RawMessage
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the answer of %s: %w", path, err)
		}
		var p problem
		if bytes.HasPrefix(line, []byte(`{"error":`)) && json.Unmarshal(line, &p) == nil && p.Error != "" {
			return errors.New(p.Error)
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return fmt.Errorf("read the answer of %s: %w", path, err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
}

// Status describes the process and its pipelines.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.object(ctx, http.MethodGet, "/api/v1/status", nil, &s)
	return s, err
}

// Topics describes every topic, by name.
func (c *Client) Topics(ctx context.Context) ([]queue.TopicStats, error) {
	var out []queue.TopicStats
	err := c.object(ctx, http.MethodGet, "/api/v1/queue/topics", nil, &out)
	return out, err
}

// Messages calls f with the messages that a topic holds, in order.
func (c *Client) Messages(ctx context.Context, q MessageQuery, f func(QueuedMessage) error) error {
	v := url.Values{"topic": {q.Topic}, "from": {strconv.FormatUint(q.From, 10)}, "limit": {strconv.Itoa(q.Limit)}, "payload": {strconv.FormatBool(q.Content)}, "id": {q.ID}, "key": {q.Key}, "header": q.Headers}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	return each(ctx, c, "/api/v1/queue/messages?"+v.Encode(), f)
}

// DeadLetters calls f with dead letters, by pipeline and oldest first.
func (c *Client) DeadLetters(ctx context.Context, q DeadLetterQuery, f func(pipelines.DeadLetter) error) error {
	v := url.Values{"pipeline": {q.Pipeline}, "code": {q.Code}, "limit": {strconv.Itoa(q.Limit)}}
	return each(ctx, c, "/api/v1/dead-letters?"+v.Encode(), f)
}

// DeadLetter returns one entry with its message.
func (c *Client) DeadLetter(ctx context.Context, pipeline string, number uint64) (DeadLetterView, error) {
	var d DeadLetterView
	err := c.object(ctx, http.MethodGet, "/api/v1/dead-letters/"+url.PathEscape(pipeline)+"/"+strconv.FormatUint(number, 10), nil, &d)
	return d, err
}

// Retry sends dead letters through their pipeline again. It returns how many.
func (c *Client) Retry(ctx context.Context, pipeline string, d Decision) (int, error) {
	return c.decide(ctx, pipeline, "retry", d)
}

// Drop removes dead letters for good. It returns how many.
func (c *Client) Drop(ctx context.Context, pipeline string, d Decision) (int, error) {
	return c.decide(ctx, pipeline, "drop", d)
}

func (c *Client) decide(ctx context.Context, pipeline, what string, d Decision) (int, error) {
	var out Decided
	err := c.object(ctx, http.MethodPost, "/api/v1/dead-letters/"+url.PathEscape(pipeline)+"/"+what, d, &out)
	return out.Count, err
}
