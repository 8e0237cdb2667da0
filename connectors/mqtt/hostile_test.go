package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/linkspan/linkspan/message"
)

func TestListenerSurvivesHostileBytes(t *testing.T) {
	h := newRecorder()
	addr, _ := startListener(t, testEnv(t), h, nil)
	random := make([]byte, 10_000)
	for i := range random {
		random[i] = byte(rand.IntN(256))
	}
	connect := (&connectPacket{version: version5, clientID: "x", keepAlive: 60, cleanStart: true}).encode(nil)
	after := func(b ...byte) []byte { return append(bytes.Clone(connect), b...) }
	for name, x := range map[string]struct {
		send []byte
		// want is the reason code of DISCONNECT; 0: the connection ends without one.
		want byte
	}{
		"garbage":                         {send: random},
		"a wrong packet first":            {send: []byte{kindPingreq << 4, 0}},
		"an oversized length first":       {send: []byte{kindConnect << 4, 0xff, 0xff, 0xff, 0x7f}},
		"a length of five bytes":          {send: []byte{kindConnect << 4, 0xff, 0xff, 0xff, 0xff, 0x01}},
		"HTTP":                            {send: []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		"an unknown protocol":             {send: []byte{kindConnect << 4, 6, 0, 4, 'X', 'Q', 'T', 'T'}},
		"a truncated connect":             {send: []byte{kindConnect << 4, 7, 0, 4, 'M', 'Q', 'T', 'T', 5}},
		"connect twice":                   {send: after(connect...), want: reasonProtocol},
		"an oversized packet":             {send: after(kindPublish<<4, 0xff, 0xff, 0xff, 0x7f), want: reasonPacketTooLarge},
		"a long length":                   {send: after(kindPublish<<4, 0xff, 0xff, 0xff, 0xff), want: reasonMalformed},
		"a padded length":                 {send: after(kindPingreq<<4, 0x80, 0x00), want: reasonMalformed},
		"a topic longer than the packet":  {send: after(kindPublish<<4, 4, 0xff, 0xff, 'a', 'b'), want: reasonMalformed},
		"a topic with NUL":                {send: after(kindPublish<<4, 5, 0, 2, 'a', 0, 0), want: reasonMalformed},
		"a topic that is not UTF-8":       {send: after(kindPublish<<4, 5, 0, 2, 0xff, 0xfe, 0), want: reasonMalformed},
		"a topic with a wildcard":         {send: after(kindPublish<<4, 5, 0, 2, 'a', '#', 0), want: reasonTopicName},
		"no topic":                        {send: after(kindPublish<<4, 3, 0, 0, 0), want: reasonProtocol},
		"qos 3":                           {send: after(kindPublish<<4|6, 7, 0, 2, 'a', 'b', 0, 1, 0), want: reasonMalformed},
		"packet identifier zero":          {send: after(kindPublish<<4|2, 7, 0, 2, 'a', 'b', 0, 0, 0), want: reasonMalformed},
		"properties beyond the packet":    {send: after(kindPublish<<4, 6, 0, 2, 'a', 'b', 0x7f, 1), want: reasonMalformed},
		"a property that does not belong": {send: after(kindPublish<<4, 10, 0, 2, 'a', 'b', 5, propSessionExpiry, 0, 0, 0, 1), want: reasonMalformed},
		"a property twice":                {send: after(kindPublish<<4, 9, 0, 2, 'a', 'b', 4, propFormat, 0, propFormat, 0), want: reasonMalformed},
		"an unknown property":             {send: after(kindPublish<<4, 7, 0, 2, 'a', 'b', 2, 0x7e, 0), want: reasonMalformed},
		"reserved flags":                  {send: after(kindPingreq<<4|1, 0), want: reasonMalformed},
		"a server's packet":               {send: after(kindSuback<<4, 3, 0, 1, 0), want: reasonProtocol},
		"an empty subscribe":              {send: after(kindSubscribe<<4|2, 3, 0, 1, 0), want: reasonMalformed},
		"packet kind zero":                {send: after(0, 0), want: reasonProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, addr)
			_, _ = c.conn.Write(x.send) // the other side may have closed already
			if bytes.HasPrefix(x.send, connect) {
				c.skip()
			}
			if x.want != 0 {
				c.expect(kindDisconnect<<4, 1, x.want)
			} else if len(x.send) < 20 {
				_ = c.conn.(*net.TCPConn).CloseWrite()
			}
			c.expectEnd()
		})
	}
	if len(h.all()) != 0 {
		t.Errorf("%d messages were handed on", len(h.all()))
	}
	// Nobody else has noticed.
	c := dialRaw(t, addr)
	c.connect5()
	c.send([]byte{kindPingreq << 4, 0})
	c.expect(kindPingresp<<4, 0)
}

// A client may not have more under way than the receive maximum.
func TestListenerReceiveMaximum(t *testing.T) {
	h := newRecorder()
	release := make(chan struct{})
	h.answer = func(*message.Batch) error { <-release; return nil }
	addr, _ := startListener(t, testEnv(t), h, func(c *SourceConfig) { c.ReceiveMaximum = 4 })
	c := dialRaw(t, addr)
	c.connect5()
	for i := range 6 {
		pub := publication{qos: 1, id: uint16(i + 1), topic: []byte("orders/a")}
		_, _ = c.conn.Write(pub.append(nil, version5, nil))
	}
	<-time.After(50 * time.Millisecond) // lets the listener read what it should not accept
	close(release)
	for {
		if got := c.skip(); got[0] == kindDisconnect<<4 {
			if got[2] != reasonReceiveMaximum {
				t.Errorf("got %x", got)
			}
			return
		}
	}
}

// While the handler is slow, a sender is stopped by TCP, and nothing is lost or
// acknowledged early.
func TestListenerBackPressure(t *testing.T) {
	h := newRecorder()
	release := make(chan struct{})
	h.answer = func(*message.Batch) error { <-release; return nil }
	addr, _ := startListener(t, testEnv(t), h, nil)
	c := dialRaw(t, addr)
	c.send((&connectPacket{version: version311, clientID: "b", cleanStart: true}).encode(nil))
	c.skip()
	pub := publication{topic: []byte("orders/a"), payload: make([]byte, 100_000)}
	packet := pub.append(nil, version311, nil)
	sent := 0
	_ = c.conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for sent < 2000 {
		if _, err := c.conn.Write(packet); err != nil {
			break
		}
		sent++
	}
	if sent > 200 { // 20 MB: far more than two batches and the kernel's buffers
		t.Errorf("%d messages of 100 kB were taken with a blocked handler", sent)
	}
	close(release)
	h.wait(t, sent)
}

// A listener holds many idle clients in little memory.
func TestListenerIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a thousand connections")
	}
	addr, _ := startListener(t, testEnv(t), newRecorder(), nil)
	const n = 1000
	conns := make([]net.Conn, n)
	measure := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := measure()
	for i := range conns {
		c := dialRaw(t, addr)
		c.send((&connectPacket{version: version5, clientID: strconv.Itoa(i), cleanStart: true}).encode(nil))
		c.skip()
		conns[i] = c.conn
	}
	each := (measure() - before) / n
	t.Logf("%d bytes for an idle connection, both ends", each)
	if each > 30<<10 {
		t.Errorf("%d bytes for an idle connection", each)
	}
	runtime.KeepAlive(conns)
}

// trickle returns a few bytes at a time.
type trickle struct {
	data []byte
	size int
}

func (r *trickle) Read(b []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.data[:min(r.size, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}

// FuzzPackets reads arbitrary bytes as packets, in pieces of any size: no panic, no
// buffer beyond twice the limit, the same packets however the bytes are cut, and
// agreement with another decoder on the publishes that both accept.
func FuzzPackets(f *testing.F) {
	pub := publication{qos: 1, id: 1, topic: []byte("a/b"), payload: []byte("x")}
	f.Add(pub.append(nil, version5, appendText(append([]byte(nil), propContentType), "text/plain")), byte(7))
	f.Add((&connectPacket{version: version5, clientID: "x", hasUser: true, user: "u"}).encode(nil), byte(1))
	f.Add(appendSubscribe(nil, version5, 1, []string{"a"}, 1), byte(3))
	f.Add(encodeConnack(version5, true, 0, appendU16(nil, propReceiveMaximum, 3)), byte(3))
	f.Add([]byte{kindDisconnect << 4, 2, 0, 0}, byte(3))
	f.Fuzz(func(t *testing.T, data []byte, size byte) {
		const limit = 4096
		read := func(step int) (out []byte) {
			s := &stream{from: &trickle{data, max(step, 1)}, max: limit}
			for {
				p, ok, err := s.next()
				switch {
				case err != nil:
					return out
				case ok:
					out = append(append(out, p.first, byte(len(p.body))), p.body...)
					decodeAny(t, p)
					continue
				}
				if err := s.fill(); err != nil {
					return out
				}
				if len(s.buf) > 2*max(limit, busyBuffer) {
					t.Fatalf("a buffer of %d bytes", len(s.buf))
				}
			}
		}
		if a, b := read(int(size)), read(len(data)); !bytes.Equal(a, b) {
			t.Errorf("pieces of %d give other packets", size)
		}
	})
}

func decodeAny(t *testing.T, p packet) {
	for _, version := range []byte{version311, version5} {
		switch p.kind() {
		case kindConnect:
			_, _ = decodeConnect(p)
		case kindConnack:
			_, _, _, _ = decodeConnack(p, version)
		case kindPublish:
			comparePublish(t, p, version)
		case kindPuback, kindPubrec, kindPubrel, kindPubcomp:
			_, _, _ = decodeAck(p, version)
		case kindSubscribe, kindUnsubscribe:
			_, _, _ = decodeFilters(p, version)
		case kindSuback:
			_, _ = decodeSuback(p, version, 1)
		default:
		}
	}
}

func comparePublish(t *testing.T, p packet, version byte) {
	var mine publication
	if mine.decode(p, version) != nil {
		return
	}
	theirs := packets.Packet{ProtocolVersion: version}
	err := theirs.FixedHeader.Decode(p.first)
	theirs.FixedHeader.Remaining = len(p.body)
	if err == nil {
		err = theirs.PublishDecode(p.body)
	}
	if err != nil {
		t.Fatalf("accepted what another decoder refuses: %v", err)
	}
	if theirs.TopicName != string(mine.topic) || !bytes.Equal(theirs.Payload, mine.payload) || theirs.PacketID != mine.id ||
		len(theirs.Properties.User) != len(mine.props.user) || theirs.Properties.ContentType != mine.props.contentType {
		t.Fatalf("decoded differently: %+v", theirs)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"#", "a/b", true},
		{"#", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"+", "a", true},
		{"+", "a/b", false},
		{"+/b", "a/b", true},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
		{"a", "a", true},
		{"a", "a/b", false},
		{"a/b", "a", false},
		{"+/+", "/a", true},
		{"/+", "/a", true},
		{"+", "/a", false},
		{"a/+", "a/", true},
	} {
		if matches(c.filter, c.topic) != c.want {
			t.Errorf("%q and %q: want %v", c.filter, c.topic, c.want)
		}
	}
	for filter, want := range map[string]bool{"#": true, "a/#": true, "a#": false, "#/a": false, "+": true, "a+": false, "a/+/b": true, "": false, "a\x00": false} {
		if validFilter(filter) != want {
			t.Errorf("%q: want %v", filter, want)
		}
	}
}

// BenchmarkListener measures QoS 1 messages of 1 KiB through one connection with a
// window of 256, and a handler that takes no time.
func BenchmarkListener(b *testing.B) {
	for _, version := range []byte{version311, version5} {
		b.Run(fmt.Sprint("version ", version), func(b *testing.B) {
			h := message.HandlerFunc(func(context.Context, *message.Batch) error { return nil })
			addr, _ := startListener(b, testEnv(b), h, nil)
			c := dialRaw(b, addr)
			c.send((&connectPacket{version: version, clientID: "bench", cleanStart: true}).encode(nil))
			c.skip()
			pub := publication{qos: 1, id: 1, topic: []byte("orders/a"), payload: []byte(strings.Repeat("x", 1024))}
			const window = 256
			var burst []byte
			for id := range window {
				pub.id = uint16(id + 1)
				burst = pub.append(burst, version, nil)
			}
			acks := make([]byte, 4*window)
			_ = c.conn.SetReadDeadline(time.Time{})
			b.SetBytes(1024)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += window {
				if _, err := c.conn.Write(burst); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c.conn, acks); err != nil && !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
