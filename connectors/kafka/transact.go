package kafka

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// transactionRecords bounds what is read for one transaction.
const transactionRecords = 10_000

// transactions join an input that reads in transactions to the outputs of its pipeline
// that write in them.
type transactions struct {
	mu sync.Mutex
	// open is the transaction of each pipeline that has one. Guarded by mu.
	open map[string]*transaction
}

func newTransactions() *transactions { return &transactions{open: map[string]*transaction{}} }

func (t *transactions) set(pipeline string, tx *transaction) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tx == nil {
		delete(t.open, pipeline)
		return
	}
	t.open[pipeline] = tx
}

func (t *transactions) of(pipeline string) *transaction {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[pipeline]
}

// transaction is one transaction: what was read, and what was written of it.
type transaction struct {
	client  *kgo.Client
	brokers []string
	// doomed: it will be aborted. What is written from now on is dropped, because all of
	// it comes again.
	doomed atomic.Bool
}

// transact reads in transactions until ctx ends.
func (s *source) transact(ctx context.Context, next message.Handler) error {
	start, err := parseStart(s.cfg.Start)
	if err != nil {
		return err
	}
	session, err := kgo.NewGroupTransactSession(append(slices.Concat(s.readOptions(ctx), s.memberOptions()),
		kgo.ConsumeStartOffset(start),
		kgo.TransactionalID(s.cfg.TransactionalID),
		kgo.TransactionTimeout(s.cfg.TransactionTimeout),
		kgo.RecordPartitioner(partitioner{keyed: kgo.StickyKeyPartitioner(nil)}),
		kgo.ProducerLinger(0),
		kgo.UnknownTopicRetries(2),
		s.lifetime(ctx),
	)...)
	if err != nil {
		return fmt.Errorf("configure client: %w", err)
	}
	s.client = session.Client()
	defer s.goodbye(ctx)
	s.cluster.health.heard.Store(time.Now().UnixNano())
	group := run.NewGroup(ctx)
	group.Go("kafka transactions", func(ctx context.Context) error { return s.rounds(ctx, session, next) })
	group.Go("kafka watch", s.watch)
	return stopped(ctx, group.Wait())
}

// rounds reads and hands on, one transaction after the other.
func (s *source) rounds(ctx context.Context, session *kgo.GroupTransactSession, next message.Handler) error {
	for ctx.Err() == nil {
		fetches := session.PollRecords(ctx, transactionRecords)
		err := s.fetchErrors(ctx, fetches)
		if err == nil && fetches.NumRecords() > 0 {
			err = s.round(ctx, session, fetches, next)
		}
		session.AllowRebalance()
		if err != nil {
			return err
		}
	}
	return nil
}

// round is one transaction.
func (s *source) round(ctx context.Context, session *kgo.GroupTransactSession, fetches kgo.Fetches, next message.Handler) error {
	if err := session.Begin(); err != nil {
		return fmt.Errorf("begin transaction: %w", explain(err))
	}
	tx := &transaction{client: session.Client(), brokers: s.cfg.Brokers}
	s.book.set(s.env.Pipeline, tx)
	taken := s.handAll(ctx, tx, fetches, next)
	s.book.set(s.env.Pipeline, nil)
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.TransactionTimeout)
	defer cancel()
	committed, err := session.End(within, kgo.TransactionEndTry(taken && !tx.doomed.Load()))
	switch {
	case err != nil:
		return fmt.Errorf("end transaction: %w", explain(err))
	case !committed && ctx.Err() == nil:
		s.env.Logger.LogAttrs(ctx, slog.LevelWarn, "a transaction was aborted; its messages come again", slog.Int("messages", fetches.NumRecords()))
		run.Pause(ctx, retryMin)
	}
	return nil
}

// handAll hands on everything that was read, and returns when nothing of it is under way
// any more. When half of the time of the transaction is over, or ctx ends, it is doomed.
func (s *source) handAll(ctx context.Context, tx *transaction, fetches kgo.Fetches, next message.Handler) (taken bool) {
	within, cancel := context.WithTimeout(ctx, s.cfg.TransactionTimeout/2)
	defer cancel()
	stop := context.AfterFunc(within, func() { tx.doomed.Store(true) })
	defer stop()
	// The hand-over itself is not called off: a message that is still under way when the
	// next transaction begins would be written in it, too.
	whole := message.HandlerFunc(func(ctx context.Context, b *message.Batch) error {
		return next.Handle(context.WithoutCancel(ctx), b)
	})
	group := run.NewGroup(within)
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		w := s.share.worker(place{p.Topic, p.Partition})
		w.next, w.pause, w.resume = whole, func(place) {}, func(place) {}
		group.Go("kafka partition", func(ctx context.Context) error {
			for records := range slices.Chunk(p.Records, batchRecords) {
				if !w.handOn(ctx, records) {
					return errNotTaken
				}
			}
			return nil
		})
	})
	return group.Wait() == nil
}

// errNotTaken says that the pipeline did not take a batch in time.
var errNotTaken = errors.New("the pipeline did not take a batch in time")

// suspects are messages that a broker refused in a transaction, by what they are: the
// transaction is lost then, so that it is known of them when they come again.
type suspects struct {
	seed maphash.Seed

	mu sync.Mutex
	// of has nil for those that were refused together with others. Guarded by mu.
	of map[uint64]*message.Reason
}

// maxSuspects bounds what is remembered.
const maxSuspects = 10_000

func (s *suspects) hash(topic string, m *message.Message) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(topic) // never fails
	_, _ = h.Write(m.Key)
	_, _ = h.Write(m.Payload)
	return h.Sum64()
}

// get returns what is known of a message.
func (s *suspects) get(topic string, m *message.Message) (reason *message.Reason, suspect bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) == 0 {
		return nil, false
	}
	reason, suspect = s.of[s.hash(topic, m)]
	return reason, suspect
}

func (s *suspects) put(topic string, m *message.Message, reason *message.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil || len(s.of) >= maxSuspects {
		s.of = map[uint64]*message.Reason{}
	}
	s.of[s.hash(topic, m)] = reason
}

// handleIn writes a batch in the transaction of the pipeline's input.
func (s *sink) handleIn(ctx context.Context, b *message.Batch) error {
	tx := s.book.of(s.pipeline)
	switch {
	case tx == nil:
		return message.Unavailable(errors.New("no transaction of the pipeline's input is open"))
	case !slices.Equal(tx.brokers, s.cfg.Brokers):
		return message.Unavailable(errors.New("brokers differ from those of the input whose transaction it is"))
	case tx.doomed.Load():
		return nil
	}
	known, alone := s.recall(b)
	c := s.call(tx.client, b)
	c.strict, c.known, c.alone = true, known, alone
	err := c.finish(ctx)
	for _, i := range c.sent {
		if c.errs[i] == nil {
			continue
		}
		tx.doomed.Store(true)
		if reason, refused := errors.AsType[*message.Reason](verdict(c.errs[i])); refused {
			s.suspect(&b.Messages[i], reason, alone || len(c.sent) == 1)
		}
	}
	if tx.doomed.Load() {
		return nil
	}
	return err
}

// suspect remembers a message that was refused. When it was alone, it is refused for good
// the next time, so that the transaction can be committed without it.
func (s *sink) suspect(m *message.Message, reason *message.Reason, alone bool) {
	topic := s.cfg.Topic.Value(m.Options)
	if !alone {
		s.suspects.put(topic, m, nil)
		return
	}
	final := *reason
	final.Permanent = true
	s.suspects.put(topic, m, &final)
}

// recall says what is known of the messages of a batch, and whether they must be sent one
// by one, because one of them was refused together with others.
func (s *sink) recall(b *message.Batch) (known map[int]*message.Reason, alone bool) {
	for i := range b.Messages {
		m := &b.Messages[i]
		reason, suspect := s.suspects.get(s.cfg.Topic.Value(m.Options), m)
		switch {
		case reason != nil && known == nil:
			known = map[int]*message.Reason{i: reason}
		case reason != nil:
			known[i] = reason
		case suspect:
			alone = true
		}
	}
	return known, alone
}
