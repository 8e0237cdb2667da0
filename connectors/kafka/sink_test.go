package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

func handle(t testing.TB, s *sink, ms ...message.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.Handle(ctx, &message.Batch{Messages: ms})
}

// reasons are the codes of the messages that failed, by index: "…" of those that are
// unavailable.
func reasons(t testing.TB, err error) map[int]string {
	t.Helper()
	out := map[int]string{}
	if err == nil {
		return out
	}
	partial, ok := errors.AsType[*message.PartialError](err)
	if !ok {
		t.Fatalf("not a partial error: %v", err)
	}
	for _, f := range partial.Failed {
		reason, refused := errors.AsType[*message.Reason](f.Err)
		switch {
		case errors.Is(f.Err, message.ErrBehind):
			out[f.Index] = "behind"
		case refused:
			out[f.Index] = reason.Code
		case message.IsUnavailable(f.Err):
			out[f.Index] = "unavailable"
		default:
			t.Errorf("message %d: %v", f.Index, f.Err)
		}
	}
	return out
}

func wantReasons(t testing.TB, err error, want map[int]string) {
	t.Helper()
	if got := reasons(t, err); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("failed %v, want %v: %v", got, want, err)
	}
}

// Without a record key, equal ordering keys go to one partition, also after a restart,
// and different ones are spread.
func TestOrderingKeysKeepTheirPartition(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(8, "orders"))
	for range 2 {
		s := newTestSink(t, c.ListenAddrs(), nil)
		var ms []message.Message
		for i := range 200 {
			ms = append(ms, message.Message{Key: fmt.Appendf(nil, "key-%d", i%40), Payload: fmt.Appendf(nil, "%d", i)})
		}
		if err := handle(t, s, ms...); err != nil {
			t.Fatal(err)
		}
	}
	of, used, last := map[int]int32{}, map[int32]bool{}, map[int32]int64{}
	for _, r := range read(t, c.ListenAddrs(), "orders", 400) {
		var n int
		_, _ = fmt.Sscanf(string(r.Value), "%d", &n)
		if r.Key != nil {
			t.Fatal("a record has a key that nobody asked for")
		}
		if p, ok := of[n%40]; ok && p != r.Partition {
			t.Fatalf("key %d is in partitions %d and %d", n%40, p, r.Partition)
		}
		of[n%40], used[r.Partition] = r.Partition, true
		last[r.Partition] = r.Offset
	}
	if len(used) < 5 {
		t.Errorf("40 keys went to %d partitions", len(used))
	}
}

// With `key:` the record has the key and goes where Kafka's own clients send it.
func TestRecordKeysChooseThePartition(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(10, "orders"))
	s := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Key = computed("message.key") })
	// What Kafka's Java client answers: toPositive(murmur2(key)) % 10.
	want := map[string]int32{"21": 0, "foobar": 6, "a-little-bit-long-string": 2, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": 7}
	var ms []message.Message
	for key := range want {
		ms = append(ms, message.Message{Key: []byte("x"), Options: []string{key}, Payload: []byte("v")})
	}
	ms = append(ms, message.Message{Options: []string{""}, Payload: []byte("keyless")})
	if err := handle(t, s, ms...); err != nil {
		t.Fatal(err)
	}
	for _, r := range read(t, c.ListenAddrs(), "orders", len(ms)) {
		if string(r.Value) == "keyless" {
			if r.Key != nil {
				t.Errorf("an empty key became a key")
			}
			continue
		}
		if p, ok := want[string(r.Key)]; !ok || r.Partition != p {
			t.Errorf("key %q is in partition %d, want %d", r.Key, r.Partition, p)
		}
	}
}

func computed(expr string) config.Option {
	f := config.Parse("x.yaml", []byte("k: "+expr), config.Lookup{}, &config.Report{})
	return config.Option{Expr: config.Expr{Source: expr, Node: f.Root().Get("k")}}
}

func TestTombstonesAndHeadersLeave(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders"))
	s := newTestSink(t, c.ListenAddrs(), nil)
	at := time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC)
	tomb := message.Header{Name: headerTombstone, Value: message.Bool(true)}
	if err := handle(t, s,
		message.Message{Headers: message.Headers{tomb, {Name: "a", Value: message.Int(7)}, {Name: "a", Value: message.Bytes([]byte{0xff})}, {Name: "n"}, {Name: headerOffset, Value: message.Int(3)}}, Time: at},
		message.Message{Payload: []byte("data"), Headers: message.Headers{tomb}},
		message.Message{Payload: nil},
	); err != nil {
		t.Fatal(err)
	}
	got := read(t, c.ListenAddrs(), "orders", 3)
	if got[0].Value != nil || string(got[1].Value) != "data" || got[2].Value == nil {
		t.Errorf("values %v %v %v: want null, data, empty", got[0].Value, got[1].Value, got[2].Value)
	}
	h := got[0].Headers
	if len(h) != 3 || h[0].Key != "a" || string(h[0].Value) != "7" || string(h[1].Value) != "\xff" || h[2].Key != "n" || h[2].Value != nil || len(got[1].Headers) != 0 {
		t.Errorf("headers %v %v", h, got[1].Headers)
	}
	if !got[0].Timestamp.Equal(at) || time.Since(got[1].Timestamp) > time.Minute {
		t.Errorf("times %v %v", got[0].Timestamp, got[1].Timestamp)
	}
}

func TestCompressionsAndAcks(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders"))
	n := 0
	for _, compression := range []string{"zstd", "lz4", "snappy", "gzip", "none"} {
		for _, acks := range []string{acksAll, acksLeader, acksNone} {
			s := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Compression, c.Acks = compression, acks })
			if err := handle(t, s, message.Message{Payload: []byte(strings.Repeat(compression, 100))}); err != nil {
				t.Errorf("%s, acks %s: %v", compression, acks, err)
			}
			n++
		}
	}
	read(t, c.ListenAddrs(), "orders", n)
}

func TestSinkRefuses(t *testing.T) {
	c := startCluster(t)
	s := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Topic = computed("x"); c.Topic.Destination = true; c.MaxBatch = 10 << 10 })
	to := func(topic, key string, size int) message.Message {
		return message.Message{Options: []string{topic}, Key: []byte(key), Payload: make([]byte, size)}
	}
	wantReasons(t, handle(t, s,
		to("orders", "a", 1),
		to("orders", "b", 20<<10),
		to("orders", "b", 1),
		to("orders/../x", "c", 1),
		to("", "d", 1),
		to("missing", "e", 1),
		to("missing", "e", 2),
		to("orders", "a", 2),
	), map[int]string{1: codeTooLarge, 2: "behind", 3: codeCannotCarry, 4: codeCannotCarry, 5: codeNoTopic, 6: "behind"})
	if n := sent(t, c.ListenAddrs(), "orders"); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

// A broker refuses a batch whole. The messages are then tried alone, so that only the one
// that is at fault is refused, and order per key is kept.
func TestOneBadMessageDoesNotTakeItsNeighbours(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders"), kfake.BrokerConfigs(map[string]string{"max.message.bytes": "5000", "message.max.bytes": "5000"}))
	s := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Compression = compressionNone })
	var ms []message.Message
	for i := range 10 {
		size := 900
		if i == 4 {
			size = 6000
		}
		ms = append(ms, message.Message{Key: fmt.Appendf(nil, "k%d", i%2), Payload: []byte(strings.Repeat(strconv.Itoa(i), size))})
	}
	wantReasons(t, handle(t, s, ms...), map[int]string{4: codeTooLarge, 6: "behind", 8: "behind"})
	var order []string
	for _, r := range read(t, c.ListenAddrs(), "orders", 7) {
		order = append(order, string(r.Value[:1]))
	}
	if got := strings.Join(order, ""); got != "0123579" {
		t.Errorf("order %s", got)
	}
}

// answers makes the brokers answer the next n produce requests with an error.
func answers(c *kfake.Cluster, n int32, code int16) *atomic.Int32 {
	var left atomic.Int32
	left.Store(n)
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if left.Add(-1) < 0 {
			return nil, nil, false
		}
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, code
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	return &left
}

func TestBrokerErrors(t *testing.T) {
	for _, c := range []struct {
		err  *kerr.Error
		n    int32
		want string
	}{
		{kerr.NotLeaderForPartition, 1, ""},
		{kerr.RequestTimedOut, 1, ""},
		{kerr.NotEnoughReplicas, 1, ""},
		{kerr.NotEnoughReplicas, 1000, "unavailable"},
		{kerr.InvalidRecord, 1000, codeRefused},
		{kerr.TopicAuthorizationFailed, 1000, codeForbidden},
		{kerr.UnknownServerError, 1000, "unavailable"},
	} {
		t.Run(fmt.Sprintf("%s %d", c.err.Message, c.n), func(t *testing.T) {
			cluster := startCluster(t, kfake.SeedTopics(1, "orders"))
			s := newTestSink(t, cluster.ListenAddrs(), func(c *SinkConfig) { c.Timeout = time.Second })
			answers(cluster, c.n, c.err.Code)
			want := map[int]string{}
			if c.want != "" {
				want = map[int]string{0: c.want, 1: "behind"}
			}
			start := time.Now()
			wantReasons(t, handle(t, s, message.Message{Key: []byte("k"), Payload: []byte("1")}, message.Message{Key: []byte("k"), Payload: []byte("2")}), want)
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %s", d)
			}
			if c.want == "" {
				for i, r := range read(t, cluster.ListenAddrs(), "orders", 2) {
					if string(r.Value) != strconv.Itoa(i+1) {
						t.Errorf("%s at %d", r.Value, i)
					}
				}
			}
		})
	}
}

// A broker that takes a request and does not answer holds up nobody longer than the
// time-out, nor a stop.
func TestSilentBroker(t *testing.T) {
	c := startCluster(t, kfake.SeedTopics(1, "orders"))
	s := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Timeout = time.Second })
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	hung := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-hung })
		return nil, nil, false
	})
	start := time.Now()
	wantReasons(t, handle(t, s, message.Message{Payload: []byte("1")}), map[int]string{0: "unavailable"})
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("the time-out took %s", d)
	}
	start = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Handle(ctx, &message.Batch{Messages: []message.Message{{Payload: []byte("2")}}}); err == nil {
		t.Error("it was delivered")
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("the stop took %s", d)
	}
	close(hung)
}

func TestSinkSaysWhatIsMissing(t *testing.T) {
	c := startCluster(t, kfake.AllowAutoTopicCreation())
	err := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Topic.Literal = "missing" }).Open(t.Context())
	if coded, ok := errors.AsType[*codedError](err); !ok || coded.code != codeNoTopic {
		t.Errorf("got %v", err)
	}
	s := newTestSink(t, c.ListenAddrs(), func(c *SinkConfig) { c.Topic.Literal, c.AllowAutoTopicCreation = "made", true })
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := handle(t, s, message.Message{Payload: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	read(t, c.ListenAddrs(), "made", 1)
}

// What a sink has sent and given up may still be read by the client: its memory must not
// be that of the batch.
func TestPayloadsAreCopied(t *testing.T) {
	p := &parcel{}
	m := message.Message{Payload: []byte("payload"), Headers: message.Headers{{Name: "h", Value: message.String("v")}}}
	p.room(&message.Batch{Messages: []message.Message{m}}, func(*message.Message) string { return "key" })
	r := p.add(&m, "orders", "key")
	copy(m.Payload, "XXXXXXX")
	if string(r.Value) != "payload" || string(r.Key) != "key" {
		t.Errorf("record %q %q", r.Key, r.Value)
	}
	var _ kgo.Partitioner = partitioner{}
}

// refuse makes the brokers refuse every batch that has some text, uncompressed or not.
func refuse(c *kfake.Cluster, text string) {
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		refused := false
		for _, rt := range req.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, kerr.InvalidRecord.Code
				refused = refused || bytes.Contains(rp.Records, []byte(text))
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, refused
	})
}
