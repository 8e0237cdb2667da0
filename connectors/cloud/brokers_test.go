//go:build brokers

package cloud_test

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/linkspan/linkspan/connectors/cloud/internal/kinesalite"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

func TestBrokerRedisStreams(t *testing.T) {
	addr := brokersenv.Need(t, "redis", "LS_REDIS_ADDR")
	crossing(t, redisPeer(t, addr, brokersenv.Need(t, "redis", "LS_REDIS_USER"), brokersenv.Need(t, "redis", "LS_REDIS_PASS")))
}

func TestBrokerKinesis(t *testing.T) {
	endpoint := kinesalite.Start(t)
	t.Setenv("KINESIS_SECRET", "s")
	client := kinesis.New(kinesis.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(endpoint),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "k", SecretAccessKey: "s"}, nil
		}),
	})
	for _, stream := range []string{"in", "out"} {
		if _, err := client.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &stream, ShardCount: aws.Int32(1)}); err != nil {
			t.Fatal(err)
		}
		for {
			s, err := client.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: &stream})
			if err == nil && s.StreamDescriptionSummary.StreamStatus == types.StreamStatusActive {
				break
			}
		}
	}
	service := "endpoint: '" + endpoint + "', region: us-east-1, auth: {access_key: k, secret_key: '${env:KINESIS_SECRET}'}"
	crossing(t, peer{
		in:  "kinesis: {stream: in, poll: 200ms, " + service + "}",
		out: "kinesis: {stream: out, ordered: false, " + service + "}",
		send: func(payload string) error {
			_, err := client.PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: aws.String("in"), Data: []byte(payload), PartitionKey: aws.String(payload)})
			return err
		},
		received: func() (out []string) {
			it, err := client.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
				StreamName: aws.String("out"), ShardId: aws.String("shardId-000000000000"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
			})
			if err != nil {
				t.Fatal(err)
			}
			for next := it.ShardIterator; next != nil; {
				got, err := client.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: next})
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range got.Records {
					out = append(out, string(r.Data))
				}
				if next = got.NextShardIterator; len(got.Records) == 0 {
					break
				}
			}
			return out
		},
	})
}
