package kafka

import (
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/message"
)

// Records become messages and records again, and are the same, whatever they carry.
func TestRoundTrip(t *testing.T) {
	c := &converter{}
	p := &parcel{}
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.SliceOfN(rapid.Byte(), 0, 30)
		maybe := rapid.OneOf(bytes, rapid.Just([]byte(nil)), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }))
		records := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *kgo.Record {
			r := &kgo.Record{
				Topic: "orders", Partition: rapid.Int32Min(0).Draw(t, "partition"), Offset: rapid.Int64Min(0).Draw(t, "offset"),
				Key: rapid.SliceOfN(rapid.Byte(), 1, 10).Draw(t, "key"), Value: maybe.Draw(t, "value"),
				Timestamp: time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(t, "time")),
			}
			for range rapid.IntRange(0, 5).Draw(t, "headers") {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: rapid.SampledFrom([]string{"a", "b", "é", ""}).Draw(t, "name"), Value: maybe.Draw(t, "value")})
			}
			return r
		}), 1, 10).Draw(t, "records")
		b := c.convert(records, []byte("orders/0"))
		p.room(b, func(m *message.Message) string { return string(m.Key) })
		for i := range b.Messages {
			got := p.add(&b.Messages[i], b.Messages[i].Topic, string(b.Messages[i].Key))
			want := *records[i]
			want.Partition, want.Offset = got.Partition, 0
			if want.Headers == nil {
				want.Headers = []kgo.RecordHeader{}
			}
			if d := cmp.Diff(want, *got, cmpopts.IgnoreUnexported(kgo.RecordAttrs{})); d != "" {
				t.Fatalf("record %d:\n%s", i, d)
			}
		}
	})
}

func TestConvert(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	c := &converter{source: "in"}
	b := c.convert([]*kgo.Record{
		{Topic: "orders", Partition: 3, Offset: 7, Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: []kgo.RecordHeader{
			{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "bin", Value: []byte{0xff}}, {Key: "null"}, {Key: headerTombstone, Value: []byte("true")}, {Key: "z", Value: []byte("é")},
		}},
		{Topic: "orders", Partition: 3, Offset: 8, Timestamp: at},
		{Topic: "orders", Partition: 3, Offset: 9, Key: []byte{}, Value: []byte{0, 0, 0, 1, 2, '{', '}'}, Timestamp: at},
	}, []byte("orders/3"))
	place := func(offset int64, more ...message.Header) message.Headers {
		return append(message.Headers{{Name: "kafka-partition", Value: message.Int(3)}, {Name: "kafka-offset", Value: message.Int(offset)}}, more...)
	}
	base := message.Message{Topic: "orders", Time: at, Priority: 4, Source: "in", Attempt: 1}
	first, second, third := base, base, base
	first.Key, first.Payload = []byte("k"), []byte("v")
	first.Headers = place(7, message.Header{Name: "a", Value: message.String("1")}, message.Header{Name: "a", Value: message.String("2")},
		message.Header{Name: "bin", Value: message.Bytes([]byte{0xff})}, message.Header{Name: "null"}, message.Header{Name: "z", Value: message.String("é")})
	second.Key, second.Headers = []byte("orders/3"), place(8, message.Header{Name: "kafka-tombstone", Value: message.String("true")})
	third.Key, third.Payload = []byte("orders/3"), []byte{0, 0, 0, 1, 2, '{', '}'}
	third.Headers = place(9, message.Header{Name: "kafka-schema-id", Value: message.Int(258)})
	if d := cmp.Diff([]message.Message{first, second, third}, b.Messages, cmp.AllowUnexported(message.Value{})); d != "" {
		t.Error(d)
	}
	c.strip = true
	if got := c.convert([]*kgo.Record{{Value: []byte{0, 0, 0, 1, 2, '{', '}'}}}, nil).Messages[0]; string(got.Payload) != "{}" {
		t.Errorf("payload %q", got.Payload)
	}
}

// Text that is not UTF-8 arrives as bytes, and back.
func FuzzHeader(f *testing.F) {
	f.Add("name", []byte("value"))
	f.Add("kafka-offset", []byte{0xff})
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		c := &converter{}
		got := c.convert([]*kgo.Record{{Headers: []kgo.RecordHeader{{Key: name, Value: value}}}}, nil).Messages[0].Headers
		v, found := got[min(3, len(got)-1):].Get(name)
		if reserved(name) {
			if name == headerOffset && v.Kind() == message.KindBytes {
				t.Fatal("a sender's offset")
			}
			return
		}
		_, ok := got.Get(name)
		str, _ := v.Raw()
		if !ok || value != nil && (str != string(value) || found && (v.Kind() == message.KindString) != utf8.Valid(value)) {
			t.Fatalf("%q: %v", name, v)
		}
	})
}
