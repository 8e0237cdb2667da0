package kinesis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// stopGrace is how long a hand-over under way may go on after a stop.
	stopGrace = 5 * time.Second
	// relist is how often new shards are looked for.
	relist = 30 * time.Second
)

type source struct {
	cfg SourceConfig
	env connectors.Env

	client *kinesis.Client
	places *places
	next   message.Handler
	// ended has a value when a shard was read to its end, and its children may be.
	ended chan struct{}
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	err := s.run(ctx, next)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of the context is no failure
	}
	return fmt.Errorf("read the stream %s: %w", s.cfg.Stream, err)
}

func (s *source) run(ctx context.Context, next message.Handler) (err error) {
	if s.client, err = s.cfg.client(ctx); err != nil {
		return err
	}
	if s.places, err = openPlaces(s.env.Dir, s.cfg.Stream); err != nil {
		return err
	}
	s.next, s.ended = next, make(chan struct{}, 1)
	group := run.NewGroup(ctx)
	reading := map[string]bool{}
	group.Go("kinesis shards", func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := s.begin(ctx, group, reading); err != nil {
				return err
			}
			again := time.NewTimer(relist)
			select {
			case <-s.ended:
			case <-again.C:
			case <-ctx.Done():
			}
			again.Stop()
		}
		return nil
	})
	return group.Wait()
}

// begin starts to read the shards that can be read and are not yet.
func (s *source) begin(ctx context.Context, group *run.Group, reading map[string]bool) error {
	shards, err := s.shards(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for i := range shards {
		known[*shards[i].ShardId] = true
	}
	if err := s.places.forget(known); err != nil {
		return err
	}
	for i := range shards {
		id := *shards[i].ShardId
		at, _ := s.places.get(id)
		if reading[id] || at.Finished || s.waits(&shards[i], known) {
			continue
		}
		reading[id] = true
		r := &reader{source: s, shard: id, child: shards[i].ParentShardId != nil}
		group.Go("kinesis shard", r.run)
	}
	return nil
}

// waits reports whether a shard has a parent that is still to be read. Parents whose
// records have expired are not there any more.
func (s *source) waits(shard *types.Shard, known map[string]bool) bool {
	for _, parent := range []*string{shard.ParentShardId, shard.AdjacentParentShardId} {
		if parent == nil || !known[*parent] {
			continue
		}
		if at, _ := s.places.get(*parent); !at.Finished {
			return true
		}
	}
	return false
}

func (s *source) shards(ctx context.Context) (all []types.Shard, err error) {
	in := &kinesis.ListShardsInput{StreamName: &s.cfg.Stream}
	for {
		out, err := s.client.ListShards(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("list the shards: %w", explain(err))
		}
		all = append(all, out.Shards...)
		if out.NextToken == nil {
			return all, nil
		}
		in = &kinesis.ListShardsInput{NextToken: out.NextToken}
	}
}

// reader reads one shard.
type reader struct {
	source *source
	shard  string
	// child says that the shard was made by a split or a merge: all of it is new.
	child bool

	batch message.Batch
}

// run reads until the shard or the context ends.
func (r *reader) run(ctx context.Context) error {
	iterator, err := r.iterator(ctx)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		out, err := r.source.client.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: iterator, Limit: aws.Int32(int32(r.source.cfg.Batch))})
		switch {
		case isCode(err, "ExpiredIteratorException"): // the hand-over took more than five minutes
			if iterator, err = r.iterator(ctx); err != nil {
				return err
			}
			continue
		case isCode(err, "ProvisionedThroughputExceededException"):
			run.Pause(ctx, r.source.cfg.Poll)
			continue
		case err != nil:
			return fmt.Errorf("read the shard %s: %w", r.shard, explain(err))
		}
		if err := r.handOn(ctx, out.Records); err != nil {
			return err
		}
		if out.NextShardIterator == nil {
			return r.finish()
		}
		iterator = out.NextShardIterator
		if len(out.Records) == 0 {
			run.Pause(ctx, r.source.cfg.Poll)
		}
	}
	return nil
}

// iterator returns where the shard is read from.
func (r *reader) iterator(ctx context.Context) (*string, error) {
	in := &kinesis.GetShardIteratorInput{StreamName: &r.source.cfg.Stream, ShardId: &r.shard}
	at, kept := r.source.places.get(r.shard)
	begun, err := time.Parse(time.RFC3339, r.source.cfg.Start)
	switch {
	case at.Sequence != "":
		in.ShardIteratorType, in.StartingSequenceNumber = types.ShardIteratorTypeAfterSequenceNumber, &at.Sequence
	case r.child || kept || r.source.cfg.Start == startFirst:
		in.ShardIteratorType = types.ShardIteratorTypeTrimHorizon
	case err == nil:
		in.ShardIteratorType, in.Timestamp = types.ShardIteratorTypeAtTimestamp, &begun
	default:
		in.ShardIteratorType = types.ShardIteratorTypeLatest
	}
	out, err := r.source.client.GetShardIterator(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("find the place in the shard %s: %w", r.shard, explain(err))
	}
	return out.ShardIterator, nil
}

// finish notes that the shard has ended, so that its children are read.
func (r *reader) finish() error {
	at, _ := r.source.places.get(r.shard)
	at.Finished = true
	if err := r.source.places.keep(r.shard, at); err != nil {
		return err
	}
	select {
	case r.source.ended <- struct{}{}:
	default:
	}
	return nil
}

// handOn hands records on, and keeps how far. A stop lets it finish.
func (r *reader) handOn(ctx context.Context, records []types.Record) error {
	if len(records) == 0 {
		return nil
	}
	r.build(records)
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if run.Pause(work, stopGrace) {
			cancel()
		}
	})()
	err := run.Protect("kinesis hand-over", func() error { return r.source.next.Handle(work, &r.batch) })
	taken := taken(err, len(records))
	if taken > 0 {
		if err := r.source.places.keep(r.shard, place{Sequence: *records[taken-1].SequenceNumber}); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("LS4397: the shard %s stops at a record that was not taken over, and is read again from there: %w", r.shard, err)
	}
	return nil
}

// taken returns how many messages from the first on were taken over. Those behind the
// first that was not come again.
func taken(err error, n int) int {
	partial, ok := errors.AsType[*message.PartialError](err)
	switch {
	case err == nil:
		return n
	case !ok:
		return 0
	}
	for _, f := range partial.Failed {
		n = min(n, f.Index)
	}
	return n
}

func (r *reader) build(records []types.Record) {
	r.batch.Messages = r.batch.Messages[:0]
	for i := range records {
		record := &records[i]
		at := time.Now()
		if record.ApproximateArrivalTimestamp != nil {
			at = *record.ApproximateArrivalTimestamp
		}
		r.batch.Messages = append(r.batch.Messages, message.Message{
			ID: r.shard + ":" + *record.SequenceNumber, Key: []byte(aws.ToString(record.PartitionKey)), Topic: r.source.cfg.Stream, Time: at,
			Priority: message.NormalPriority, Source: r.source.env.Name, Attempt: 1, Payload: record.Data,
		})
	}
}
