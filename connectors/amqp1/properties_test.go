package amqp1

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	amqp "github.com/Azure/go-amqp"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

func genText() *rapid.Generator[string] { return rapid.String().Filter(text) }

func genValue() *rapid.Generator[message.Value] {
	return rapid.OneOf(
		rapid.Just(message.Value{}),
		rapid.Map(genText(), message.String),
		rapid.Map(rapid.SliceOf(rapid.Byte()), message.Bytes),
		rapid.Map(rapid.Bool(), message.Bool),
		rapid.Map(rapid.Int64(), message.Int),
		rapid.Map(rapid.Float64(), message.Float),
		rapid.Map(rapid.Int64Range(-6e13, 2e14), func(ms int64) message.Value { return message.Time(time.UnixMilli(ms)) }),
	)
}

func genID() *rapid.Generator[string] {
	return rapid.OneOf(
		genText(),
		rapid.Map(rapid.Uint64(), func(n uint64) string { return readID(n) }),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return readID(b) }),
		rapid.SampledFrom([]string{
			"", "ID:1", "ID:AMQP_ULONG:01", "ID:AMQP_ULONG:x", "ID:AMQP_UUID:0", "ID:AMQP_BINARY:ab", "ID:AMQP_BINARY:A", "ID:AMQP_BINARY:AB", "ID:AMQP_BINARY:",
			"ID:AMQP_STRING:a", "ID:AMQP_STRING:ID:AMQP_ULONG:1", "ID:AMQP_STRING:ID:AMQP_STRING:ID:AMQP_ULONG:1", "ID:AMQP_UUID:00000000-0000-0000-0000-000000000001",
		}),
	)
}

// What Carries claims comes out as it went in, through the bytes of the wire.
func TestPropertiesRoundTrip(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	rapid.Check(t, func(t *rapid.T) {
		want := message.Message{
			ID: genID().Draw(t, "id"), CorrelationID: genID().Draw(t, "correlation"), ReplyTo: genText().Draw(t, "reply to"),
			ContentType: rapid.SampledFrom([]string{"", "application/json", "text/plain; charset=utf-8"}).Draw(t, "type"),
			Priority:    uint8(rapid.IntRange(0, 9).Draw(t, "priority")), Attempt: 1,
			Time: time.UnixMilli(rapid.Int64Range(0, 2e14).Draw(t, "time")), Payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
		}
		if rapid.Bool().Draw(t, "expires") {
			want.Expires = time.UnixMilli(rapid.Int64Range(1, 2e14).Draw(t, "expiry"))
		}
		names := rapid.SliceOfNDistinct(genText().Filter(func(s string) bool { return s != "" && !strings.HasPrefix(s, ownHeaders) }), 0, 5, rapid.ID).Draw(t, "names")
		names = append(names, rapid.SliceOfDistinct(rapid.SampledFrom([]string{headerSubject, headerGroup, headerReplyGroup, headerAnnotation + "x-opt-a"}), rapid.ID).Draw(t, "own")...)
		for _, name := range names {
			v := genValue()
			if strings.HasPrefix(name, ownHeaders) && !strings.HasPrefix(name, headerAnnotation) {
				v = rapid.Map(genText().Filter(func(s string) bool { return s != "" }), message.String)
			}
			want.Headers.Add(name, v.Draw(t, "value"))
		}
		e := encoder{durable: true}
		out, why := e.write(&want, now)
		if why != "" {
			t.Fatalf("refused: %s", why)
		}
		wire, err := out.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var in amqp.Message
		if err := in.UnmarshalBinary(wire); err != nil {
			t.Fatal(err)
		}
		var got message.Message
		readMessage(&got, &in, now)
		byName := func(h message.Headers) map[string]message.Value {
			out := map[string]message.Value{}
			for _, x := range h {
				out[x.Name] = x.Value
			}
			return out
		}
		if d := cmp.Diff(byName(want.Headers), byName(got.Headers), cmp.Comparer(func(a, b message.Value) bool { return a == b })); d != "" {
			t.Error(d)
		}
		if !bytes.Equal(want.Payload, got.Payload) || !want.Time.Equal(got.Time) || !want.Expires.Equal(got.Expires) {
			t.Errorf("%v became %v", want, got)
		}
		want.Headers, got.Headers, want.Payload, got.Payload = nil, nil, nil, nil
		want.Time, got.Time, want.Expires, got.Expires = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// An identifier of any type comes back as it was.
func TestIdentifiers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.OneOf(
			rapid.Map(genID(), func(s string) any { return s }),
			rapid.Map(rapid.Uint64(), func(n uint64) any { return n }),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) any { return amqp.UUID(b) }),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) any { return b }),
		).Draw(t, "id")
		if back := writeID(readID(id)); !cmp.Equal(id, back) {
			t.Errorf("%#v became %q, and that %#v", id, readID(id), back)
		}
		s := genID().Draw(t, "text")
		if back := readID(writeID(s)); back != s {
			t.Errorf("%q became %#v, and that %q", s, writeID(s), back)
		}
	})
}

// A peer may send anything: it is read, and nothing of it panics.
func TestReadForeignMessages(t *testing.T) {
	now := time.Now()
	read := func(in amqp.Message) message.Message {
		t.Helper()
		wire, err := in.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var back amqp.Message
		if err := back.UnmarshalBinary(wire); err != nil {
			t.Fatal(err)
		}
		var m message.Message
		readMessage(&m, &back, now)
		return m
	}
	empty := read(amqp.Message{})
	if empty.Priority != message.NormalPriority || empty.Attempt != 1 || !empty.Time.Equal(now) || len(empty.Payload) != 0 {
		t.Errorf("%+v", empty)
	}
	far := time.UnixMilli(math.MaxInt64 / 2)
	subject, user := "s", []byte{0xff}
	m := read(amqp.Message{
		Header:     &amqp.MessageHeader{Priority: 200, DeliveryCount: 3, TTL: time.Minute},
		Properties: &amqp.MessageProperties{CreationTime: &far, Subject: &subject, UserID: user, MessageID: uint64(7)},
		ApplicationProperties: map[string]any{
			"i8": int8(-1), "u8": uint8(255), "i16": int16(-2), "u16": uint16(65535), "i32": int32(-3), "u32": uint32(math.MaxUint32),
			"u64": uint64(math.MaxUint64), "f32": float32(0.5), "uuid": amqp.UUID{1}, "sym": amqp.Symbol("x"), "list": []any{int32(1), "a", []byte{1}, nil, math.NaN()},
			"map": map[string]any{"a": map[any]any{int64(1): time.UnixMilli(0)}}, "ints": []int64{1, 2}, "far": far,
		},
		Annotations: amqp.Annotations{"x-opt-a": int64(1), int64(5): "n"},
	})
	if m.Priority != 9 || m.Attempt != 4 || !m.Time.Equal(now) || m.Expires.Sub(now) != time.Minute || m.ID != "ID:AMQP_ULONG:7" {
		t.Errorf("%+v", m)
	}
	for name, want := range map[string]message.Value{
		"i8": message.Int(-1), "u8": message.Int(255), "i16": message.Int(-2), "u16": message.Int(65535), "i32": message.Int(-3),
		"u32": message.Int(math.MaxUint32), "u64": message.String("18446744073709551615"), "f32": message.Float(0.5),
		"uuid": message.String("01000000-0000-0000-0000-000000000000"), "sym": message.String("x"),
		"list": message.String(`[1,"a","AQ==",null,"NaN"]`), "map": message.String(`{"a":{"1":"1970-01-01T00:00:00Z"}}`), "ints": message.String("[1,2]"),
		"amqp1.subject": message.String("s"), "amqp1.user_id": message.Bytes(user),
		"amqp1.annotation.x-opt-a": message.Int(1), "amqp1.annotation.5": message.String("n"),
	} {
		if got, _ := m.Headers.Get(name); got != want {
			t.Errorf("%s: %v, want %v", name, got.Text(), want.Text())
		}
	}
	for _, c := range []struct {
		in            amqp.Message
		payload, kind string
	}{
		{amqp.Message{Data: [][]byte{[]byte("a"), []byte("b")}}, "ab", ""},
		{amqp.Message{Value: "é"}, "é", "text/plain"},
		{amqp.Message{Value: []byte("x")}, "x", ""},
		{amqp.Message{Value: amqp.Null{}}, "", ""},
		{amqp.Message{Value: map[string]any{"n": int32(1)}}, `{"n":1}`, "application/json"},
		{amqp.Message{Value: int32(5)}, `5`, "application/json"},
		{amqp.Message{Sequence: [][]any{{"a"}, {int64(2)}}}, `["a",2]`, "application/json"},
	} {
		if m := read(c.in); string(m.Payload) != c.payload || m.ContentType != c.kind {
			t.Errorf("%+v: %q %q", c.in, m.Payload, m.ContentType)
		}
	}
}

func TestRefusedProperties(t *testing.T) {
	for name, m := range map[string]message.Message{
		"NUL in value": {Headers: message.Headers{{Name: "a", Value: message.String("\x00")}}},
		"NUL in name":  {Headers: message.Headers{{Name: "\x00"}}},
		"no name":      {Headers: message.Headers{{}}},
		"not UTF-8":    {Headers: message.Headers{{Name: "a", Value: message.String("\xff")}}},
		"repeats":      {Headers: message.Headers{{Name: "a"}, {Name: "a"}}},
		"content type": {ContentType: "é"},
		"line break":   {ContentType: "a\r\nb"},
		"id":           {ID: "\xff"},
		"reply to":     {ReplyTo: "\x00"},
		"subject":      {Headers: message.Headers{{Name: headerSubject, Value: message.String("\x00")}}},
	} {
		s := &sink{cfg: sinkDefaults()}
		s.cfg.Address.Literal = "q"
		_, err := s.encode(&encoder{}, &m, time.Now())
		if r := reasonOf(err); r.Code != codeUncarryable || !r.Permanent {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, address := range []string{"", "a\x00", "a\nb", "a\rb", "a\u0085", "\xff", strings.Repeat("x", maxAddress+1)} {
		s := &sink{cfg: sinkDefaults()}
		s.cfg.Address.Literal = address
		_, err := s.encode(&encoder{}, &message.Message{}, time.Now())
		if r := reasonOf(err); r.Code != codeUncarryable || !r.Permanent {
			t.Errorf("address %.10q: %v", address, err)
		}
	}
	if _, why := (&encoder{asText: true}).write(&message.Message{Payload: []byte{0xff}}, time.Now()); why == "" {
		t.Error("bytes were taken for a text")
	}
	out, _ := (&encoder{asText: true}).write(&message.Message{Payload: []byte("a")}, time.Now())
	if out.Value != "a" || out.Data != nil || out.Annotations[jmsType] != jmsText {
		t.Errorf("%+v", out)
	}
}

func TestTraits(t *testing.T) {
	if got := (&SinkConfig{Settlement: settleSettled}).Traits(connectors.Traits{Confirms: true}); got.Confirms {
		t.Error("settled is said to confirm")
	}
	if got := (&SinkConfig{Settlement: settleUnsettled}).Traits(connectors.Traits{}); !got.Confirms {
		t.Error("unsettled is said not to confirm")
	}
}
