package kinesis

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/linkspan/linkspan/message"
)

// The limits of PutRecords.
const (
	maxRecords = 500
	maxRecord  = 1 << 20
	maxCall    = 5 << 20
	maxKey     = 256
)

// codeRefused is the code of dead letters.
const codeRefused = "LS4398"

type sink struct {
	cfg SinkConfig

	mu sync.Mutex
	// client is nil until the first Open. Guarded by mu.
	client *kinesis.Client
}

// Open implements connectors.Sink.
func (s *sink) Open(ctx context.Context) error {
	_, err := s.connected(ctx)
	return err
}

// Close implements connectors.Sink. There is nothing that is kept open.
func (*sink) Close(context.Context) error { return nil }

func (s *sink) connected(ctx context.Context) (*kinesis.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		client, err := s.cfg.client(ctx)
		if err != nil {
			return nil, err
		}
		s.client = client
	}
	return s.client, nil
}

// Handle implements message.Handler.
func (s *sink) Handle(ctx context.Context, b *message.Batch) error {
	client, err := s.connected(ctx)
	if err != nil {
		return message.Unavailable(err)
	}
	h := &handling{sink: s, client: client, batch: b, failed: make([]error, b.Len()), behind: map[string]bool{}}
	rest := make([]int, b.Len())
	for i := range rest {
		rest[i] = i
	}
	for len(rest) > 0 {
		rest = h.call(ctx, rest)
	}
	return h.result()
}

// handling is one call of Handle.
type handling struct {
	sink   *sink
	client *kinesis.Client
	batch  *message.Batch
	failed []error
	behind map[string]bool
}

// call sends the first of the messages that fit into a call, and returns those that are
// left. With order, it has at most one message of a key.
func (h *handling) call(ctx context.Context, todo []int) (rest []int) {
	var sent []int
	var records []types.PutRecordsRequestEntry
	size, inside := 0, map[string]bool{}
	for n, i := range todo {
		m := &h.batch.Messages[i]
		key, ordered := string(m.Key), h.sink.cfg.Ordered && m.Key != nil
		if ordered && h.behind[key] {
			h.failed[i] = message.ErrBehind
			continue
		}
		if ordered && inside[key] {
			rest = append(rest, i)
			continue
		}
		record, err := h.sink.record(m)
		if err != nil {
			h.fail(i, err)
			continue
		}
		if size += len(record.Data) + len(*record.PartitionKey); size > maxCall || len(records) == maxRecords {
			rest = append(rest, todo[n:]...)
			break
		}
		sent, records = append(sent, i), append(records, record)
		inside[key] = ordered
	}
	if len(records) > 0 {
		h.put(ctx, sent, records)
	}
	return rest
}

// put sends records, and notes which were not taken.
func (h *handling) put(ctx context.Context, sent []int, records []types.PutRecordsRequestEntry) {
	calling, cancel := context.WithTimeout(ctx, h.sink.cfg.Timeout)
	defer cancel()
	out, err := h.client.PutRecords(calling, &kinesis.PutRecordsInput{StreamName: &h.sink.cfg.Stream, Records: records})
	if err == nil && len(out.Records) != len(records) {
		err = errors.New("the answer has another number of records")
	}
	for n, i := range sent {
		switch {
		case err != nil:
			h.fail(i, message.Unavailable(fmt.Errorf("put records to %s: %w", h.sink.cfg.Stream, explain(err))))
		case out.Records[n].ErrorCode != nil:
			h.fail(i, message.Unavailable(fmt.Errorf("put a record to %s: the service answers %s", h.sink.cfg.Stream, *out.Records[n].ErrorCode)))
		}
	}
}

// fail notes that a message was not sent. Those of its key behind it are not sent either.
func (h *handling) fail(i int, err error) {
	h.failed[i] = err
	if key := h.batch.Messages[i].Key; key != nil {
		h.behind[string(key)] = true
	}
}

func (h *handling) result() error {
	var failed []message.Failed
	for i, err := range h.failed {
		if err != nil {
			failed = append(failed, message.Failed{Index: i, Err: err})
		}
	}
	if failed == nil {
		return nil
	}
	return &message.PartialError{Failed: failed}
}

// record makes the record of a message, or says why there can be none.
func (s *sink) record(m *message.Message) (types.PutRecordsRequestEntry, error) {
	key, why := s.partitionKey(m)
	switch {
	case why != "":
	case len(m.Payload)+len(key) > maxRecord:
		why = fmt.Sprintf("payload and partition key are larger than %d bytes", maxRecord)
	default:
		payload := m.Payload
		if payload == nil {
			payload = []byte{} // nil would be no member at all
		}
		return types.PutRecordsRequestEntry{Data: payload, PartitionKey: aws.String(key)}, nil
	}
	return types.PutRecordsRequestEntry{}, &message.Reason{Code: codeRefused, Text: why, Permanent: true}
}

// partitionKey returns the computed key, the key of the message, or a random one.
func (s *sink) partitionKey(m *message.Message) (key, why string) {
	switch {
	case !s.cfg.PartitionKey.IsZero():
		key = s.cfg.PartitionKey.Value(m.Options)
		if n := utf8.RuneCountInString(key); n < 1 || n > maxKey || !utf8.ValidString(key) {
			return "", fmt.Sprintf("the partition key has not 1 to %d characters, or is not UTF-8", maxKey)
		}
		return key, ""
	case len(m.Key) == 0:
		return rand.Text(), ""
	case utf8.Valid(m.Key) && utf8.RuneCount(m.Key) <= maxKey:
		return string(m.Key), ""
	default:
		return digest(m.Key), ""
	}
}

// digest stands for a key that is no partition key.
func digest(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}
