package stomp

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

const (
	// flushBytes is how much is gathered before it is written.
	flushBytes = 64 << 10
	// errorBody is what of a broker's ERROR is taken: brokers append stack traces.
	errorBody = 1 << 20
)

type sink struct {
	cfg  SinkConfig
	dial dialer
	// fixed are the names and values of the configured headers, in turn.
	fixed []string

	mu sync.Mutex
	// out is the connection; nil: there was none yet.
	out *outgoing
}

func newSink(cfg SinkConfig, _ connectors.Env) (connectors.Sink, error) {
	s := &sink{cfg: cfg, dial: dialer{
		address: cfg.Connect, tls: cfg.TLS, auth: cfg.Auth, version: versionOf(cfg.Version), host: cfg.Host,
		clientID: cfg.ClientID, heartBeat: cfg.HeartBeat, limits: limits{head: maxHead, headers: brokerHeaders, body: errorBody},
	}}
	if _, ok := cfg.Headers[headerPersistent]; !ok {
		s.fixed = append(s.fixed, headerPersistent, "true")
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Headers)) {
		s.fixed = append(s.fixed, name, cfg.Headers[name])
	}
	return s, nil
}

// Open implements connectors.Sink.
func (s *sink) Open(ctx context.Context) error {
	_, err := s.connected(ctx)
	return err
}

// Close implements connectors.Sink.
func (s *sink) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		return nil
	}
	out := s.out
	s.out = nil
	return out.close()
}

// connected returns the connection, making a new one when it was lost.
func (s *sink) connected(ctx context.Context) (*outgoing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	careful := false
	if s.out != nil {
		if !s.out.ended() {
			return s.out, nil
		}
		err := s.out.close()
		careful = s.out.suspicious
		s.out = nil
		if err != nil {
			return nil, err
		}
	}
	b, err := s.dial.open(ctx)
	if err != nil {
		return nil, err
	}
	s.out = newOutgoing(ctx, b, s.cfg.MaxInFlight, careful)
	return s.out, nil
}

// Handle implements message.Handler. Messages are sent in the order of the batch,
// without waiting for one another. After a refusal the later ones of the same key are
// held back, except those that are under way to the broker when it refuses.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	out, err := s.connected(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	c := newCall(b.Len())
	box := &outbox{sink: s, out: out, call: c, timer: time.NewTimer(s.cfg.Timeout), now: time.Now()}
	defer box.timer.Stop()
	stop := context.AfterFunc(ctx, box.interrupt)
	defer stop()
	if err = box.publish(ctx, b); err == nil {
		err = box.await(ctx)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	return c.result(err)
}

// outbox gathers the frames of one call.
type outbox struct {
	sink  *sink
	out   *outgoing
	call  *call
	timer *time.Timer
	now   time.Time
	buf   []byte
	// tx is the transaction that is open, name its name.
	tx   *transaction
	name string

	mu sync.Mutex
	// writing: a write is under way. Over: the context has ended.
	writing, over bool
}

// interrupt ends a write under way to a broker that does not read. What was written of
// its frame makes the connection useless, so it ends too.
func (o *outbox) interrupt() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	if o.writing {
		_ = o.out.link.conn.Close() // it is useless, whatever Close says
	}
}

// enter notes whether a write is under way. It returns false when there is to be none
// any more.
func (o *outbox) enter(writing bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = writing
	return !o.over
}

var errNoReceipt = errors.New("the broker did not confirm in time")

// await waits for all answers.
func (o *outbox) await(ctx context.Context) error {
	select {
	case <-o.call.done:
		return nil
	case <-o.out.done:
		return message.Unavailable(o.out.err)
	case <-ctx.Done():
		return ctx.Err()
	case <-o.timer.C:
		o.out.link.stop() // a broker that does not answer may answer late; nothing can be known of this connection
		return message.Unavailable(errNoReceipt)
	}
}

// flush sends what is gathered.
func (o *outbox) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := context.Canceled
	if o.enter(true) {
		err = o.out.link.send(o.buf)
	}
	o.enter(false)
	o.buf = o.buf[:0]
	if err != nil {
		o.out.link.stop()
		return message.Unavailable(err)
	}
	return nil
}

// publish sends all messages of the batch that can be carried.
func (o *outbox) publish(ctx context.Context, b *message.Batch) (err error) {
	for i := range b.Messages {
		m := &b.Messages[i]
		if o.out.behind(o.call, i, m.Key) {
			continue
		}
		if err = o.token(ctx); err != nil {
			break
		}
		if err = o.add(i, m); err != nil {
			break
		}
	}
	if err == nil {
		o.commit()
		err = o.flush()
	}
	if err != nil && o.tx != nil {
		o.out.link.stop() // the broker rolls back what is open
	}
	return err
}

// token takes the right to send a message. When there is none it sends what is
// gathered, and waits for an answer. A transaction is committed first: some brokers
// answer nothing before.
func (o *outbox) token(ctx context.Context) error {
	select {
	case <-o.out.room:
		return nil
	default:
	}
	o.commit()
	if err := o.flush(); err != nil {
		return err
	}
	select {
	case <-o.out.room:
		return nil
	case <-o.out.done:
		return message.Unavailable(o.out.err)
	case <-ctx.Done():
		return ctx.Err()
	case <-o.timer.C:
		o.out.link.stop()
		return message.Unavailable(errNoReceipt)
	}
}

// add gathers a SEND, for which a token was taken.
func (o *outbox) add(i int, m *message.Message) error {
	if o.sink.cfg.Transactions && o.tx == nil {
		o.begin()
	}
	at := len(o.buf)
	id := o.out.expect(flight{o.call, i, m.Key, o.tx})
	var refused error
	if o.buf, refused = o.sink.append(o.buf, o.out.link.stream.version, m, o, id); refused != nil {
		o.buf = o.buf[:at]
		o.out.cancel(id)
		o.out.refuse(o.call, i, m.Key, refused)
		return nil
	}
	if len(o.buf) < flushBytes {
		return nil
	}
	return o.flush()
}

// cancel takes back what expect and token gave.
func (o *outgoing) cancel(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.flights, id)
	o.room <- struct{}{}
}

func (o *outbox) begin() {
	o.tx = &transaction{}
	o.out.mu.Lock()
	o.out.last++
	o.name = "linkspan-" + strconv.FormatUint(o.out.last, 10)
	o.out.mu.Unlock()
	o.buf = append(o.buf, "BEGIN\ntransaction:"+o.name+"\n\n\x00"...)
}

// commit ends the transaction that is open, if one is.
func (o *outbox) commit() {
	if o.tx == nil {
		return
	}
	id := o.out.expect(flight{call: o.call, index: -1, tx: o.tx})
	o.buf = append(o.buf, "COMMIT\ntransaction:"+o.name+"\n"...)
	o.buf = append(appendNumber(o.buf, frame.Receipt, int64(id)), '\n', 0)
	o.tx = nil
}

// append encodes SEND, or says why the message cannot be carried.
func (s *sink) append(b []byte, v version, m *message.Message, o *outbox, id uint64) ([]byte, error) {
	name := s.cfg.Destination.Value(m.Options)
	if name == "" || hasControl(name) || !carries(v, frame.Destination, name) || !s.cfg.Destination.Expr.IsZero() && !s.computed(name) {
		return b, unfit("the destination is empty, or has a control character, or a computed one has one of , ? * > #")
	}
	b = append(b, "SEND\n"...)
	b = appendHeader(b, v, frame.Destination, name)
	b = appendNumber(b, frame.Receipt, int64(id))
	if o.tx != nil {
		b = append(append(append(b, "transaction:"...), o.name...), '\n')
	}
	switch {
	case s.cfg.Type == typeText && !textual(m.Payload):
		return b, &message.Reason{Code: "LS4343", Text: "the payload is not UTF-8, or has NUL, and cannot be sent as text", Permanent: true}
	case s.cfg.Type == typeBytes || s.cfg.Type == typeAuto && !isText(m):
		b = appendNumber(b, frame.ContentLength, int64(len(m.Payload)))
	}
	b, ok := appendProperties(b, v, m, o.now)
	if !ok {
		return b, unfit("a property cannot be carried by STOMP " + v.String())
	}
	b, err := s.appendHeaders(b, v, m.Headers)
	if err != nil {
		return b, err
	}
	b = append(b, '\n')
	return append(append(b, m.Payload...), 0), nil
}

// appendHeaders writes the configured headers, and those of a message that do not have
// the name of one.
func (s *sink) appendHeaders(b []byte, v version, headers message.Headers) ([]byte, error) {
	for i := 0; i < len(s.fixed); i += 2 {
		b = appendHeader(b, v, s.fixed[i], s.fixed[i+1])
	}
	for i := range headers {
		name := headers[i].Name
		if name == headerBody || s.isFixed(name) {
			continue
		}
		value := headers[i].Value.Text()
		switch {
		case reserved(name):
			return b, unfit("a header has a name that STOMP uses itself")
		case !carries(v, name, value):
			return b, unfit("a header cannot be carried by STOMP " + v.String())
		}
		b = appendHeader(b, v, name, value)
	}
	return b, nil
}

func (s *sink) isFixed(name string) bool {
	for i := 0; i < len(s.fixed); i += 2 {
		if s.fixed[i] == name {
			return true
		}
	}
	return false
}

// computed reports whether a computed destination is only a name: brokers read lists,
// options and wildcards in others. Those that are listed in the configuration are
// trusted.
func (s *sink) computed(name string) bool {
	return !strings.ContainsAny(name, ",?*>#") || slices.Contains(s.cfg.Destination.Allow, name)
}

func unfit(text string) error {
	return &message.Reason{Code: "LS4342", Text: text, Permanent: true}
}
