package stomp

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/linkspan/linkspan/message"
)

var testLimits = limits{head: 4 << 10, headers: 16, body: 64 << 10}

type decoded struct {
	Command string
	Headers []string
	Body    string
}

// decodeAll reads frames until the stream ends or fails.
func decodeAll(s *stream) (out []decoded, err error) {
	for {
		f, ok, err := s.next()
		if err != nil {
			return out, err
		}
		if !ok {
			if err := s.fill(); err != nil {
				return out, err
			}
			continue
		}
		d := decoded{Command: f.Command, Body: string(f.Body)}
		for i := range f.Header.Len() {
			name, value := f.Header.GetAt(i)
			d.Headers = append(d.Headers, name, value)
		}
		out = append(out, d)
	}
}

func newTestStream(r io.Reader, v version, crlf bool) *stream {
	return &stream{from: r, limits: testLimits, version: v, escapes: v, crlf: crlf}
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		v    version
		crlf bool
		in   string
		want []decoded
		err  string
	}{
		"two frames and heart-beats": {version12, true, "\n\r\nSEND\na:b\n\nx\x00\n\n\r\nACK\n\n\x00\n", []decoded{{"SEND", []string{"a", "b"}, "x"}, {"ACK", nil, ""}}, ""},
		"content-length and NUL":     {version12, true, "SEND\ncontent-length:3\n\na\x00b\x00", []decoded{{"SEND", []string{"content-length", "3"}, "a\x00b"}}, ""},
		"CRLF in 1.2":                {version12, true, "SEND\r\na:b\r\n\r\nx\r\n\x00", []decoded{{"SEND", []string{"a", "b"}, "x\r\n"}}, ""},
		"CR is data in 1.1":          {version11, false, "SEND\na:b\r\n\n\x00", []decoded{{"SEND", []string{"a", "b\r"}, ""}}, ""},
		"escapes of 1.2":             {version12, true, `SEND` + "\n" + `a\c:\n\\\r\c:x` + "\n\n\x00", []decoded{{"SEND", []string{"a:", "\n\\\r::x"}, ""}}, ""},
		"escapes of 1.1":             {version11, false, `SEND` + "\n" + `a:\n\\\c` + "\n\n\x00", []decoded{{"SEND", []string{"a", "\n\\:"}, ""}}, ""},
		"no escapes in 1.0":          {version10, false, `SEND` + "\n" + `a:\n\\\x` + "\n\n\x00", []decoded{{"SEND", []string{"a", `\n\\\x`}, ""}}, ""},
		"CONNECTED is not escaped":   {version12, true, `CONNECTED` + "\n" + `a:\c\x` + "\n\n\x00", []decoded{{"CONNECTED", []string{"a", `\c\x`}, ""}}, ""},
		"repeated headers":           {version12, true, "SEND\na:1\na:2\n\n\x00", []decoded{{"SEND", []string{"a", "1", "a", "2"}, ""}}, ""},
		"empty value":                {version12, true, "SEND\na:\n\n\x00", []decoded{{"SEND", []string{"a", ""}, ""}}, ""},
		"\\r in 1.1":                 {version11, false, "SEND\na:\\r\n\n\x00", nil, "LS4350"},
		"an undefined escape":        {version12, true, "SEND\na:\\t\n\n\x00", nil, "LS4350"},
		"a half escape":              {version12, true, "SEND\na:\\\n\n\x00", nil, "LS4350"},
		"a header without colon":     {version12, true, "SEND\nab\n\n\x00", nil, "LS4350"},
		"a header without name":      {version12, true, "SEND\n:b\n\n\x00", nil, "LS4350"},
		"NUL in a header":            {version12, true, "SEND\na:\x00\n\n\x00", nil, "LS4350"},
		"NUL too early":              {version12, true, "SEND\ncontent-length:1\n\nabc\x00", nil, "LS4350"},
		"a length that is no number": {version12, true, "SEND\ncontent-length:1x\n\n\x00", nil, "LS4350"},
		"a negative length":          {version12, true, "SEND\ncontent-length:-1\n\n\x00", nil, "LS4350"},
		"4 GiB":                      {version12, true, "SEND\ncontent-length:4294967296\n\n", nil, "LS4351"},
		"a length beyond 64 bits":    {version12, true, "SEND\ncontent-length:99999999999999999999999\n\n", nil, "LS4351"},
		"too many headers":           {version12, true, "SEND\n" + strings.Repeat("a:b\n", 17), nil, "LS4351"},
		"too long a header":          {version12, true, "SEND\na:" + strings.Repeat("x", 5<<10), nil, "LS4351"},
		"too large without length":   {version12, true, "SEND\n\n" + strings.Repeat("x", 65<<10), nil, "LS4351"},
		"half a frame":               {version12, true, "SEND\na:b\n\nxyz", nil, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
				got, err := decodeAll(newTestStream(r, c.v, c.crlf))
				if d := cmp.Diff(c.want, got); d != "" {
					t.Error(d)
				}
				if c.err == "" {
					c.err = "EOF"
				}
				if !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %s", err, c.err)
				}
			}
		})
	}
}

// A frame that trickles in is not searched again and again: a byte a read of a body of
// 60 KiB takes no longer than the reads.
func TestSlowFrameIsSearchedOnce(t *testing.T) {
	in := "SEND\n\n" + strings.Repeat("x", 60<<10) + "\x00"
	s := newTestStream(iotest.OneByteReader(strings.NewReader(in)), version12, true)
	for {
		before := s.scanned
		_, ok, err := s.next()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return
		}
		if s.scanned < before || s.scanned != s.pending() {
			t.Fatalf("searched %d of %d, %d before", s.scanned, s.pending(), before)
		}
		if err := s.fill(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("CONNECT\naccept-version:1.2\n\n\x00\nSEND\ndestination:/queue/a\ncontent-length:3\n\na\x00b\x00"), uint8(2))
	f.Add([]byte("SEND\r\na\\c:b\\n\\\\\\r\r\n\r\n\x00"), uint8(2))
	f.Add([]byte("\n\r\n\rMESSAGE\n:\n\n"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, pick uint8) {
		v := []version{0, version10, version11, version12}[pick%4]
		whole, err1 := decodeAll(newTestStream(bytes.NewReader(in), v, pick&4 != 0))
		split, err2 := decodeAll(newTestStream(iotest.OneByteReader(bytes.NewReader(in)), v, pick&4 != 0))
		if d := cmp.Diff(whole, split); d != "" || err1.Error() != err2.Error() {
			t.Fatalf("reads of one byte give something else: %s\n%v\n%v", d, err1, err2)
		}
		var again []byte
		for _, d := range whole {
			g := frame.New(d.Command, d.Headers...)
			g.Body = []byte(d.Body)
			if len(d.Body) > testLimits.body || g.Header.Len() > testLimits.headers {
				t.Fatal("over the limits")
			}
			if !representable(v, d) {
				return
			}
			again = appendFrame(again, v, g)
		}
		if got, err := decodeAll(newTestStream(bytes.NewReader(again), v, pick&4 != 0)); !errors.Is(err, io.EOF) || !cmp.Equal(got, whole) {
			t.Fatalf("written and read again: %v %s", err, cmp.Diff(whole, got))
		}
	})
}

// representable reports whether a decoded frame can be written: commands are never
// odd, escapes may make it longer than the limit, and CR is no data where lines may end
// with it.
func representable(v version, d decoded) bool {
	size := 0
	for i, h := range d.Headers {
		size += 2 * len(h)
		if strings.Contains(h, "\r") && v != version12 || i%2 == 0 && !carries(v, h, "") || i%2 == 1 && !carries(v, "x", h) {
			return false
		}
		if plain(d.Command) && strings.ContainsAny(h, "\r\n:") {
			return false
		}
		if v < version11 && i%2 == 0 && strings.Contains(h, ":") || v == 0 && strings.Contains(h, "\n") {
			return false
		}
	}
	return size < testLimits.head/2 && d.Command != "" && !strings.ContainsAny(d.Command, "\r\n")
}

// A message that is sent, and comes back from a broker as MESSAGE, is the same.
func TestRoundTrip(t *testing.T) {
	s := &sink{cfg: sinkDefaults()}
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.SampledFrom([]version{version10, version11, version12}).Draw(rt, "version")
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab:\\\n\r\t é✓,;=c n")), 0, 12, -1)
		fits := func(name string) func(string) bool {
			return func(s string) bool { return carries(v, name, s) && !strings.HasSuffix(s, "\r") }
		}
		m := message.Message{
			ContentType:   text.Filter(fits("x")).Draw(rt, "content type"),
			CorrelationID: text.Filter(fits("x")).Draw(rt, "correlation id"),
			ReplyTo:       text.Filter(fits("x")).Draw(rt, "reply to"),
			Priority:      rapid.Uint8Range(0, 9).Draw(rt, "priority"),
			Payload:       rapid.SliceOf(rapid.Byte()).Draw(rt, "payload"),
		}
		if ms := rapid.Int64Range(0, 4e12).Draw(rt, "expires"); ms > 0 {
			m.Expires = time.UnixMilli(ms)
		}
		s.cfg.Destination.Literal = "/queue/" + rapid.StringMatching(`[a-z.:-]{1,9}`).Draw(rt, "destination")
		s.cfg.Type = rapid.SampledFrom([]string{typeAuto, typeBytes}).Draw(rt, "type")
		seen := map[string]bool{}
		for range rapid.IntRange(0, 4).Draw(rt, "headers") {
			name := text.Filter(func(s string) bool { return carries(v, s, "") && !reserved(s) && !strings.HasPrefix(s, "\r") }).Draw(rt, "name")
			value := text.Filter(fits(name)).Draw(rt, "value")
			if !seen[name] {
				seen[name] = true
				m.Headers.Add(name, message.String(value))
			}
		}
		wire, err := s.append(nil, v, &m, &outbox{now: time.Now()}, 7)
		if err != nil {
			rt.Fatal(err)
		}
		wire = append([]byte("MESSAGE"), bytes.TrimPrefix(wire, []byte("SEND"))...)
		st := &stream{from: bytes.NewReader(wire), limits: limits{maxHead, 256, 1 << 20}, version: v, escapes: v, crlf: v == version12}
		if err := st.fill(); err != nil {
			rt.Fatal(err)
		}
		f, ok, err := st.next()
		for !ok && err == nil {
			if err = st.fill(); err == nil {
				f, ok, err = st.next()
			}
		}
		if err != nil {
			rt.Fatal(err)
		}
		var b bundle
		if !b.add(f, (&destinations{}).get(f.Header.Get(frame.Destination)), "in", time.Now()) {
			rt.Fatal("a property cannot be read")
		}
		got := b.batch.Messages[0]
		kind := bodyBytes
		if s.cfg.Type == typeAuto && isText(&m) {
			kind = bodyText
		}
		want := m
		want.Topic, want.Headers = s.cfg.Destination.Literal, append(message.Headers{{Name: headerBody, Value: message.String(kind)}}, m.Headers...)
		for name, pair := range map[string][2]any{
			"payload": {string(want.Payload), string(got.Payload)}, "topic": {want.Topic, got.Topic}, "content type": {want.ContentType, got.ContentType},
			"correlation id": {want.CorrelationID, got.CorrelationID}, "reply to": {want.ReplyTo, got.ReplyTo}, "priority": {want.Priority, got.Priority},
			"expires": {want.Expires.UnixMilli(), got.Expires.UnixMilli()},
		} {
			if pair[0] != pair[1] {
				rt.Errorf("%s: sent %q, got %q", name, pair[0], pair[1])
			}
		}
		if d := cmp.Diff(want.Headers, got.Headers, cmp.Comparer(func(a, b message.Value) bool { return a == b })); d != "" {
			rt.Error(d)
		}
	})
}

// What brokers say of a message beside the standard.
func TestDescribe(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	for name, c := range map[string]struct {
		headers []string
		check   func(m *message.Message) bool
	}{
		"redelivered":                   {[]string{"redelivered", "true"}, func(m *message.Message) bool { return m.Attempt == 2 }},
		"not redelivered":               {[]string{"redelivered", "false"}, func(m *message.Message) bool { return m.Attempt == 1 }},
		"JMS counts":                    {[]string{"redelivered", "true", "JMSXDeliveryCount", "5"}, func(m *message.Message) bool { return m.Attempt == 5 }},
		"RabbitMQ counts":               {[]string{"x-delivery-count", "2", "redelivered", "true"}, func(m *message.Message) bool { return m.Attempt == 3 }},
		"the sender's id":               {[]string{"message-id", "b", "amqp-message-id", "s"}, func(m *message.Message) bool { return m.ID == "s" }},
		"the sender's id first":         {[]string{"amqp-message-id", "s", "message-id", "b"}, func(m *message.Message) bool { return m.ID == "s" }},
		"the broker's id":               {[]string{"message-id", "b", "message-id", "c"}, func(m *message.Message) bool { return m.ID == "b" }},
		"seconds":                       {[]string{"timestamp", "1600000000"}, func(m *message.Message) bool { return m.Time.Unix() == 1600000000 }},
		"milliseconds":                  {[]string{"timestamp", "1600000000123"}, func(m *message.Message) bool { return m.Time.UnixMilli() == 1600000000123 }},
		"no time":                       {nil, func(m *message.Message) bool { return m.Time.Equal(now) && m.Priority == message.NormalPriority }},
		"a relative expiry":             {[]string{"expiration", "1000"}, func(m *message.Message) bool { return m.Expires.Equal(now.Add(time.Second)) }},
		"both expiries":                 {[]string{"expiration", "5", "expires", "1700000000001"}, func(m *message.Message) bool { return m.Expires.UnixMilli() == 1700000000001 }},
		"both expiries, the other way":  {[]string{"expires", "1700000000001", "expiration", "5"}, func(m *message.Message) bool { return m.Expires.UnixMilli() == 1700000000001 }},
		"never":                         {[]string{"expires", "0"}, func(m *message.Message) bool { return m.Expires.IsZero() }},
		"a priority beyond nine":        {[]string{"priority", "200"}, func(m *message.Message) bool { return m.Priority == 9 }},
		"what brokers leak":             {[]string{"receipt", "r", "transaction", "t", "persistent", "true", "ack", "a"}, func(m *message.Message) bool { return len(m.Headers) == 1 }},
		"bytes":                         {[]string{"content-length", "0"}, func(m *message.Message) bool { return m.Headers.Text(headerBody) == bodyBytes }},
		"text, and a forged header":     {[]string{headerBody, bodyBytes}, func(m *message.Message) bool { return m.Headers.Text(headerBody) == bodyText }},
		"a value that is no UTF-8":      {[]string{"x", "\xff"}, func(m *message.Message) bool { v, _ := m.Headers.Get("x"); return v == message.Bytes([]byte{0xff}) }},
		"a header that comes twice":     {[]string{"x", "1", "x", "2"}, func(m *message.Message) bool { return len(m.Headers) == 3 && m.Headers.Text("x") == "1" }},
		"an absurd relative expiration": {[]string{"expiration", "9223372036854775807"}, func(m *message.Message) bool { return m.Expires.After(now) }},
	} {
		t.Run(name, func(t *testing.T) {
			m := message.Message{Time: now, Attempt: 1, Priority: message.NormalPriority}
			if !describe(&m, frame.New(frame.MESSAGE, c.headers...), now) || !c.check(&m) {
				t.Errorf("%+v", m)
			}
		})
	}
	for _, name := range []string{"priority", "expires", "expiration", "timestamp"} {
		for _, value := range []string{"x", "-1", "", strconv.Itoa(1<<62) + "0"} {
			if describe(&message.Message{}, frame.New(frame.SEND, name, value), now) {
				t.Errorf("%s: %q was taken", name, value)
			}
		}
	}
}

func TestIsText(t *testing.T) {
	for _, c := range []struct {
		payload, contentType, body string
		want                       bool
	}{
		{`{"a":1}`, "", "", true},
		{`{"a":1}`, "application/json; charset=utf-8", "", true},
		{`<a/>`, "application/soap+xml", "", true},
		{"abc", "text/plain", "", true},
		{"abc", "application/octet-stream", "", false},
		{"abc", "application/octet-stream", bodyText, true},
		{"abc", "text/plain", bodyBytes, false},
		{"a\x00c", "text/plain", bodyText, false},
		{"\xff", "text/plain", "", false},
		{"", "", "", true},
		{"abc", "nonsense;;", "", false},
	} {
		m := message.Message{Payload: []byte(c.payload), ContentType: c.contentType}
		if c.body != "" {
			m.Headers.Add(headerBody, message.String(c.body))
		}
		if got := isText(&m); got != c.want {
			t.Errorf("%q %q %q: %v", c.payload, c.contentType, c.body, got)
		}
	}
}

func TestAgreeBeats(t *testing.T) {
	for _, c := range []struct {
		mine           time.Duration
		theirs         string
		every, silence time.Duration
	}{
		{time.Second, "0,0", 0, 0},
		{time.Second, "", 0, 0},
		{0, "1000,1000", 0, 0},
		{time.Second, "3000,5000", 5 * time.Second, 6*time.Second + beatMargin},
		{10 * time.Second, "3000,5000", 10 * time.Second, 20*time.Second + beatMargin},
		{time.Second, "0,1", time.Second, 0},
		{time.Second, "99999999999999,18446744073709551615", 0, 0},
	} {
		got, err := agreeBeats(c.mine, c.theirs)
		if err != nil || got.every != c.every || got.silence != c.silence {
			t.Errorf("%s %q: %v %v", c.mine, c.theirs, got, err)
		}
	}
	for _, bad := range []string{"1", "a,b", "1,-1", "1,2,3"} {
		if _, err := agreeBeats(time.Second, bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
