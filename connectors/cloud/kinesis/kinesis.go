// Package kinesis connects linkspan to Amazon Kinesis Data Streams.
//
// In. One input reads all shards of a stream, each in its order, and a shard only after
// its parents have been read to their ends, so that the records of a partition key stay in
// order when a stream is split or merged. How far each shard was handed on is kept in the
// directory of the input, strictly after the hand-over; a restart goes on there. Records
// that the Kinesis Producer Library aggregates arrive as they are.
//
// Out. PutRecords with the partition key of each message; a record that is refused for the
// moment is told apart from the others. Kinesis keeps no order among the records of one
// call, so that messages with one key go in calls of their own, unless ordered is false.
package kinesis

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
)

// Spec describes the kinesis connector.
func Spec() connectors.Spec {
	in := connectors.Properties{ID: "shard id and sequence number", Time: "arrival time", Key: "partition key", Kinds: connectors.TextOnly()}
	out := connectors.Properties{Key: "partition key", Kinds: connectors.TextOnly(), Notes: []string{"a record has a payload and a partition key, and nothing else"}}
	return connectors.Spec{
		Name: "kinesis",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, Brokered: true, Carries: in, OrderKey: "partition key"},
			func() SourceConfig { return SourceConfig{Start: startFirst, Poll: time.Second, Batch: 1000} },
			func(c SourceConfig, env connectors.Env) (connectors.Source, error) {
				return &source{cfg: c, env: env}, nil
			}),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true, Carries: out},
			func() SinkConfig {
				return SinkConfig{PartitionKey: config.Option{Expression: true}, Ordered: true, Timeout: 30 * time.Second}
			},
			func(c SinkConfig, _ connectors.Env) (connectors.Sink, error) { return &sink{cfg: c}, nil }),
	}
}

// Service is how the service is reached.
type Service struct {
	// Stream is the name of the stream.
	Stream string `yaml:"stream,required"`
	// Region is the region, such as eu-central-1. Empty: that of the environment.
	Region string `yaml:"region"`
	// Endpoint is the address of another service than Amazon's, such as an emulator.
	Endpoint config.Address `yaml:"endpoint"`
	// Auth is an access key. Nil: what the environment has, as the tools of AWS find it.
	Auth *Auth `yaml:"auth"`
}

// Auth is an access key.
type Auth struct {
	AccessKey    string        `yaml:"access_key,required"`
	SecretKey    config.Secret `yaml:"secret_key,required"`
	SessionToken config.Secret `yaml:"session_token"`
}

// Where a stream is begun that was not read before.
const (
	startFirst  = "first"
	startLatest = "latest"
)

// SourceConfig is what a user writes under `kinesis:` of an input.
type SourceConfig struct {
	Service

	// Start is where shards begin that were not read before: first, latest, or a time of
	// RFC 3339. Default: first.
	Start string `yaml:"start"`
	// Poll is how long to wait after a shard had nothing. The service allows five reads a
	// second of a shard, to all its readers together. Default: 1s.
	Poll time.Duration `yaml:"poll"`
	// Batch is how many records are read at once at most. Default: 1000.
	Batch int `yaml:"batch"`
}

// SinkConfig is what a user writes under `kinesis:` of an output.
type SinkConfig struct {
	Service

	// PartitionKey is an expression that gives the partition key, 1 to 256 characters.
	// Empty: the key of the message, else a random one.
	PartitionKey config.Option `yaml:"partition_key"`
	// Ordered sends messages with one key one after another. Without it a batch is as few
	// calls as possible, and a record that is refused for the moment comes after later
	// ones. Default: true.
	Ordered bool `yaml:"ordered"`
	// Timeout is how long one call may take. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	if _, err := time.Parse(time.RFC3339, c.Start); err != nil && c.Start != startFirst && c.Start != startLatest {
		r.Errorf(n.Get("start"), "LS1150", "write first, latest, or a time such as 2026-01-31T08:00:00Z", "this is not a place to start")
	}
	if c.Poll < 200*time.Millisecond {
		r.Errorf(n.Get("poll"), "LS1150", "write 200ms or more", "a shard may be read five times a second")
	}
	if c.Batch < 1 || c.Batch > 10_000 {
		r.Errorf(n.Get("batch"), "LS1150", "write a number from 1 to 10000", "a batch of %d records is not possible", c.Batch)
	}
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	if c.Timeout <= 0 {
		r.Errorf(n.Get("timeout"), "LS1150", "write a duration such as 30s", "a timeout must be positive")
	}
}

// client returns a client, and finds out whether it can reach the stream.
func (s *Service) client(ctx context.Context) (*kinesis.Client, error) {
	var options []func(*awsconfig.LoadOptions) error
	if s.Region != "" {
		options = append(options, awsconfig.WithRegion(s.Region))
	}
	if a := s.Auth; a != nil {
		options = append(options, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey.Reveal(), a.SessionToken.Reveal())))
	}
	conf, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("read the configuration of AWS: %w", err)
	}
	client := kinesis.NewFromConfig(conf, func(o *kinesis.Options) {
		if u := s.Endpoint.URL(); u != nil {
			o.BaseEndpoint = aws.String(u.String())
		}
	})
	if _, err := client.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: &s.Stream}); err != nil {
		return nil, fmt.Errorf("find the stream %s: %w", s.Stream, explain(err))
	}
	return client, nil
}
