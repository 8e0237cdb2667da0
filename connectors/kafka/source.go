package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

const (
	// silenceLimit is how long no broker may be heard before the source gives up. Brokers
	// answer fetches and heart-beats every few seconds.
	silenceLimit = 30 * time.Second
	// maxBatch bounds what a compressed batch may unfold to.
	maxBatch = 256 << 20
)

type source struct {
	cfg     SourceConfig
	env     connectors.Env
	cluster cluster
	client  *kgo.Client
	// abort ends what the client does, whatever it waits for.
	abort context.CancelFunc
	share share
	book  *transactions
	// keeper keeps the offsets where there is no group. Nil: there is one.
	keeper *keeper
}

func newSource(cfg SourceConfig, env connectors.Env, book *transactions) (connectors.Source, error) {
	name := "linkspan-" + env.Pipeline + "-" + env.Name
	if cfg.Group == "" {
		cfg.Group = name
	}
	s := &source{
		cfg: cfg, env: env, book: book,
		cluster: cluster{brokers: cfg.Brokers, auth: cfg.Auth, tls: cfg.TLS, clientID: name},
		share:   share{workers: map[place]*worker{}, held: gauge{room: make(chan struct{}, 1)}},
	}
	s.share.source = s
	return s, nil
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	workers := run.NewGroup(ctx)
	s.share.group, s.share.next = workers, next
	err := s.run(ctx, next)
	workers.Stop()
	return errors.Join(err, workers.Wait())
}

// run connects, receives, and says good-bye.
func (s *source) run(ctx context.Context, next message.Handler) error {
	starts, err := s.check(ctx)
	if err != nil || ctx.Err() != nil {
		return stopped(ctx, err)
	}
	if s.cfg.TransactionalID != "" {
		return s.transact(ctx, next)
	}
	opts, err := s.options(ctx, starts)
	if err != nil {
		return err
	}
	if s.client, err = kgo.NewClient(append(opts, s.lifetime(ctx))...); err != nil {
		return fmt.Errorf("configure client: %w", err)
	}
	defer s.goodbye(ctx)
	s.cluster.health.heard.Store(time.Now().UnixNano())
	for p := range starts {
		s.share.assign(p) //nolint:contextcheck // a worker lives as long as the source, not as the call
	}
	group := run.NewGroup(ctx)
	group.Go("kafka poll", s.poll)
	group.Go("kafka commit", s.commit)
	group.Go("kafka watch", s.watch)
	err = group.Wait()
	s.client.AllowRebalance()
	return stopped(ctx, errors.Join(err, s.leave(ctx)))
}

// stopped leaves out what a stop looks like.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // a stop is no failure
	}
	return err
}

// check asks the cluster before anything is read, and returns where to begin without a
// group.
func (s *source) check(ctx context.Context) (map[place]kgo.Offset, error) {
	topics := s.cfg.Topics
	for t := range s.cfg.Partitions {
		topics = append(slices.Clip(topics), t)
	}
	id, err := s.cluster.check(ctx, topics, false)
	if err != nil || len(s.cfg.Partitions) == 0 {
		return nil, err
	}
	start, err := parseStart(s.cfg.Start)
	if err != nil {
		return nil, err
	}
	if s.keeper, err = loadKeeper(s.env.Dir, id); err != nil {
		return nil, err
	}
	return s.keeper.starts(s.cfg.Partitions, start)
}

// options are those of the client that reads.
func (s *source) options(ctx context.Context, starts map[place]kgo.Offset) ([]kgo.Opt, error) {
	start, err := parseStart(s.cfg.Start)
	if err != nil {
		return nil, err
	}
	opts := append(s.readOptions(ctx), kgo.ConsumeStartOffset(start))
	if len(s.cfg.Partitions) > 0 {
		partitions := map[string]map[int32]kgo.Offset{}
		for p, at := range starts {
			put(partitions, p, at)
		}
		return append(opts, kgo.ConsumePartitions(partitions)), nil
	}
	return append(append(opts, s.memberOptions()...),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(s.share.assigned),
		kgo.OnPartitionsRevoked(s.share.revoked),
		kgo.OnPartitionsLost(s.share.lost),
	), nil
}

// readOptions are those of every client that reads.
func (s *source) readOptions(ctx context.Context) []kgo.Opt {
	c := &s.cfg
	level := kgo.ReadCommitted()
	if c.Isolation == readUncommitted {
		level = kgo.ReadUncommitted()
	}
	opts := append(s.cluster.options(ctx),
		kgo.FetchIsolationLevel(level),
		kgo.FetchMinBytes(int32(c.Fetch.MinBytes)),
		kgo.FetchMaxBytes(int32(c.Fetch.MaxBytes)),
		kgo.FetchMaxPartitionBytes(int32(c.Fetch.MaxPartitionBytes)),
		kgo.FetchMaxWait(c.Fetch.MaxWait),
		kgo.BrokerMaxReadBytes(int32(max(100<<20, int64(c.Fetch.MaxBytes)))),
		kgo.MaxDecompressBatchBytes(max(maxBatch, int(2*s.env.MaxMessage))),
	)
	if c.Rack != "" {
		opts = append(opts, kgo.Rack(c.Rack))
	}
	return opts
}

// lifetime is the option that lets abort end the client, and nothing else before.
func (s *source) lifetime(ctx context.Context) kgo.Opt {
	ctx, s.abort = context.WithCancel(context.WithoutCancel(ctx))
	return kgo.WithContext(ctx)
}

// memberOptions are those of a member of a group.
func (s *source) memberOptions() []kgo.Opt {
	c := &s.cfg
	opts := []kgo.Opt{
		kgo.ConsumerGroup(c.Group),
		kgo.Balancers(balancer(c.Balancer)),
		// Records that were polled reach their workers before a partition is given away.
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(c.SessionTimeout),
		kgo.RebalanceTimeout(c.RebalanceTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, c.SessionTimeout/3)),
	}
	if c.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(c.InstanceID))
	}
	if c.TopicsRegex != "" {
		return append(opts, kgo.ConsumeRegex(), kgo.ConsumeTopics("^(?:"+c.TopicsRegex+")$"))
	}
	return append(opts, kgo.ConsumeTopics(c.Topics...))
}

func balancer(name string) kgo.GroupBalancer {
	switch name {
	case balancerSticky:
		return kgo.StickyBalancer()
	case balancerRange:
		return kgo.RangeBalancer()
	case balancerRoundRobin:
		return kgo.RoundRobinBalancer()
	default:
		return kgo.CooperativeStickyBalancer()
	}
}

// poll passes what was fetched on to the workers, until ctx ends.
func (s *source) poll(ctx context.Context) error {
	for s.share.held.below(ctx, heldBytes) {
		fetches := s.client.PollFetches(ctx)
		err := s.fetchErrors(ctx, fetches)
		if err == nil {
			fetches.EachPartition(func(p kgo.FetchTopicPartition) { s.share.add(place{p.Topic, p.Partition}, p.Records) })
		}
		s.client.AllowRebalance()
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchErrors returns the first error that ends the source. The client goes on by
// itself after the others.
func (s *source) fetchErrors(ctx context.Context, fetches kgo.Fetches) (fatal error) {
	fetches.EachError(func(topic string, partition int32, err error) {
		loss, lost := errors.AsType[*kgo.ErrDataLoss](err)
		switch {
		case ctx.Err() != nil || fatal != nil:
		case lost:
			s.env.Logger.LogAttrs(ctx, slog.LevelError, "the brokers have lost messages; going on at what is there", slog.String("error", codeDataLoss),
				slog.String("topic", loss.Topic), slog.Int("partition", int(loss.Partition)), slog.Int64("consumed_to", loss.ConsumedTo), slog.Int64("reset_to", loss.ResetTo))
		case goesOn(err):
			s.env.Logger.LogAttrs(ctx, slog.LevelWarn, "the brokers could not be asked; trying again", slog.String("error", explain(err).Error()))
		case topic != "":
			fatal = fmt.Errorf("read topic %s, partition %d: %w", topic, partition, explain(err))
		default:
			fatal = fmt.Errorf("read: %w", s.cluster.connectError(err))
		}
	})
	return fatal
}

// goesOn reports whether the client tries again by itself, and that may help. When it
// does not, watch ends the source.
func goesOn(err error) bool {
	_, session := errors.AsType[*kgo.ErrGroupSession](err)
	_, answered := errors.AsType[*kerr.Error](err)
	if !session && !answered && !isNetwork(err) {
		return false
	}
	coded, ok := errors.AsType[*codedError](explain(err))
	return ok && coded.code == codeUnreachable
}

// commit stores how far the messages were taken over, every interval until ctx ends.
func (s *source) commit(ctx context.Context) error {
	for run.Pause(ctx, s.cfg.CommitInterval) {
		if err := s.share.commitAll(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave waits for what is under way and stores how far it came. The workers' context
// has ended, or ends now.
func (s *source) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	s.share.close(ctx)
	return s.share.commitAll(ctx)
}

// goodbye leaves the group and closes the client. A group whose brokers do not answer
// notices by itself.
func (s *source) goodbye(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	within, cancel := context.WithTimeout(ctx, byeWithin)
	defer cancel()
	s.client.AllowRebalance()
	defer s.abort()
	if s.client.LeaveGroupContext(within) != nil {
		s.withdraw(ctx)
		s.abort() // Close waits for the member, which may wait for the group
	}
	s.client.Close()
}

// withdraw leaves a group while it is being joined. The client waits for the group
// first, and the group for a member that has crashed: up to its session timeout, for
// each start that did not leave once more.
func (s *source) withdraw(ctx context.Context) {
	id, _ := s.client.GroupMetadata()
	if id == "" || s.cfg.InstanceID != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, byeWithin)
	defer cancel()
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID = id
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID, req.Members = s.cfg.Group, id, []kmsg.LeaveGroupRequestMember{member}
	_, _ = req.RequestWith(ctx, s.client) // nobody is left to hear why not
}

// watch ends the source when no broker answers any more, so that it shows and the
// supervisor takes over.
func (s *source) watch(ctx context.Context) error {
	for run.Pause(ctx, silenceLimit/6) {
		if s.cluster.health.silence() < silenceLimit {
			continue
		}
		if _, err := s.cluster.check(ctx, nil, false); err != nil && ctx.Err() == nil {
			return fmt.Errorf("no broker was heard for %s: %w", silenceLimit, err)
		}
	}
	return nil
}

func put[V any](m map[string]map[int32]V, p place, v V) {
	if m[p.topic] == nil {
		m[p.topic] = map[int32]V{}
	}
	m[p.topic][p.partition] = v
}
