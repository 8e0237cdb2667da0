package kafka

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/message"
)

type sink struct {
	cfg      SinkConfig
	cluster  cluster
	pipeline string
	parcels  sync.Pool
	book     *transactions
	suspects suspects

	mu sync.Mutex
	// client is guarded by mu. Nil: the sink is not open.
	client *kgo.Client
}

func newSink(cfg SinkConfig, env connectors.Env, book *transactions) (connectors.Sink, error) {
	return &sink{
		cfg: cfg, pipeline: env.Pipeline, book: book, suspects: suspects{seed: maphash.MakeSeed()},
		cluster: cluster{brokers: cfg.Brokers, auth: cfg.Auth, tls: cfg.TLS, clientID: "linkspan-" + env.Pipeline + "-" + env.Name},
		parcels: sync.Pool{New: func() any { return &parcel{} }},
	}, nil
}

// Open implements connectors.Sink.
func (s *sink) Open(ctx context.Context) error {
	_, err := s.opened(ctx)
	return err
}

// opened returns the client, making and checking it when there is none.
func (s *sink) opened(ctx context.Context) (*kgo.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	var topics []string
	if s.cfg.Topic.Expr.IsZero() {
		topics = []string{s.cfg.Topic.Literal}
	}
	if _, err := s.cluster.check(ctx, topics, s.cfg.AllowAutoTopicCreation); err != nil {
		return nil, err
	}
	if s.cfg.Transactional {
		return nil, nil //nolint:nilnil // the input's client is used
	}
	client, err := kgo.NewClient(append(s.cluster.options(ctx), s.cfg.options()...)...)
	if err != nil {
		return nil, fmt.Errorf("configure client: %w", err)
	}
	s.client = client
	return client, nil
}

// Close implements connectors.Sink.
func (s *sink) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
	return nil
}

// Handle implements message.Handler. All messages are under way at once. After a refusal
// the later ones of the same key are held back, except those that were under way in
// another batch to the broker.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	if s.cfg.Transactional {
		return s.handleIn(ctx, b)
	}
	client, err := s.opened(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	return s.call(client, b).finish(ctx)
}

func (s *sink) call(client *kgo.Client, b *message.Batch) *call {
	c := &call{sink: s, client: client, batch: b, errs: make([]error, b.Len()), parcel: s.parcels.Get().(*parcel)}
	c.parcel.call = c
	return c
}

// finish sends the batch and returns what Handle does.
func (c *call) finish(ctx context.Context) error {
	err := c.result(ctx, c.send(ctx))
	if p := c.parcel; !c.over {
		p.reset()
		if cap(p.bytes) <= keepBytes {
			c.sink.parcels.Put(p)
		}
	}
	return err
}

func (s *sink) key(m *message.Message) string {
	if s.cfg.Key.IsZero() {
		return ""
	}
	return s.cfg.Key.Value(m.Options)
}

// call is one batch on its way.
type call struct {
	sink   *sink
	client *kgo.Client
	batch  *message.Batch
	parcel *parcel
	// index are the places in the batch of the records that are being sent, and sent those
	// of all that were.
	index, sent []int
	// strict: what a broker refused is not tried again alone, because it is in a
	// transaction. Known are the refusals of an earlier one by place in the batch, and
	// alone says to send one by one.
	strict bool
	known  map[int]*message.Reason
	alone  bool
	// refused are the keys of messages that were not taken.
	refused lines.Keys

	mu sync.Mutex
	// errs are the outcomes by place in the batch, and open counts the records under
	// way. Guarded by mu while that is not 0.
	errs []error
	open int
	done chan struct{}
	// over: nobody waits any more, and the parcel may still be in use.
	over bool
}

// errOpen is the outcome of a record that is under way.
var errOpen = errors.New("under way")

// send sends the batch. It returns an error when the outcomes of some are not known.
func (c *call) send(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.sink.cfg.Timeout)
	defer cancel()
	c.parcel.room(c.batch, c.sink.key)
	c.index = make([]int, 0, c.batch.Len())
	for i := range c.batch.Messages {
		m := &c.batch.Messages[i]
		topic, key := c.sink.cfg.Topic.Value(m.Options), c.sink.key(m)
		if c.refused.Has(m.Key) {
			c.errs[i] = message.ErrBehind
			continue
		}
		if reason := c.known[i]; reason != nil {
			c.errs[i] = reason
			c.refused.Add(m.Key)
			continue
		}
		if c.errs[i] = unsendable(m, topic, key, int(c.sink.cfg.MaxBatch)); c.errs[i] != nil {
			c.refused.Add(m.Key)
			continue
		}
		c.parcel.add(m, topic, key)
		c.index = append(c.index, i)
	}
	c.sent = c.index
	if c.strict && c.alone {
		return c.oneByOne(ctx)
	}
	if err := c.produce(ctx, c.parcel.records); err != nil || c.strict {
		return err
	}
	return c.single(ctx)
}

// oneByOne sends each record when the one before is there, up to the first that fails.
func (c *call) oneByOne(ctx context.Context) error {
	for n, i := range c.sent {
		c.index = c.sent[n : n+1]
		if err := c.produce(ctx, c.parcel.records[n:n+1]); err != nil {
			return err
		}
		if c.errs[i] != nil { // the transaction is lost
			c.sent = c.sent[:n+1]
			break
		}
	}
	return nil
}

// produce sends records, those of c.index, and waits for their outcomes.
func (c *call) produce(ctx context.Context, records []kgo.Record) error {
	if len(records) == 0 {
		return nil
	}
	c.mu.Lock()
	c.open, c.done = len(records), make(chan struct{})
	for _, i := range c.index {
		c.errs[i] = errOpen
	}
	c.mu.Unlock()
	for n := range records {
		c.client.Produce(ctx, &records[n], c.parcel.promises[n])
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == 0 {
		return nil
	}
	c.over = true
	return ctx.Err()
}

// settle notes the outcome of the nth record.
func (c *call) settle(n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.errs[c.index[n]] = err
	if c.open--; c.open == 0 {
		close(c.done)
	}
}

// single sends one by one what was refused together with others, because a broker
// refuses a batch whole. The first that is refused alone holds back those of its key.
func (c *call) single(ctx context.Context) error {
	if len(c.index) < 2 {
		return nil
	}
	all := c.index
	for n, i := range all {
		if !refusal(verdict(c.errs[i])) {
			continue
		}
		m, r := &c.batch.Messages[i], c.parcel.records[n:n+1]
		if c.refused.Has(m.Key) {
			c.errs[i] = message.ErrBehind
			continue
		}
		r[0].Partition = placed(m)
		c.index = all[n : n+1]
		if err := c.produce(ctx, r); err != nil {
			return err
		}
		if c.errs[i] != nil {
			c.refused.Add(m.Key)
		}
	}
	return nil
}

// result is what Handle returns. What is under way fails with unknown.
func (c *call) result(ctx context.Context, unknown error) error {
	if unknown != nil && ctx.Err() == nil {
		unknown = fmt.Errorf("the brokers did not confirm within %s: %w", c.sink.cfg.Timeout, c.sink.cluster.connectError(unknown))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var p message.PartialError
	var held lines.Keys
	for i, err := range c.errs {
		key := c.batch.Messages[i].Key
		switch {
		case err == nil:
			continue
		case errors.Is(err, message.ErrBehind) || held.Has(key):
			err = message.ErrBehind
		case errors.Is(err, errOpen):
			err = message.Unavailable(unknown)
		default:
			err = verdict(err)
		}
		held.Add(key)
		p.Failed = append(p.Failed, message.Failed{Index: i, Err: err})
	}
	if p.Failed == nil {
		return nil
	}
	return &p
}
