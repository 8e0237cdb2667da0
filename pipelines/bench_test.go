package pipelines

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/transform/all"
)

// nowhere is a connector that takes everything and keeps nothing.
func nowhere() connectors.Spec {
	type none struct{}
	return connectors.Spec{
		Name: "nowhere",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true}, func() none { return none{} },
			func(none, connectors.Env) (connectors.Source, error) { return nil, nil }),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true}, func() none { return none{} },
			func(none, connectors.Env) (connectors.Sink, error) { return &sunk{}, nil }),
	}
}

type sunk struct{ bytes, messages int }

func (*sunk) Open(context.Context) error  { return nil }
func (*sunk) Close(context.Context) error { return nil }

func (s *sunk) Handle(_ context.Context, b *message.Batch) error {
	s.messages += b.Len()
	for i := range b.Messages {
		s.bytes += len(b.Messages[i].Payload)
	}
	return nil
}

// settled counts acknowledgements instead of storing them.
type settled struct {
	queue.Subscription
	n int
}

func (s *settled) Ack(offsets ...uint64) error {
	s.n += len(offsets)
	return nil
}

const orderPipeline = `
pipeline: orders
in: {orders: {nowhere: {}}}
steps:
  - keep: payload.status == "paid" && payload.total >= 20
  - mask:
      payload.customer.email: hash
      payload.payment.card_number: {partial: {last: 4}}
  - unset: [payload.customer.name]
  - set:
      payload.pipeline: '"orders-v1"'
      payload.total_cents: round(payload.total * 100)
route:
  - when: payload.channel == "web"
    to: web
  - when: payload.channel == "store"
    to: store
  - else: partner
out:
  web: {nowhere: {}}
  store: {nowhere: {}}
  partner: {nowhere: {}}
`

// headerPipeline does the work of a bridge that never looks into the payload.
const headerPipeline = `
pipeline: headers
in: {orders: {nowhere: {}}}
steps:
  - keep: headers.kind == "order"
  - set: {headers.seen: '"yes"'}
route:
  - when: headers.region == "eu"
    to: web
  - else: store
out:
  web: {nowhere: {}}
  store: {nowhere: {}}
`

func benchLane(b *testing.B, yaml string, records []queue.Record) {
	b.Helper()
	name := filepath.Join(b.TempDir(), "p.yaml")
	if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
		b.Fatal(err)
	}
	key, err := keys.New(make([]byte, keys.Size))
	if err != nil {
		b.Fatal(err)
	}
	var report config.Report
	d := Load([]string{name}, Registry{Connectors: []connectors.Spec{nowhere()}, Steps: all.Specs(), Keys: key, Queue: memory.New().Caps()}, config.Lookup{}, &report)
	if report.Failed() {
		b.Fatal(report.Problems()[0].Text())
	}
	r, err := newRunning(d.Plans[0], &Options{Logger: slog.New(slog.DiscardHandler), DataDir: b.TempDir()}, connectors.NewListeners(), connectors.NewReplies(), func(err error) { b.Fatal(err) })
	if err != nil {
		b.Fatal(err)
	}
	acks := &settled{}
	r.subscription = acks
	l := r.newLane()
	const batch = 128
	slab := make([]unit, batch)
	units := make([]*unit, batch)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		for i := range units {
			slab[i] = unit{record: records[(done+i)%len(records)]}
			units[i] = &slab[i]
		}
		l.accept(context.Background(), units)
	}
	b.StopTimer()
	if acks.n < b.N || l.tally.Open() != 0 {
		b.Fatalf("%d of %d messages settled, %d open", acks.n, b.N, l.tally.Open())
	}
}

func orders(b *testing.B) []queue.Record {
	b.Helper()
	data, err := os.ReadFile("testdata/orders.ndjson")
	if err != nil {
		b.Fatal(err)
	}
	var records []queue.Record
	for line := range bytes.Lines(data) {
		records = append(records, queue.Record{Offset: uint64(len(records)), Message: message.Message{
			Payload: bytes.TrimSpace(line), Source: "orders", Time: time.Unix(1, 0), Attempt: 1,
		}})
	}
	return records
}

// BenchmarkOrderPipeline is the order work of the peer comparison: a filter on two
// fields, three masked or removed fields, two set, and a three-way route, on 1 KB.
func BenchmarkOrderPipeline(b *testing.B) {
	records := orders(b)
	b.SetBytes(1073)
	benchLane(b, orderPipeline, records)
}

// BenchmarkEngineOverhead is what the engine costs per message without JSON: filter,
// header, route, bookkeeping.
func BenchmarkEngineOverhead(b *testing.B) {
	records := orders(b)
	for i := range records {
		region := "us"
		if i%2 == 0 {
			region = "eu"
		}
		records[i].Message.Headers = message.Headers{{Name: "kind", Value: message.String("order")}, {Name: "region", Value: message.String(region)}}
	}
	benchLane(b, headerPipeline, records)
}
