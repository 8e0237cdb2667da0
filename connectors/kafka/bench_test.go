package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/message"
)

func benchRecords(n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		value := fmt.Appendf(nil, `{"type":"order","id":%d,"region":"eu","total":%d.50,"customer":{"id":"c%d","email":"user%d@example.com"},"lines":[`, i, i*7, i%100, i*31)
		for n := range 8 {
			value = fmt.Appendf(value, `{"sku":"%x","quantity":%d,"price":%d.99},`, rand.Uint64(), n+1, rand.IntN(1000))
		}
		value = append(value, `{"note":"`+strings.Repeat("lorem ipsum ", (1024-len(value))/12)+`"}]}`...)
		records[i] = &kgo.Record{
			Topic: "orders", Partition: 1, Offset: int64(i), Key: fmt.Appendf(nil, "customer-%d", i%100), Value: value, Timestamp: time.Now(),
			Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")}, {Key: "x-tenant", Value: []byte("acme")}},
		}
	}
	return records
}

// BenchmarkConvert is what a record costs to become a message, in batches of 512.
func BenchmarkConvert(b *testing.B) {
	records := benchRecords(512)
	c := &converter{source: "in"}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(records) {
		c.convert(records, []byte("orders/1"))
	}
}

// BenchmarkEncode is what a message costs to become a record, in batches of 256.
func BenchmarkEncode(b *testing.B) {
	batch := (&converter{}).convert(benchRecords(256), nil)
	p := &parcel{}
	key := func(*message.Message) string { return "" }
	b.ReportAllocs()
	for i := 0; i < b.N; i += batch.Len() {
		p.room(batch, key)
		for j := range batch.Messages {
			p.add(&batch.Messages[j], "orders", "")
		}
	}
}

// BenchmarkSink sends messages of 1 KiB in batches of 256 to an in-process broker, whose
// work is part of the figure.
func BenchmarkSink(b *testing.B) {
	for _, linger := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
		for _, compression := range []string{"none", "lz4", "snappy", "zstd"} {
			b.Run(fmt.Sprintf("linger=%s/%s", linger, compression), func(b *testing.B) {
				c := startCluster(b, kfake.BlackholeProduce())
				s := newTestSink(b, c.ListenAddrs(), func(c *SinkConfig) { c.Linger, c.Compression = linger, compression })
				batch := (&converter{}).convert(benchRecords(256), nil)
				if err := s.Open(context.Background()); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if i%batch.Len() > 0 {
						continue
					}
					if err := s.Handle(context.Background(), batch); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSource receives records of 1 KiB from an in-process broker, whose work is part
// of the figure.
func BenchmarkSource(b *testing.B) {
	c := startCluster(b, kfake.SyntheticFetch(kfake.SyntheticBatch{RecordBytes: 1024}))
	var n, batches atomic.Int64
	done := make(chan struct{})
	src := newTestSource(b, testEnv(b), c.ListenAddrs(), nil)
	b.ReportAllocs()
	stop := startSource(b, src, message.HandlerFunc(func(_ context.Context, m *message.Batch) error {
		batches.Add(1)
		if before := n.Add(int64(m.Len())) - int64(m.Len()); before < int64(b.N) && before+int64(m.Len()) >= int64(b.N) {
			close(done)
		}
		return nil
	}))
	<-done
	b.StopTimer()
	b.ReportMetric(float64(n.Load())/float64(batches.Load()), "msg/batch")
	stop()
}
