// Package kafka connects linkspan to Kafka.
//
// A source reads as a member of a consumer group, or fixed partitions without one. It
// delivers at least once: an offset is committed only when the message before it, and
// all before that one, were taken over. Messages of a partition are handed on one batch
// at a time and in their order, several partitions at once. When a partition is taken
// away, what is under way is waited for and committed first, so that the next member
// goes on behind it. A message that the pipeline does not take holds its partition,
// and no other; nothing is passed over.
//
// A sink has delivered a message when the brokers have confirmed it, by default all
// replicas in sync, and its producer is idempotent. Messages with equal keys go to one
// partition and keep their order.
package kafka

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
	"github.com/linkspan/linkspan/message"
)

// Spec describes the kafka connector.
func Spec() connectors.Spec {
	carries := connectors.Properties{
		Time: "timestamp", Key: "record key",
		Kinds:   connectors.KindsOf(message.KindNull, message.KindString, message.KindBytes),
		Repeats: true,
		Notes: []string{
			"A binary header value that is valid UTF-8 arrives as text.",
			"The time is kept in milliseconds.",
			"A record without a value (a tombstone) arrives with the header kafka-tombstone, and leaves by it.",
		},
	}
	book := newTransactions()
	return connectors.Spec{
		Name: "kafka",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Brokered: true, Headers: true, Carries: carries, OrderKey: "record key, else topic and partition"},
			sourceDefaults,
			func(c SourceConfig, e connectors.Env) (connectors.Source, error) { return newSource(c, e, book) }),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Headers: true, Carries: carries}, sinkDefaults,
			func(c SinkConfig, e connectors.Env) (connectors.Sink, error) { return newSink(c, e, book) }),
	}
}

// The values of isolation.
const (
	readCommitted   = "read_committed"
	readUncommitted = "read_uncommitted"
)

// The values of balancer.
const (
	balancerCooperative = "cooperative-sticky"
	balancerSticky      = "sticky"
	balancerRange       = "range"
	balancerRoundRobin  = "round-robin"
)

// SourceConfig is what a user writes under `kafka:` of an input: `topics` or
// `topics_regex` to read as a member of a group, or `partitions` to read these alone.
type SourceConfig struct {
	// Brokers are host:port of some brokers; they name the others.
	Brokers []string `yaml:"brokers,required"`
	// Topics are the topics that are read.
	Topics []string `yaml:"topics"`
	// TopicsRegex is a regular expression (RE2) that whole topic names must match. New
	// topics are found within a minute.
	TopicsRegex string `yaml:"topics_regex"`
	// Group is the consumer group. Default: linkspan-PIPELINE-INPUT.
	Group string `yaml:"group"`
	// Partitions are read without a group: topics with lists of partitions, or with
	// partitions and where each begins (an offset, earliest or latest). How far they
	// were read is kept in the data directory.
	Partitions Partitions `yaml:"partitions"`
	// Start is where a partition begins that was not read before: earliest, latest, or a
	// time (RFC 3339). Default: earliest.
	Start string `yaml:"start"`
	// Isolation is read_committed, which leaves out what aborted transactions wrote, or
	// read_uncommitted. Default: read_committed.
	Isolation string `yaml:"isolation"`
	// Balancer shares the partitions out in the group: cooperative-sticky, sticky, range
	// or round-robin. Default: cooperative-sticky.
	Balancer string `yaml:"balancer"`
	// InstanceID makes this a static member: a restart within session_timeout keeps its
	// partitions. Each running instance needs its own.
	InstanceID string `yaml:"instance_id"`
	// Rack is where this client stands, so that it can read from a replica nearby.
	Rack string `yaml:"rack"`
	// SessionTimeout is how long the group waits for a silent member. Default: 10s, so that what a
	// member that was killed has read is read again soon.
	SessionTimeout time.Duration `yaml:"session_timeout"`
	// RebalanceTimeout is how long a member may take to give partitions back. Default:
	// 60s.
	RebalanceTimeout time.Duration `yaml:"rebalance_timeout"`
	// CommitInterval is how often offsets are committed. After a crash at most what was
	// taken over in this time comes again. Default: 200ms.
	CommitInterval time.Duration `yaml:"commit_interval"`
	// TransactionalID makes the input read in transactions: the outputs of the pipeline
	// write in them, and the offsets are committed with them. Each running instance needs
	// its own. Needs `delivery: {queue: none}` and `transactional: true` at all outputs.
	TransactionalID string `yaml:"transactional_id"`
	// TransactionTimeout is how long a transaction may take; half of it is for the
	// pipeline. Default: 60s.
	TransactionTimeout time.Duration `yaml:"transaction_timeout"`
	// Fetch tunes what is read at once.
	Fetch Fetch `yaml:"fetch"`
	// SchemaRegistry says what to do with the schema id in front of a payload.
	SchemaRegistry SchemaRegistry `yaml:"schema_registry"`
	// Auth is who connects.
	Auth *Auth `yaml:"auth"`
	// TLS is used when it is given; {} verifies against the system's authorities.
	TLS *tlsconf.Client `yaml:"tls"`
}

// Fetch tunes what is read from a broker at once.
type Fetch struct {
	// MinBytes is what a broker waits for, at most MaxWait. Default: 1.
	MinBytes config.Size `yaml:"min_bytes"`
	// MaxBytes bounds an answer. Default: 16MiB.
	MaxBytes config.Size `yaml:"max_bytes"`
	// MaxPartitionBytes bounds a partition's part of an answer; a larger batch still
	// comes. Default: 1MiB.
	MaxPartitionBytes config.Size `yaml:"max_partition_bytes"`
	// MaxWait is how long a broker waits for MinBytes. Default: 500ms.
	MaxWait time.Duration `yaml:"max_wait"`
}

// SchemaRegistry says what to do with payloads that begin with a zero byte and the
// four bytes of a schema id, as the serializers of schema registries write them. The id
// becomes the header kafka-schema-id in any case.
type SchemaRegistry struct {
	// Strip takes the five bytes off. Default: false.
	Strip bool `yaml:"strip"`
}

func sourceDefaults() SourceConfig {
	return SourceConfig{
		Start: startEarliest, Isolation: readCommitted, Balancer: balancerCooperative,
		SessionTimeout: 10 * time.Second, RebalanceTimeout: 60 * time.Second, CommitInterval: 200 * time.Millisecond,
		TransactionTimeout: time.Minute,
		Fetch:              Fetch{MinBytes: 1, MaxBytes: 16 << 20, MaxPartitionBytes: 1 << 20, MaxWait: 500 * time.Millisecond},
	}
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	checkCluster(c.Brokers, c.Auth, c.TLS, n, r)
	c.checkWhat(n, r)
	if _, err := parseStart(c.Start); err != nil {
		r.Errorf(n.Get("start"), "LS1150", "write earliest, latest or a time such as 2026-01-31T08:00:00Z", "%q is not a place to start at", c.Start)
	}
	oneOf(n.Get("isolation"), c.Isolation, []string{readCommitted, readUncommitted}, r)
	oneOf(n.Get("balancer"), c.Balancer, []string{balancerCooperative, balancerSticky, balancerRange, balancerRoundRobin}, r)
	if c.SessionTimeout < time.Second || c.SessionTimeout > time.Hour || c.RebalanceTimeout < time.Second || c.RebalanceTimeout > time.Hour {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "session_timeout and rebalance_timeout must be 1s to 1h")
	}
	if c.CommitInterval < 10*time.Millisecond || c.CommitInterval > time.Minute {
		r.Errorf(n.Get("commit_interval"), "LS1150", "write 200ms", "commit_interval must be 10ms to 1m")
	}
	if len(c.TransactionalID) > 200 || c.TransactionTimeout < 2*time.Second || c.TransactionTimeout > 15*time.Minute {
		r.Errorf(n, "LS1150", "leave transaction_timeout out to get the default", "transactional_id must have 200 bytes at most, and transaction_timeout be 2s to 15m")
	}
	c.Fetch.check(n.Get("fetch"), r)
}

// Traits implements connectors.Traited.
func (c *SourceConfig) Traits(t connectors.Traits) connectors.Traits {
	t.Transacts = c.TransactionalID != ""
	return t
}

func (f *Fetch) check(n config.Node, r *config.Report) {
	const most = 1 << 30
	if f.MinBytes < 1 || f.MaxBytes < 1<<10 || f.MaxPartitionBytes < 1<<10 || max(f.MinBytes, f.MaxBytes, f.MaxPartitionBytes) > most {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "min_bytes must be at least 1, max_bytes and max_partition_bytes 1KiB to 1GiB")
	}
	if f.MaxWait < 10*time.Millisecond || f.MaxWait > time.Minute {
		r.Errorf(n.Get("max_wait"), "LS1150", "write 500ms", "max_wait must be 10ms to 1m")
	}
}

// checkWhat checks what is read.
func (c *SourceConfig) checkWhat(n config.Node, r *config.Report) {
	given := 0
	for _, is := range []bool{len(c.Topics) > 0, c.TopicsRegex != "", len(c.Partitions) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		r.Errorf(n, "LS1150", "write `topics: [orders]`, `topics_regex: orders-.*` or `partitions: {orders: [0, 1]}`", "exactly one of topics, topics_regex and partitions is needed")
	}
	for _, t := range c.Topics {
		if !validTopic(t) {
			r.Errorf(n.Get("topics"), "LS1150", "use letters, digits, `.`, `_` and `-`", "%q is not the name of a topic", t)
		}
	}
	for t := range c.Partitions {
		if !validTopic(t) {
			r.Errorf(n.Get("partitions"), "LS1150", "use letters, digits, `.`, `_` and `-`", "%q is not the name of a topic", t)
		}
	}
	if _, err := regexp.Compile(c.TopicsRegex); err != nil {
		r.Errorf(n.Get("topics_regex"), "LS1150", "see the syntax of RE2", "this is not a regular expression: %s", err)
	}
	if len(c.Partitions) == 0 {
		return
	}
	for _, key := range []string{"group", "balancer", "instance_id", "session_timeout", "rebalance_timeout", "transactional_id"} {
		if v := n.Get(key); !v.IsZero() {
			r.Errorf(v, "LS1150", "remove it, or write `topics:` instead of `partitions:`", "%s is for a group, and fixed partitions are read without one", key)
		}
	}
}

// checkCluster checks what both ends have in common.
func checkCluster(brokers []string, auth *Auth, tls *tlsconf.Client, n config.Node, r *config.Report) {
	if len(brokers) == 0 {
		r.Errorf(n.Get("brokers"), "LS1150", "write [host:9092]", "no broker is named")
	}
	for _, b := range brokers {
		if !validBroker(b) {
			r.Errorf(n.Get("brokers"), "LS1150", "write host:port, such as broker-1:9092, without a scheme; `tls:` turns TLS on", "%q is not the address of a broker", b)
		}
	}
	auth.check(tls != nil, n.Get("auth"), r)
	if tls != nil {
		tls.Check(n.Get("tls"), r)
	}
}

func validBroker(address string) bool {
	host, port, err := net.SplitHostPort(address)
	number, notNumber := strconv.ParseUint(port, 10, 16)
	return err == nil && notNumber == nil && host != "" && number > 0
}

const topicCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// validTopic reports whether Kafka takes the name: up to 249 letters, digits, dots,
// underscores and hyphens, and neither "." nor "..".
func validTopic(name string) bool {
	if name == "" || len(name) > 249 || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		if !strings.ContainsRune(topicCharacters, rune(name[i])) {
			return false
		}
	}
	return true
}

func oneOf(n config.Node, value string, known []string, r *config.Report) {
	if !slices.Contains(known, value) {
		r.Errorf(n, "LS1150", config.Suggest(value, known), "%q is not known here", value)
	}
}
