package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/tlsconf"
)

// The values of acks.
const (
	acksAll    = "all"
	acksLeader = "leader"
	acksNone   = "none"
)

// compressionNone sends as it is.
const compressionNone = "none"

// SinkConfig is what a user writes under `kafka:` of an output.
type SinkConfig struct {
	// Brokers are host:port of some brokers; they name the others.
	Brokers []string `yaml:"brokers,required"`
	// Topic is where messages go: text, or {expr: …}.
	Topic config.Option `yaml:"topic,required"`
	// Key is an expression: what it gives is the key of the record, which also chooses
	// the partition, as Kafka's own clients do (murmur2). Null, or an empty text, is no
	// key. Default: no key; then messages with equal ordering keys go to one partition,
	// and the others are spread.
	Key config.Option `yaml:"key"`
	// Compression of batches: snappy, lz4, zstd, gzip or none. Default: snappy.
	Compression string `yaml:"compression"`
	// Acks is who has to have a message before it counts as delivered: all (the replicas
	// in sync), leader, or none, which confirms nothing. Default: all.
	Acks string `yaml:"acks"`
	// Linger is how long a batch waits for more. Default: 0; batches form while others
	// are under way.
	Linger time.Duration `yaml:"linger"`
	// MaxBatch is the largest batch, and so the largest message, before compression: at
	// most what the topic takes (max.message.bytes). Default: 1000012 bytes, as there.
	MaxBatch config.Size `yaml:"max_batch"`
	// MaxBuffered is the number of messages that wait for their confirmation at once.
	// Default: 50000.
	MaxBuffered int `yaml:"max_buffered"`
	// Timeout is how long a confirmation may take, with all tries. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
	// AllowAutoTopicCreation lets the brokers make a topic that is missing. Default:
	// false.
	AllowAutoTopicCreation bool `yaml:"allow_auto_topic_creation"`
	// Transactional writes in the transactions of the pipeline's input, with the input's
	// connection, acks: all and compression: snappy. Default: false.
	Transactional bool `yaml:"transactional"`
	// Auth is who connects.
	Auth *Auth `yaml:"auth"`
	// TLS is used when it is given; {} verifies against the system's authorities.
	TLS *tlsconf.Client `yaml:"tls"`
}

func sinkDefaults() SinkConfig {
	return SinkConfig{
		Topic: config.Option{Destination: true}, Key: config.Option{Expression: true},
		Compression: "snappy", Acks: acksAll, MaxBatch: 1000012, MaxBuffered: 50000, Timeout: 30 * time.Second,
	}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	checkCluster(c.Brokers, c.Auth, c.TLS, n, r)
	if c.Topic.Expr.IsZero() && !validTopic(c.Topic.Literal) {
		r.Errorf(n.Get("topic"), "LS1150", "use letters, digits, `.`, `_` and `-`, or write {expr: …}", "this is not the name of a topic")
	}
	oneOf(n.Get("compression"), c.Compression, []string{"zstd", "lz4", "snappy", "gzip", compressionNone}, r)
	oneOf(n.Get("acks"), c.Acks, []string{acksAll, acksLeader, acksNone}, r)
	if c.Transactional {
		for _, key := range []string{"compression", "acks", "linger", "max_batch", "max_buffered", "allow_auto_topic_creation"} {
			if v := n.Get(key); !v.IsZero() {
				r.Errorf(v, "LS1150", "remove it", "%s has no effect in the transactions of the input", key)
			}
		}
	}
	if c.Linger < 0 || c.Linger > time.Second {
		r.Errorf(n.Get("linger"), "LS1150", "write 2ms", "linger must be 0 to 1s")
	}
	if c.MaxBatch < 1<<10 || c.MaxBatch > 96<<20 || c.MaxBuffered < 1 || c.Timeout < time.Second || c.Timeout > time.Hour {
		r.Errorf(n, "LS1150", "leave them out to get the defaults", "max_batch must be 1KiB to 96MiB, max_buffered at least 1, timeout 1s to 1h")
	}
}

// Traits implements connectors.Traited: without acks nothing is confirmed.
func (c *SinkConfig) Traits(t connectors.Traits) connectors.Traits {
	t.Confirms, t.Transacts = c.Acks != acksNone, c.Transactional
	return t
}

// options are those of the producing client.
func (c *SinkConfig) options() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.RecordPartitioner(partitioner{keyed: kgo.StickyKeyPartitioner(nil)}),
		kgo.ProducerBatchCompression(codec(c.Compression)),
		kgo.ProducerBatchMaxBytes(int32(c.MaxBatch)),
		kgo.MaxBufferedRecords(c.MaxBuffered),
		kgo.ProducerLinger(c.Linger),
		kgo.ProduceRequestTimeout(min(c.Timeout, 10*time.Second)),
		kgo.UnknownTopicRetries(2),
	}
	if c.AllowAutoTopicCreation {
		opts = append(opts, kgo.AllowAutoTopicCreation())
	}
	switch c.Acks {
	case acksLeader:
		return append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case acksNone:
		return append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		// A record whose fate is unknown is given up after the time-out: the message comes
		// again, and may be there twice, where otherwise it would be waited for for ever.
		return append(opts, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.AllowIdempotentProduceCancellation())
	}
}

func codec(name string) kgo.CompressionCodec {
	switch name {
	case "zstd":
		return kgo.ZstdCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "snappy":
		return kgo.SnappyCompression()
	case "gzip":
		return kgo.GzipCompression()
	default:
		return kgo.NoCompression()
	}
}

// unplaced is the partition of a record that may go anywhere.
const unplaced = -1

// partitioner places records with a key as Kafka's own clients do, records whose
// Partition is a hash by that, and spreads the others.
type partitioner struct{ keyed kgo.Partitioner }

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return &topicPartitioner{TopicPartitioner: p.keyed.ForTopic(topic)}
}

type topicPartitioner struct{ kgo.TopicPartitioner }

// RequiresConsistency implements kgo.TopicPartitioner: a partition that is away for the
// moment still counts, or equal keys would part.
func (p *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Key != nil || r.Partition != unplaced
}

// Partition implements kgo.TopicPartitioner.
func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Key == nil && r.Partition != unplaced {
		return int(r.Partition) % n
	}
	return p.TopicPartitioner.Partition(r, n)
}

// OnNewBatch implements kgo.TopicPartitionerOnNewBatch.
func (p *topicPartitioner) OnNewBatch() {
	if on, ok := p.TopicPartitioner.(kgo.TopicPartitionerOnNewBatch); ok {
		on.OnNewBatch()
	}
}
