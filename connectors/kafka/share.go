package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// share is the part of the topics that this member reads, with a worker for each
// partition.
type share struct {
	source *source
	// group owns the workers' goroutines.
	group *run.Group
	next  message.Handler
	held  gauge

	// committing is held while offsets are stored, so that a commit that is under way
	// ends before a partition is given away.
	committing sync.Mutex

	mu sync.Mutex
	// Guarded by mu.
	workers map[place]*worker
	closed  bool
}

// assigned is called by the client when partitions were given to this member.
func (s *share) assigned(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	for _, p := range places(partitions) {
		s.assign(p) //nolint:contextcheck // a worker lives as long as the source, not as the call
	}
}

func places(partitions map[string][]int32) (out []place) {
	for topic, numbers := range partitions {
		for _, n := range numbers {
			out = append(out, place{topic, n})
		}
	}
	return out
}

// assign starts a worker.
func (s *share) assign(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.workers[p] != nil {
		return
	}
	ctx, stop := context.WithCancel(s.group.Context())
	w := s.worker(p)
	w.stop = stop
	s.workers[p] = w
	s.group.Go("kafka partition", func(context.Context) error {
		defer stop()
		w.run(ctx)
		return nil
	})
}

// worker returns a worker that does not run.
func (s *share) worker(p place) *worker {
	return &worker{
		place: p, key: []byte(p.topic + "/" + strconv.Itoa(int(p.partition))), next: s.next, held: &s.held, log: s.source.env.Logger,
		convert: converter{source: s.source.env.Name, strip: s.source.cfg.SchemaRegistry.Strip},
		pause:   func(p place) { s.source.client.PauseFetchPartitions(map[string][]int32{p.topic: {p.partition}}) },
		resume:  func(p place) { s.source.client.ResumeFetchPartitions(map[string][]int32{p.topic: {p.partition}}) },
		retry:   config.Backoff{Min: retryMin, Max: retryMax},
		done:    make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// add passes records to the worker of their partition. What comes for a partition that
// is not ours any more is dropped; its next reader gets it.
func (s *share) add(p place, records []*kgo.Record) {
	if len(records) == 0 {
		return
	}
	s.mu.Lock()
	w := s.workers[p]
	s.mu.Unlock()
	if w != nil {
		w.add(records)
	}
}

// revoked is called by the client before partitions are given away. It waits for what
// is under way in them and commits how far it came.
func (s *share) revoked(ctx context.Context, _ *kgo.Client, partitions map[string][]int32) {
	workers := s.find(partitions)
	if len(workers) == 0 {
		return
	}
	limit := s.source.cfg.RebalanceTimeout
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit*3/4)
	defer cancel()
	s.finish(patience, workers)
	last, cancelCommit := context.WithTimeout(context.WithoutCancel(ctx), min(leaveWithin, limit/4))
	defer cancelCommit()
	s.committing.Lock()
	defer s.committing.Unlock()
	if err := s.store(last, workers); err != nil {
		s.source.env.Logger.LogAttrs(last, slog.LevelWarn, "offsets could not be committed before partitions were given away; messages come again", slog.String("error", err.Error()))
	}
	s.forget(workers)
}

// lost is called by the client when the group has given partitions to others already.
func (s *share) lost(ctx context.Context, _ *kgo.Client, partitions map[string][]int32) {
	workers := s.find(partitions)
	if len(workers) == 0 {
		return
	}
	s.source.env.Logger.LogAttrs(ctx, slog.LevelWarn, "the group gave partitions to others; what was not committed comes again", slog.Int("partitions", len(workers)))
	for _, w := range workers {
		w.stop()
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	s.finish(patience, workers)
	s.committing.Lock()
	defer s.committing.Unlock()
	s.forget(workers)
}

func (s *share) find(partitions map[string][]int32) (found []*worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range places(partitions) {
		if w := s.workers[p]; w != nil {
			found = append(found, w)
		}
	}
	return found
}

func (s *share) forget(workers []*worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range workers {
		delete(s.workers, w.place)
	}
}

// finish ends workers and waits until what they hand on has returned. When patience
// ends it is called off.
func (s *share) finish(patience context.Context, workers []*worker) {
	for _, w := range workers {
		w.end()
	}
	for _, w := range workers {
		select {
		case <-w.done:
			continue
		case <-patience.Done():
		}
		w.stop()
		timer := time.NewTimer(time.Second)
		select {
		case <-w.done:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// close ends all workers.
func (s *share) close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	workers := s.all()
	s.mu.Unlock()
	for _, w := range workers {
		w.end()
	}
	s.group.Stop()
	s.finish(ctx, workers)
}

// all returns the workers. The caller holds the lock.
func (s *share) all() []*worker {
	workers := make([]*worker, 0, len(s.workers))
	for _, w := range s.workers {
		workers = append(workers, w)
	}
	return workers
}

// commitAll stores how far all partitions were taken over.
func (s *share) commitAll(ctx context.Context) error {
	s.committing.Lock()
	defer s.committing.Unlock()
	s.mu.Lock()
	workers := s.all()
	s.mu.Unlock()
	err := s.store(ctx, workers)
	coded, ok := errors.AsType[*codedError](err)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil // what was not stored comes again
	case ok && coded.code == codeUnreachable:
		// A rebalance, or a broker that is away for the moment: it is tried again soon.
		s.source.env.Logger.LogAttrs(ctx, slog.LevelDebug, "offsets were not committed", slog.String("error", err.Error()))
		return nil
	default:
		return err
	}
}

// store commits what is fresh. The caller holds committing.
func (s *share) store(ctx context.Context, workers []*worker) error {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for _, w := range workers {
		w.mu.Lock()
		if w.fresh {
			put(offsets, w.place, kgo.EpochOffset{Epoch: w.settled.epoch, Offset: w.settled.offset})
		}
		w.mu.Unlock()
	}
	if len(offsets) == 0 {
		return nil
	}
	var err error
	if s.source.keeper != nil {
		err = s.source.keeper.save(offsets)
	} else {
		err = s.commitGroup(ctx, offsets)
	}
	if err != nil {
		return err
	}
	for _, w := range workers {
		w.mu.Lock()
		if at, ok := offsets[w.place.topic][w.place.partition]; ok && at.Offset == w.settled.offset {
			w.fresh = false
		}
		w.mu.Unlock()
	}
	return nil
}

// commitGroup commits offsets to the group.
func (s *share) commitGroup(ctx context.Context, offsets map[string]map[int32]kgo.EpochOffset) error {
	var failed error
	s.source.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = fmt.Errorf("commit offsets: %w", explain(err))
			return
		}
		for i := range resp.Topics {
			for _, p := range resp.Topics[i].Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					failed = fmt.Errorf("commit offset of topic %s, partition %d: %w", resp.Topics[i].Topic, p.Partition, explain(err))
				}
			}
		}
	})
	return failed
}
