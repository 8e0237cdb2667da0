package pipelines

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

// through sends headers over a protocol: what it does not keep becomes text, and a
// repeated name loses all but its first value.
func through(t *rapid.T, headers message.Headers, p *connectors.Properties) (out message.Headers) {
	for _, h := range headers {
		if _, again := out.Get(h.Name); again && !p.Repeats {
			t.Fatalf("%s is sent twice", h.Name)
		}
		if !p.Kinds.Has(h.Value.Kind()) {
			h.Value = message.String(h.Value.Text())
		}
		out = append(out, h)
	}
	return out
}

func anyValue(t *rapid.T) message.Value {
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return message.Value{}
	case 1:
		return message.Bytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	case 2:
		return message.Bool(rapid.Bool().Draw(t, "bool"))
	case 3:
		return message.Int(rapid.Int64().Draw(t, "int"))
	case 4:
		return message.Float(rapid.Float64().Filter(func(f float64) bool { return !math.IsNaN(f) }).Draw(t, "float"))
	case 5:
		return message.Time(time.UnixMilli(rapid.Int64Range(-62135596800000, 253402300799999).Draw(t, "time")))
	default:
		return message.String(rapid.String().Draw(t, "text"))
	}
}

// What leaves for a protocol that has no place for a property arrives as it was.
func TestCarryIsTheInverseOfArrival(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		place := func(name string) string { return rapid.SampledFrom([]string{"", "native"}).Draw(t, name) }
		p := &connectors.Properties{
			ID: place("id"), CorrelationID: place("correlation"), ReplyTo: place("reply"), ContentType: place("type"),
			Priority: place("priority"), Expires: place("expires"),
			Kinds: connectors.Kinds(rapid.Uint16Range(0, 1<<7-1).Draw(t, "kinds")), Repeats: rapid.Bool().Draw(t, "repeats"),
		}
		short := rapid.StringN(0, 20, 60)
		m := message.Message{
			ID: short.Draw(t, "ID"), CorrelationID: string(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "CorrelationID")),
			ReplyTo: short.Draw(t, "ReplyTo"), ContentType: short.Draw(t, "ContentType"), Priority: uint8(rapid.IntRange(0, 9).Draw(t, "Priority")),
		}
		if rapid.Bool().Draw(t, "expires?") {
			m.Expires = time.UnixMilli(rapid.Int64Range(0, 253402300799999).Draw(t, "Expires")).UTC()
		}
		for range rapid.IntRange(0, 6).Draw(t, "headers") {
			name := rapid.SampledFrom([]string{"a", "b", "Content-Type", "x=y&z", "é"}).Draw(t, "name")
			m.Headers.Add(name, anyValue(t))
		}
		arrived := message.Message{Priority: message.NormalPriority}
		copyNative(&arrived, &m, p)
		arrived.Headers = through(t, carry(m.Headers.Clone(), 0, &m, p), p)
		if err := schedule(&arrived, time.Now()); err != nil {
			t.Fatal(err)
		}
		// Folding keeps the order of the values of a name, and not that of the names.
		if diff := cmp.Diff(byName(m.Headers), byName(arrived.Headers)); diff != "" {
			t.Fatal(diff)
		}
		arrived.Headers, m.Headers = nil, nil
		if diff := cmp.Diff(m, arrived); diff != "" {
			t.Fatal(diff)
		}
	})
}

func copyNative(to, from *message.Message, p *connectors.Properties) {
	if p.ID != "" {
		to.ID = from.ID
	}
	if p.CorrelationID != "" {
		to.CorrelationID = from.CorrelationID
	}
	if p.ReplyTo != "" {
		to.ReplyTo = from.ReplyTo
	}
	if p.ContentType != "" {
		to.ContentType = from.ContentType
	}
	if p.Priority != "" {
		to.Priority = from.Priority
	}
	if p.Expires != "" {
		to.Expires = from.Expires
	}
}

type printed struct {
	Kind message.Kind
	Text string
}

func byName(h message.Headers) map[string][]printed {
	out := map[string][]printed{}
	for _, x := range h {
		out[x.Name] = append(out[x.Name], printed{x.Value.Kind(), x.Value.Text()})
	}
	return out
}

func TestCarryAddsNothingToAPlainMessage(t *testing.T) {
	m := message.Message{Priority: message.NormalPriority, Headers: message.Headers{{Name: "a", Value: message.String("b")}}}
	if got := carry(m.Headers, 0, &m, &connectors.Properties{}); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

func TestArrivalRefusesBrokenLists(t *testing.T) {
	for _, bad := range [][2]string{
		{headerKinds, "x"},
		{headerKinds, "%zz=int"},
		{headerKinds, "x=int"},
		{headerKinds, "x=color"},
		{headerKinds, "x=bytes"},
		{headerRepeated, "x"},
		{headerExpires, "tomorrow"},
	} {
		m := message.Message{Headers: message.Headers{{Name: "x", Value: message.String("12 apples")}, {Name: bad[0], Value: message.String(bad[1])}}}
		if err := schedule(&m, time.Now()); err == nil || strings.Contains(err.Error(), "apples") {
			t.Errorf("%v: got %v", bad, err)
		}
	}
}
