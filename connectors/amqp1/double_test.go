package amqp1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/linkspan/linkspan/internal/run"
)

// double is a peer for tests, in this process: queues in memory, and outcomes that tests
// choose.
type double struct {
	ln    net.Listener
	group *run.Group

	mu       sync.Mutex
	queues   map[string]*doubleQueue
	conns    map[*doubleConn]bool
	sequence uint64
	// outcome, when it is set, is the state that a message gets instead of accepted.
	outcome func(address string) any
	// credit is what each sender gets at first.
	credit uint32
	// kill says which messages make the peer end the link.
	kill func(body []byte) bool
}

type doubleQueue struct {
	messages []doubleMessage
	links    []*doubleLink
	rejected int
}

type doubleMessage struct {
	sequence uint64
	body     []byte
}

type doubleConn struct {
	peer  *double
	conn  net.Conn
	links map[[2]uint32]*doubleLink
	// next is the next delivery-id per channel.
	next map[uint16]uint32
	// unsettled are the deliveries without an outcome, per channel and delivery-id.
	unsettled map[[2]uint32]delivery
}

type delivery struct {
	queue   *doubleQueue
	message doubleMessage
}

type doubleLink struct {
	conn     *doubleConn
	channel  uint16
	handle   uint32
	address  string
	queue    *doubleQueue
	receives bool // the peer does
	count    uint32
	credit   uint32
	partial  []byte
	id       uint32
}

func startDouble(t testing.TB) *double {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &double{ln: ln, group: run.NewGroup(context.Background()), queues: map[string]*doubleQueue{}, conns: map[*doubleConn]bool{}, credit: 100}
	d.group.Go("peer", func(context.Context) error {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return nil
			}
			d.group.Go("connection", func(context.Context) error { d.serve(conn); return nil })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		d.cut()
		if err := d.group.Wait(); err != nil {
			t.Errorf("peer: %v", err)
		}
	})
	return d
}

func (d *double) peer() peer { return peer{"amqp://" + d.ln.Addr().String(), "u", "p"} }

// cut ends all connections.
func (d *double) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.conn.Close()
	}
}

func (d *double) queue(name string) *doubleQueue {
	if d.queues[name] == nil {
		d.queues[name] = &doubleQueue{}
	}
	return d.queues[name]
}

// detach ends the links to an address.
func (d *double) detach(address, condition string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		for _, l := range c.links {
			if l.address == address {
				c.send(l.channel, pDetach, []any{l.handle, true, described{pError, []any{symbol(condition), "by the test"}}}, nil)
				l.end()
			}
		}
	}
}

func (d *double) serve(conn net.Conn) {
	defer conn.Close()
	c := &doubleConn{peer: d, conn: conn, links: map[[2]uint32]*doubleLink{}, next: map[uint16]uint32{}, unsettled: map[[2]uint32]delivery{}}
	r := bufio.NewReader(conn)
	if c.greet(r) != nil {
		return
	}
	d.mu.Lock()
	d.conns[c] = true
	d.mu.Unlock()
	for over := false; !over; {
		channel, code, f, payload, err := readWire(r)
		if err != nil {
			break
		}
		d.mu.Lock()
		over = c.frame(channel, code, f, payload)
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c.end()
	delete(d.conns, c)
}

// end gives back what has no outcome.
func (c *doubleConn) end() {
	for _, l := range c.links {
		l.end()
	}
	for id := range c.unsettled {
		c.giveBack(id)
	}
	for _, q := range c.peer.queues {
		q.dispatch()
	}
}

func (c *doubleConn) send(channel uint16, code uint64, list []any, payload []byte) {
	_, _ = c.conn.Write(wireFrame(0, channel, code, list, payload))
}

// greet does the layers (part 5 §5.3, part 2 §2.2).
func (c *doubleConn) greet(r *bufio.Reader) error {
	head := make([]byte, 8)
	for _, want := range []string{"AMQP\x03\x01\x00\x00", "AMQP\x00\x01\x00\x00"} {
		if _, err := io.ReadFull(r, head); err != nil || string(head) != want {
			return errors.New("protocol header")
		}
		_, _ = c.conn.Write(head)
		if want[4] == 0 {
			return nil
		}
		_, _ = c.conn.Write(wireFrame(1, 0, pMechanisms, []any{symbol("PLAIN")}, nil))
		_, code, f, _, err := readWire(r)
		if err != nil || code != pInit {
			return errors.New("sasl")
		}
		response, _ := f.at(1).([]byte)
		outcome := uint8(0)
		if !bytes.Equal(response, []byte("\x00u\x00p")) {
			outcome = 1
		}
		_, _ = c.conn.Write(wireFrame(1, 0, pOutcome, []any{outcome}, nil))
	}
	return nil
}

// frame handles one frame and reports whether the connection is over.
func (c *doubleConn) frame(channel uint16, code uint64, f fields, payload []byte) (over bool) {
	link := c.links[[2]uint32{uint32(channel), f.number(0)}]
	switch code {
	case pOpen:
		c.send(0, pOpen, []any{"double", nil, uint32(65536), uint16(255)}, nil)
	case pBegin:
		c.send(channel, pBegin, []any{channel, uint32(0), uint32(1 << 20), uint32(1 << 20)}, nil)
	case pAttach:
		c.attach(channel, f)
	case pFlow:
		if l := c.links[[2]uint32{uint32(channel), f.number(4)}]; l != nil && f.at(4) != nil && !l.receives {
			l.credit = f.number(5) + f.number(6) - l.count
			l.queue.dispatch()
		}
	case pTransfer:
		if link != nil {
			link.transfer(f, payload)
		}
	case pDisposition:
		c.disposition(channel, f)
	case pDetach:
		if link != nil {
			link.end()
			c.send(channel, pDetach, []any{link.handle, true}, nil)
		}
	case pEnd:
		c.send(channel, pEnd, nil, nil)
	case pClose:
		c.end()
		c.send(0, pClose, nil, nil)
		return true
	}
	return false
}

func (c *doubleConn) attach(channel uint16, f fields) {
	l := &doubleLink{conn: c, channel: channel, handle: f.number(1), receives: !f.flag(2)}
	l.address = f.address(5)
	if l.receives {
		l.address = f.address(6)
	}
	if l.address == "denied" {
		c.send(channel, pAttach, []any{f.at(0), l.handle, l.receives}, nil)
		c.send(channel, pDetach, []any{l.handle, true, described{pError, []any{symbol("amqp:unauthorized-access"), "not for you"}}}, nil)
		return
	}
	c.links[[2]uint32{uint32(channel), l.handle}] = l
	l.queue = c.peer.queue(l.address)
	node := []any{l.address}
	c.send(channel, pAttach, []any{f.at(0), l.handle, l.receives, uint8(2), uint8(0), described{0x28, node}, described{0x29, node}, nil, nil, uint32(0)}, nil)
	if l.receives {
		l.grant()
		return
	}
	l.queue.links = append(l.queue.links, l)
}

// grant gives credit up to what a sender has.
func (l *doubleLink) grant() {
	l.credit = l.conn.peer.credit
	l.conn.send(l.channel, pFlow, []any{uint32(0), uint32(1 << 30), uint32(0), uint32(1 << 20), l.handle, l.count, l.credit}, nil)
}

func (l *doubleLink) end() {
	delete(l.conn.links, [2]uint32{uint32(l.channel), l.handle})
	l.queue.links = slices.DeleteFunc(l.queue.links, func(x *doubleLink) bool { return x == l })
}

// transfer takes a part of a message, and settles it with the last one.
func (l *doubleLink) transfer(f fields, payload []byte) {
	if f.at(1) != nil {
		l.id = f.number(1)
	}
	l.partial = append(l.partial, payload...)
	if f.flag(5) {
		return
	}
	body := l.partial
	l.partial = nil
	l.count++
	if d := l.conn.peer; d.kill != nil && d.kill(body) {
		l.conn.send(l.channel, pDetach, []any{l.handle, true, described{pError, []any{symbol("amqp:precondition-failed"), "secret words"}}}, nil)
		l.end()
		return
	}
	var state any = described{pAccepted, []any{}}
	if d := l.conn.peer; d.outcome != nil && d.outcome(l.address) != nil {
		state = d.outcome(l.address)
	} else {
		d.sequence++
		l.queue.messages = append(l.queue.messages, doubleMessage{d.sequence, body})
		l.queue.dispatch()
	}
	if !f.flag(4) {
		l.conn.send(l.channel, pDisposition, []any{true, l.id, l.id, true, state}, nil)
	}
	if l.credit--; l.credit == 0 {
		l.grant()
	}
}

func (q *doubleQueue) dispatch() {
	for progress := true; progress; {
		progress = false
		for _, l := range q.links {
			if l.credit == 0 || len(q.messages) == 0 {
				continue
			}
			m := q.messages[0]
			q.messages = q.messages[1:]
			c := l.conn
			id := c.next[l.channel]
			c.next[l.channel]++
			c.unsettled[[2]uint32{uint32(l.channel), id}] = delivery{q, m}
			l.credit--
			l.count++
			parts := slices.Collect(slices.Chunk(m.body, 60000))
			for i, part := range parts {
				c.send(l.channel, pTransfer, []any{l.handle, id, []byte{1}, uint32(0), false, i < len(parts)-1}, part)
			}
			progress = true
		}
	}
}

func (c *doubleConn) disposition(channel uint16, f fields) {
	last := f.number(1)
	if f.at(2) != nil {
		last = f.number(2)
	}
	state, _ := f.at(4).(described)
	for id := f.number(1); id <= last; id++ {
		key := [2]uint32{uint32(channel), id}
		u, ok := c.unsettled[key]
		switch {
		case !ok:
		case state.code == pAccepted:
			delete(c.unsettled, key)
		case state.code == pRejected:
			delete(c.unsettled, key)
			u.queue.rejected++
		default:
			c.giveBack(key)
			u.queue.dispatch()
		}
	}
}

func (c *doubleConn) giveBack(key [2]uint32) {
	u := c.unsettled[key]
	delete(c.unsettled, key)
	at, _ := slices.BinarySearchFunc(u.queue.messages, u.message.sequence, func(m doubleMessage, s uint64) int { return int(int64(m.sequence) - int64(s)) })
	u.queue.messages = slices.Insert(u.queue.messages, at, u.message)
}
