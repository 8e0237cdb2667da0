package main

import (
	"context"
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions  = 4
	sourceTopic = "bench.in"
	outTopics   = "bench.out."
)

// channels are the destinations.
func channels() []string { return []string{"web", "store", "partner"} }

// kafka carries from one topic to three, each with four partitions.
type kafka struct {
	broker string
	filled int // orders that the source holds
}

func newKafka(ctx context.Context, broker string) (path, error) {
	if broker == "" {
		return nil, errors.New("no broker is known: start one with test/brokers/brokers up kafka, or set -kafka")
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics := []string{sourceTopic}
	for _, c := range channels() {
		topics = append(topics, outTopics+c)
	}
	made, err := admin.CreateTopics(ctx, partitions, 1, nil, topics...)
	if err != nil {
		return nil, err
	}
	for _, t := range made {
		if t.Err != nil && !errors.Is(t.Err, kerr.TopicAlreadyExists) {
			return nil, t.Err
		}
	}
	return &kafka{broker: broker}, nil
}

func (k *kafka) sources() int                      { return partitions }
func (k *kafka) env() []string                     { return []string{"KAFKA=" + k.broker} }
func (k *kafka) send(context.Context, *work) error { return nil }

// prepare empties the destinations. The source is filled once: each bridge reads it
// from its beginning, as a group of its own.
func (k *kafka) prepare(ctx context.Context, w *work) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(k.broker), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(1000),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	topics := make([]string, 0, len(channels())+1)
	for _, c := range channels() {
		topics = append(topics, outTopics+c)
	}
	if k.filled != w.n {
		topics = append(topics, sourceTopic)
	}
	if err := empty(ctx, kadm.NewClient(client), topics); err != nil || k.filled == w.n {
		return err
	}
	var failed kgo.FirstErrPromise
	for seq := range w.n {
		client.Produce(ctx, &kgo.Record{Topic: sourceTopic, Partition: int32(seq % partitions), Value: w.payload(seq)}, failed.Promise())
	}
	if err := errors.Join(client.Flush(ctx), failed.Err()); err != nil {
		return err
	}
	k.filled = w.n
	return nil
}

// empty deletes the records of topics.
func empty(ctx context.Context, admin *kadm.Client, topics []string) error {
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return err
	}
	deleted, err := admin.DeleteRecords(ctx, ends.Offsets())
	return errors.Join(err, ends.Error(), deleted.Error())
}

func (k *kafka) read(ctx context.Context, l *ledger, reading func()) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(k.broker))
	if err != nil {
		return err
	}
	defer client.Close()
	topics := make([]string, 0, len(channels()))
	for _, c := range channels() {
		topics = append(topics, outTopics+c)
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	if err := errors.Join(err, ends.Error()); err != nil {
		return err
	}
	client.AddConsumePartitions(ends.KOffsets())
	reading()
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			l.take(strings.TrimPrefix(r.Topic, outTopics), int(r.Partition), r.Value)
		})
	}
	return ctx.Err()
}
