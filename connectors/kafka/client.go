package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/linkspan/linkspan/internal/tlsconf"
)

const (
	// dialWithin bounds dialling with the TLS handshake.
	dialWithin = 10 * time.Second
	// checkWithin bounds the first questions to a cluster.
	checkWithin = 15 * time.Second
	// leaveWithin bounds the last commit.
	leaveWithin = 10 * time.Second
	// byeWithin bounds the good-bye to the group.
	byeWithin = 3 * time.Second
)

// cluster is what both ends know of the brokers.
type cluster struct {
	brokers []string
	auth    *Auth
	tls     *tlsconf.Client
	// clientID is shown in the logs of the brokers.
	clientID string
	health   health
}

// options are those of every client.
func (c *cluster) options(ctx context.Context) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.brokers...),
		kgo.ClientID(c.clientID),
		kgo.SoftwareNameAndVersion("linkspan", "1"),
		kgo.Dialer(c.dial),
		kgo.WithHooks(&c.health),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.MetadataMaxAge(time.Minute),
		// A client starts again rather than trying for minutes.
		kgo.RequestRetries(5),
		kgo.RetryTimeout(checkWithin),
	}
	if m := c.auth.mechanism(ctx); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts
}

// dial reads the TLS files for each connection, so that renewed ones need no restart.
func (c *cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	plain := &net.Dialer{KeepAlive: 15 * time.Second}
	if c.tls == nil {
		return plain.DialContext(ctx, network, address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	conf, err := c.tls.Load(host)
	if err != nil {
		return nil, &codedError{code: codeTLS, text: "the files of `tls:` cannot be used", cause: err}
	}
	conn, err := plain.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake has failed
		return nil, &codedError{code: codeTLS, text: "the TLS handshake with the broker failed; check `tls:` and whether this port speaks TLS", cause: err}
	}
	return secure, nil
}

// check asks for the topics, so that what is wrong with the cluster, the credentials or
// the topics shows at once and with its reason. It returns the id of the cluster.
func (c *cluster) check(ctx context.Context, topics []string, create bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	// A client of its own, which ends with ctx even while it connects.
	client, err := kgo.NewClient(append(c.options(ctx), kgo.WithContext(ctx))...)
	if err != nil {
		return "", fmt.Errorf("configure client: %w", err)
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return "", c.connectError(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = create
	req.Topics = []kmsg.MetadataRequestTopic{} // none, where nil would be all
	for _, t := range topics {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = new(t)
		req.Topics = append(req.Topics, topic)
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return "", c.connectError(err)
	}
	for i := range resp.Topics {
		name := ""
		if resp.Topics[i].Topic != nil {
			name = *resp.Topics[i].Topic
		}
		err := kerr.ErrorForCode(resp.Topics[i].ErrorCode)
		// A topic that is being made has no leader for the moment.
		if err != nil && !errors.Is(err, kerr.LeaderNotAvailable) && (!create || !errors.Is(err, kerr.UnknownTopicOrPartition)) {
			return "", fmt.Errorf("topic %s: %w", name, explain(err))
		}
	}
	if resp.ClusterID == nil {
		return "", nil
	}
	return *resp.ClusterID, nil
}

// connectError explains why no broker answers: what the last connection failed with
// says more than that the time was up.
func (c *cluster) connectError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		if cause := c.health.lastFailure(); cause != nil {
			err = cause
		}
	}
	if c.auth != nil && errors.Is(err, io.EOF) {
		err = &codedError{code: codeCredentials, text: "the broker closed the connection at the login; check `auth:` with its mechanism, user and password, and `tls:`"}
	}
	return fmt.Errorf("connect %v: %w", c.brokers, explain(err))
}

// health notes when a broker was last heard, and why the last connection failed.
type health struct {
	heard atomic.Int64

	mu      sync.Mutex
	failure error
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (h *health) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err == nil {
		h.heard.Store(time.Now().UnixNano())
	}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// That the time was up says less than what failed before.
	if err == nil || h.failure == nil || !isTimeout(err) {
		h.failure = err
	}
}

func isTimeout(err error) bool {
	timed, ok := errors.AsType[net.Error](err)
	return ok && timed.Timeout() || errors.Is(err, context.Canceled)
}

func (h *health) lastFailure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure
}

// silence is how long no broker was heard.
func (h *health) silence() time.Duration { return time.Since(time.Unix(0, h.heard.Load())) }
