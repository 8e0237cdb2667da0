package kinesis

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) {
	// The client keeps connections for the next call.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func testEnv(dir string) connectors.Env {
	return connectors.Env{Pipeline: "p", Name: "n", Dir: dir, Logger: slog.New(slog.DiscardHandler), MaxMessage: 16 << 20}
}

func node(t testing.TB, yaml string) config.Node {
	t.Helper()
	var r config.Report
	f := config.Parse("x.yaml", []byte(yaml), config.Lookup{Env: func(name string) (string, bool) { return name, true }}, &r)
	if f == nil || r.Failed() {
		t.Fatal(r.Problems())
	}
	return f.Root()
}

func buildSource(t testing.TB, dir, yaml string) connectors.Source {
	t.Helper()
	var r config.Report
	build, _ := Spec().Source.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	s, err := build(testEnv(dir))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func buildSink(t testing.TB, yaml string) connectors.Sink {
	t.Helper()
	var r config.Report
	build, _, options := Spec().Sink.Decode(node(t, yaml), &r)
	if r.Failed() {
		t.Fatal(r.Problems())
	}
	for i, o := range options {
		o.Index = i
	}
	s, err := build(testEnv(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const access = "region: us-east-1, auth: {access_key: k, secret_key: '${env:s}'}"

func at(endpoint, stream string) string {
	return "endpoint: '" + endpoint + "', stream: " + stream + ", " + access
}

// service is a client of the test.
func service(t *testing.T, endpoint string, streams ...string) *kinesis.Client {
	t.Helper()
	address, err := config.NewAddress(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	client := kinesis.New(kinesis.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(address.String()),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "k", SecretAccessKey: "s"}, nil
		}),
	})
	for _, stream := range streams {
		if _, err := client.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &stream, ShardCount: aws.Int32(2)}); err != nil {
			t.Fatal(err)
		}
		active(t, client, stream)
	}
	return client
}

func active(t *testing.T, client *kinesis.Client, stream string) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		out, err := client.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: &stream})
		if err == nil && out.StreamDescriptionSummary.StreamStatus == types.StreamStatusActive {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("the stream %s is not active: %v", stream, err)
		}
	}
}

// records returns the records of all shards of a stream.
func records(t *testing.T, client *kinesis.Client, stream string) (all []types.Record) {
	t.Helper()
	shards, err := client.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: &stream})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shards.Shards {
		it, err := client.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{StreamName: &stream, ShardId: s.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		if err != nil {
			t.Fatal(err)
		}
		for next := it.ShardIterator; next != nil; {
			out, err := client.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: next})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, out.Records...)
			if next = out.NextShardIterator; len(out.Records) == 0 {
				break
			}
		}
	}
	return all
}

// runSuite runs the suite against a service.
func runSuite(t *testing.T, endpoint string) {
	client := service(t, endpoint, "in", "out")
	dir := t.TempDir()
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New: func(t *testing.T) connectors.Source {
				return buildSource(t, dir, "{"+at(endpoint, "in")+", poll: 200ms}")
			},
			Send: func(ctx context.Context, m message.Message) error {
				data := m.Payload
				if data == nil {
					data = []byte{}
				}
				_, err := client.PutRecord(ctx, &kinesis.PutRecordInput{StreamName: aws.String("in"), Data: data, PartitionKey: aws.String("k")})
				return err
			},
		},
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink { return buildSink(t, "{"+at(endpoint, "out")+"}") },
			Received: func(t *testing.T, n int) (out []message.Message) {
				for _, r := range records(t, client, "out") {
					out = append(out, message.Message{Payload: r.Data})
				}
				return out
			},
			Away: func(t *testing.T) connectors.Sink { return buildSink(t, "{"+at("http://127.0.0.1:1", "out")+"}") },
		},
	}, connectortest.Features{Redelivers: true})
}

// splits reads a stream over a split of its shards, and a restart: the records of a key
// keep their order, and none is lost.
func splits(t *testing.T, endpoint string) {
	client := service(t, endpoint, "in")
	put := func(from, to int) {
		for i := from; i < to; i++ {
			_, err := client.PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: aws.String("in"), Data: []byte{byte(i)}, PartitionKey: aws.String("k")})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0, 20)
	shards, err := client.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: aws.String("in")})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shards.Shards { // each in two, at a quarter and three quarters of all keys
		half := map[string]string{"0": "85070591730234615865843651857942052864"}[*s.HashKeyRange.StartingHashKey]
		if half == "" {
			half = "255211775190703847597530955573826158592"
		}
		if _, err := client.SplitShard(t.Context(), &kinesis.SplitShardInput{StreamName: aws.String("in"), ShardToSplit: s.ShardId, NewStartingHashKey: &half}); err != nil {
			t.Fatal(err)
		}
		active(t, client, "in")
	}
	put(20, 40)
	dir := t.TempDir()
	var got []byte
	read := func(upTo int) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := buildSource(t, dir, "{"+at(endpoint, "in")+", poll: 200ms, batch: 7}").Run(ctx, message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
			for i := range b.Messages {
				got = append(got, b.Messages[i].Payload...)
			}
			if len(got) >= upTo {
				cancel()
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	read(10)
	read(30)
	read(40)
	for i := range got {
		if got[i] != byte(i) {
			t.Fatalf("record %d came in place of %d", got[i], i)
		}
	}
	if len(got) != 40 {
		t.Errorf("%d records arrived", len(got))
	}
}
