package amqp091

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// sent is a message after the wire, without a broker.
func sent(p *amqp.Publishing, key string) *amqp.Delivery {
	return &amqp.Delivery{
		Headers: p.Headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode,
		Priority: p.Priority, CorrelationId: p.CorrelationId, ReplyTo: p.ReplyTo, Expiration: p.Expiration, MessageId: p.MessageId,
		Timestamp: p.Timestamp.Truncate(time.Second), Type: p.Type, AppId: p.AppId, Body: p.Body, RoutingKey: key,
	}
}

func genText(limit int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return rapid.StringN(0, limit/4, limit).Filter(text).Draw(t, "text")
	})
}

func genValue() *rapid.Generator[message.Value] {
	return rapid.OneOf(
		rapid.Just(message.Value{}),
		rapid.Map(genText(1000), message.String),
		rapid.Map(rapid.SliceOf(rapid.Byte()), message.Bytes),
		rapid.Map(rapid.Bool(), message.Bool),
		rapid.Map(rapid.Int64(), message.Int),
		rapid.Map(rapid.Float64(), message.Float),
		rapid.Map(rapid.Int64Range(-1e10, 1e11), func(s int64) message.Value { return message.Time(time.Unix(s, 0)) }),
	)
}

// genMessage draws messages that the protocol can carry.
func genMessage(now time.Time) *rapid.Generator[message.Message] {
	return rapid.Custom(func(t *rapid.T) message.Message {
		m := message.Message{
			ID: genText(maxShort).Draw(t, "id"), CorrelationID: genText(maxShort).Draw(t, "correlation"),
			ReplyTo: genText(maxShort).Draw(t, "reply to"), ContentType: genText(maxShort).Draw(t, "type"),
			Priority: uint8(rapid.IntRange(0, 9).Draw(t, "priority")), Time: time.Unix(rapid.Int64Range(0, 1e10).Draw(t, "time"), 0),
			Payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload"), Topic: "q", Attempt: 1,
		}
		if rapid.Bool().Draw(t, "expires") {
			m.Expires = now.Add(time.Duration(rapid.Int64Range(0, maxExpiration).Draw(t, "ms")) * time.Millisecond)
		}
		names := rapid.SliceOfNDistinct(genText(maxShort).Filter(func(s string) bool {
			return refusedName(s) == "" && !strings.HasPrefix(s, ownHeaders) && !strings.HasPrefix(s, "x-") && s != headerPriority
		}), 0, 5, rapid.ID).Draw(t, "names")
		for _, name := range names {
			for range rapid.IntRange(1, 3).Draw(t, "repeats") {
				m.Headers.Add(name, genValue().Draw(t, "value"))
			}
		}
		return m
	})
}

// What Carries claims comes out as it went in.
func TestPropertiesRoundTrip(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	rapid.Check(t, func(t *rapid.T) {
		want := genMessage(now).Draw(t, "message")
		p, why := writeMessage(&want, now)
		if why != "" || !shorts(&p) {
			t.Fatalf("refused: %s", why)
		}
		if err := p.Headers.Validate(); err != nil {
			t.Fatalf("the library refuses it: %v", err)
		}
		var got message.Message
		readMessage(&got, sent(&p, "q"), now)
		byName := func(h message.Headers) map[string][]message.Value {
			out := map[string][]message.Value{}
			for _, x := range h {
				out[x.Name] = append(out[x.Name], x.Value)
			}
			return out
		}
		same := cmp.Comparer(func(a, b message.Value) bool { return a == b })
		if d := cmp.Diff(byName(want.Headers), byName(got.Headers), same); d != "" {
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

// Kinds that are not claimed arrive as their text.
func TestPropertiesTimeWithMilliseconds(t *testing.T) {
	v := message.Time(time.UnixMilli(1700000000123))
	if carries().Kinds.Has(message.KindTime) {
		t.Error("kind time is claimed")
	}
	field, ok := writeValue(v)
	if !ok || readValue(field) != message.String("2023-11-14T22:13:20.123Z") {
		t.Errorf("%v became %v", v.Text(), field)
	}
}

// A broker may send anything: it is read, and nothing of it panics.
func TestReadForeignFields(t *testing.T) {
	d := amqp.Delivery{
		Redelivered: true, Priority: 200, Expiration: "soon", Timestamp: time.Unix(math.MaxInt64/2, 0), Type: "order", Exchange: "x", RoutingKey: "k",
		Headers: amqp.Table{
			"i8": int8(-1), "u8": uint8(255), "i16": int16(-2), "u16": uint16(65535), "i32": int32(-3), "u32": uint32(math.MaxUint32),
			"f32": float32(0.5), "dec": amqp.Decimal{Scale: 2, Value: -1234}, "list": []any{int32(1), "a"}, "empty": []any{},
			"table": amqp.Table{"a": []any{amqp.Table{"b": []byte{1}, "n": nil, "t": true}}, "nan": math.NaN(), "when": time.Unix(0, 0)},
			"bad":   "\xff", "far": time.Unix(math.MaxInt64/2, 0), "x-delivery-count": int64(3),
			"x-death": []any{
				amqp.Table{"count": int64(2), "reason": "expired", "queue": "q", "exchange": "e", "routing-keys": []any{"k"}},
				amqp.Table{"count": int64(9)},
			},
		},
	}
	var m message.Message
	now := time.Now()
	readMessage(&m, &d, now)
	if m.Attempt != 4 || m.Priority != 9 || !m.Time.Equal(now) || !m.Expires.IsZero() || m.Topic != "k" {
		t.Errorf("%+v", m)
	}
	for name, want := range map[string]message.Value{
		"i8": message.Int(-1), "u8": message.Int(255), "i16": message.Int(-2), "u16": message.Int(65535), "i32": message.Int(-3),
		"u32": message.Int(math.MaxUint32), "f32": message.Float(0.5), "dec": message.String("-12.34"), "list": message.Int(1),
		"empty": message.String("[]"), "bad": message.Bytes([]byte{0xff}), "far": message.Int(math.MaxInt64 / 2),
		"table":            message.String(`{"a":[{"b":"AQ==","n":null,"t":true}],"nan":"NaN","when":"1970-01-01T00:00:00Z"}`),
		"amqp091.type":     message.String("order"),
		"amqp091.exchange": message.String("x"), "amqp091.death_count": message.Int(2), "amqp091.death_reason": message.String("expired"),
		"amqp091.death_queue": message.String("q"), "amqp091.death_exchange": message.String("e"),
		"x-death": message.String(`[{"count":2,"exchange":"e","queue":"q","reason":"expired","routing-keys":["k"]},{"count":9}]`),
	} {
		if got, _ := m.Headers.Get(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, odd := range []amqp.Table{{"x-death": []any{}}, {"x-death": []any{"a"}}, {"x-death": "a"}, {"x-delivery-count": int64(-1)}, {"x-delivery-count": "a"}} {
		readMessage(&m, &amqp.Delivery{Headers: odd}, now)
		if m.Attempt != 1 || m.Priority != message.NormalPriority {
			t.Errorf("%v: %+v", odd, m)
		}
	}
}

// What would change where a message goes, or break the connection, is refused.
func TestRefusedProperties(t *testing.T) {
	long := strings.Repeat("a", 256)
	s := &sink{cfg: sinkDefaults()}
	s.cfg.RoutingKey.Literal = "q"
	for name, m := range map[string]message.Message{
		"CC":            {Headers: message.Headers{{Name: "CC", Value: message.String("other")}}},
		"BCC":           {Headers: message.Headers{{Name: "BCC", Value: message.String("other")}}},
		"long name":     {Headers: message.Headers{{Name: long}}},
		"empty name":    {Headers: message.Headers{{Name: ""}}},
		"NUL in name":   {Headers: message.Headers{{Name: "a\x00"}}},
		"NUL in value":  {Headers: message.Headers{{Name: "a", Value: message.String("\x00")}}},
		"not UTF-8":     {Headers: message.Headers{{Name: "a", Value: message.String("\xff")}}},
		"id":            {ID: long},
		"correlation":   {CorrelationID: long},
		"reply to":      {ReplyTo: long},
		"content type":  {ContentType: long},
		"NUL in id":     {ID: "\x00"},
		"type":          {Headers: message.Headers{{Name: "amqp091.type", Value: message.String(long)}}},
		"large headers": {Headers: message.Headers{{Name: "a", Value: message.String(strings.Repeat("a", 128<<10))}}},
	} {
		_, _, err := s.encode(&m, time.Now(), 128<<10-8)
		if reason, ok := errors.AsType[*message.Reason](err); !ok || reason.Code != codeUncarryable || !reason.Permanent {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, key := range []string{"", long, "a\x00"} {
		s.cfg.RoutingKey.Literal = key
		if _, _, err := s.encode(&message.Message{}, time.Now(), 0); err == nil {
			t.Errorf("routing key of %d bytes was taken", len(key))
		}
	}
	s.cfg.RoutingKey.Literal = "q"
	p, _, err := s.encode(&message.Message{Expires: time.Now().Add(100 * 24 * time.Hour), Priority: 77, Headers: message.Headers{
		{Name: "amqp091.type", Value: message.String("t")}, {Name: "amqp091.app_id", Value: message.String("a")}, {Name: "amqp091.content_encoding", Value: message.String("gzip")},
	}}, time.Now(), 128<<10)
	if err != nil || p.Expiration != "" || p.Priority != 9 || p.Type != "t" || p.AppId != "a" || p.ContentEncoding != "gzip" || len(p.Headers) != 0 || p.DeliveryMode != amqp.Persistent {
		t.Errorf("%+v: %v", p, err)
	}
}

func TestTraits(t *testing.T) {
	spec := Spec()
	for _, traits := range []connectors.Traits{spec.Source.Traits, spec.Sink.Traits} {
		c := traits.Carries
		if !traits.Headers || c.ID == "" || c.CorrelationID == "" || c.ReplyTo == "" || c.ContentType == "" || c.Priority == "" || c.Expires == "" {
			t.Errorf("%+v", traits)
		}
	}
	if !spec.Source.Traits.Redelivers || !spec.Sink.Traits.Confirms {
		t.Error("the guarantee is wrong")
	}
}
