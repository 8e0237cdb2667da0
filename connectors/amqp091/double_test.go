package amqp091

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/linkspan/linkspan/internal/run"
)

// double is a broker for tests, in this process. It has queues in memory, direct and
// fanout exchanges, confirmations, returns, and manners that tests choose.
type double struct {
	ln    net.Listener
	group *run.Group

	mu        sync.Mutex
	queues    map[string]*doubleQueue
	exchanges map[string][]doubleBinding
	sessions  []*session
	sequence  uint64
	consumed  int
	// password of everybody. vhost is the only one.
	password, vhost string
	// nack says which messages are refused with basic.nack.
	nack func(body []byte) bool
	// hold keeps back all confirmations while it is true.
	hold bool
	// kill says which messages close the channel, and with which code.
	kill func(body []byte) uint16
}

type doubleBinding struct{ key, queue string }

type doubleQueue struct {
	name      string
	messages  []*doubleMessage
	consumers []*doubleConsumer
	// dead are the messages that were rejected.
	dead []*doubleMessage
}

type doubleMessage struct {
	sequence      uint64
	exchange, key string
	// properties are the flags and the list, as they came.
	properties  []byte
	body        []byte
	redelivered bool
}

type doubleConsumer struct {
	channel *doubleChannel
	tag     string
}

// session is one connection.
type session struct {
	broker   *double
	conn     net.Conn
	channels map[uint16]*doubleChannel
}

type doubleChannel struct {
	session  *session
	id       uint16
	prefetch int
	confirm  bool
	sent     uint64
	owed     []uint64
	tag      uint64
	unacked  map[uint64]unacked
	closing  bool
	// A message that is being received.
	incoming  *doubleMessage
	mandatory bool
	expected  uint64
}

type unacked struct {
	queue   *doubleQueue
	message *doubleMessage
}

func startDouble(t testing.TB) *double {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &double{ln: ln, group: run.NewGroup(context.Background()), queues: map[string]*doubleQueue{}, exchanges: map[string][]doubleBinding{}, password: "p", vhost: "/"}
	b.group.Go("broker", func(context.Context) error {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return nil
			}
			b.group.Go("session", func(context.Context) error { b.serve(conn); return nil })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		b.cut()
		if err := b.group.Wait(); err != nil {
			t.Errorf("broker: %v", err)
		}
	})
	return b
}

func (b *double) addr() string { return b.ln.Addr().String() }

// queue makes a queue.
func (b *double) queue(name string) *doubleQueue {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		q = &doubleQueue{name: name}
		b.queues[name] = q
	}
	return q
}

// cut ends all connections.
func (b *double) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		_ = s.conn.Close()
	}
}

// remove deletes a queue, which cancels its consumers.
func (b *double) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.queues[name].consumers {
		c.channel.send(call091(basicCancel).short(c.tag).u8(1))
	}
	delete(b.queues, name)
}

// block tells all connections that nothing is taken, or that it is again.
func (b *double) block(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hold = on
	for _, s := range b.sessions {
		m := call091(connFree)
		if on {
			m = call091(connBlocked).short("low on disk")
		}
		s.write(wireFrame{frameMethod, 0, m.b}.append(nil))
	}
	if !on {
		b.settle()
	}
}

// settle sends the confirmations that were kept back.
func (b *double) settle() {
	for _, s := range b.sessions {
		for _, ch := range s.channels {
			for _, tag := range ch.owed {
				ch.send(call091(basicAck).u64(tag).u8(0))
			}
			ch.owed = nil
		}
	}
}

func (b *double) depth(name string) (ready, dead, taken int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	for _, s := range b.sessions {
		for _, ch := range s.channels {
			for _, u := range ch.unacked {
				if u.queue == q {
					taken++
				}
			}
		}
	}
	return len(q.messages), len(q.dead), taken
}

func (b *double) serve(conn net.Conn) {
	defer conn.Close()
	s := &session{broker: b, conn: conn, channels: map[uint16]*doubleChannel{}}
	r := bufio.NewReader(conn)
	if err := s.greet(r); err != nil {
		return
	}
	b.mu.Lock()
	b.sessions = append(b.sessions, s)
	b.mu.Unlock()
	for {
		f, err := readWire(r)
		if err != nil {
			break
		}
		b.mu.Lock()
		over := s.frame(f)
		b.mu.Unlock()
		if over {
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions = slices.DeleteFunc(b.sessions, func(x *session) bool { return x == s })
	for _, ch := range s.channels {
		ch.end()
	}
}

func (s *session) write(b []byte) { _, _ = s.conn.Write(b) }

func (s *session) method(m *method) { s.write(wireFrame{frameMethod, 0, m.b}.append(nil)) }

// greet does the handshake of a connection (§2.2.4).
func (s *session) greet(r *bufio.Reader) error {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil || !bytes.Equal(head, []byte("AMQP\x00\x00\x09\x01")) {
		return errors.New("protocol header")
	}
	s.method(call091(connStart).u8(0).u8(9).long("").long("PLAIN EXTERNAL").long("en_US"))
	f, err := readWire(r)
	if err != nil {
		return err
	}
	a := args{f.payload[4:]}
	a.long()
	a.short()
	parts := bytes.Split(a.long(), []byte{0})
	if len(parts) != 3 || string(parts[2]) != s.broker.password {
		return errors.New("credentials")
	}
	s.method(call091(connTune).u16(100).u32(128 << 10).u16(60))
	for {
		f, err := readWire(r)
		if err != nil {
			return err
		}
		if binary.BigEndian.Uint32(f.payload) != connOpen {
			continue
		}
		a := args{f.payload[4:]}
		if a.short() != s.broker.vhost {
			s.method(call091(connClose).u16(530).short("NOT_ALLOWED - vhost not found").u32(connOpen))
			_, _ = readWire(r)
			return errors.New("vhost")
		}
		s.method(call091(connOpenOk).short(""))
		return nil
	}
}

// frame handles one frame and reports whether the connection is over.
func (s *session) frame(f wireFrame) (over bool) {
	ch := s.channels[f.channel]
	switch {
	case f.kind == frameBeat:
		return false
	case f.kind == frameMethod && f.channel == 0:
		if binary.BigEndian.Uint32(f.payload) == connClose {
			for _, ch := range s.channels {
				ch.end()
			}
			s.method(call091(connCloseOk))
		}
		return true
	case f.kind == frameMethod && binary.BigEndian.Uint32(f.payload) == chanOpen:
		ch = &doubleChannel{session: s, id: f.channel, unacked: map[uint64]unacked{}}
		s.channels[f.channel] = ch
		ch.send(call091(chanOpenOk).long(""))
		return false
	case ch == nil:
		return true
	case f.kind == frameMethod:
		ch.method(binary.BigEndian.Uint32(f.payload), args{f.payload[4:]})
	case f.kind == frameHeader && ch.incoming != nil:
		ch.expected = binary.BigEndian.Uint64(f.payload[4:])
		ch.incoming.properties = f.payload[12:]
		ch.complete()
	case f.kind == frameBody && ch.incoming != nil:
		ch.incoming.body = append(ch.incoming.body, f.payload...)
		ch.complete()
	}
	return false
}

func (ch *doubleChannel) send(m *method) {
	ch.session.write(wireFrame{frameMethod, ch.id, m.b}.append(nil))
}

func (ch *doubleChannel) sendContent(m *method, msg *doubleMessage) {
	out := wireFrame{frameMethod, ch.id, m.b}.append(nil)
	head := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, uint64(len(msg.body)))
	out = wireFrame{frameHeader, ch.id, append(head, msg.properties...)}.append(out)
	for part := range slices.Chunk(msg.body, 128<<10-8) {
		out = wireFrame{frameBody, ch.id, part}.append(out)
	}
	ch.session.write(out)
}

// refuse closes the channel.
func (ch *doubleChannel) refuse(code uint16, why string) {
	ch.closing = true
	ch.send(call091(chanClose).u16(code).short(why).u32(0))
	ch.end()
}

// end gives back what was not acknowledged, to its place in the queue.
func (ch *doubleChannel) end() {
	for _, q := range ch.session.broker.queues {
		q.consumers = slices.DeleteFunc(q.consumers, func(c *doubleConsumer) bool { return c.channel == ch })
	}
	for tag := range ch.unacked {
		ch.requeue(tag)
	}
}

func (ch *doubleChannel) requeue(tag uint64) {
	u := ch.unacked[tag]
	delete(ch.unacked, tag)
	u.message.redelivered = true
	at, _ := slices.BinarySearchFunc(u.queue.messages, u.message.sequence, func(m *doubleMessage, s uint64) int { return int(int64(m.sequence) - int64(s)) })
	u.queue.messages = slices.Insert(u.queue.messages, at, u.message)
	u.queue.dispatch()
}

func (q *doubleQueue) dispatch() {
	for progress := true; progress; {
		progress = false
		for _, c := range q.consumers {
			ch := c.channel
			if len(q.messages) == 0 || ch.prefetch > 0 && len(ch.unacked) >= ch.prefetch {
				continue
			}
			m := q.messages[0]
			q.messages = q.messages[1:]
			ch.tag++
			ch.unacked[ch.tag] = unacked{q, m}
			again := byte(0)
			if m.redelivered {
				again = 1
			}
			ch.sendContent(call091(basicDeliver).short(c.tag).u64(ch.tag).u8(again).short(m.exchange).short(m.key), m)
			progress = true
		}
	}
}
