package stomp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// double is a broker for tests, written apart from the package: it has its own reader
// and writer of frames. It keeps what is sent to it, by destination, and gives it to
// subscribers; what they do not acknowledge comes again.
type double struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	opts   doubleOptions
	queues map[string][]*doubleMessage
	conns  map[*doubleConn]bool
	// sent is everything that came with SEND and was taken.
	sent    []*doubleMessage
	nacked  []*doubleMessage
	number  int
	changed chan struct{}
	frames  []doubleFrame
}

type doubleOptions struct {
	versions string // those that it speaks
	password string
	beat     string // its heart-beat header
	// anonymous: an ERROR about a SEND names no receipt, and ends the connection.
	anonymous bool
	// eager: a receipt in a transaction goes out before COMMIT; else after it.
	eager bool
	// silent: nothing is confirmed.
	silent bool
	// full: a SEND is refused for lack of room.
	full bool
}

type doubleMessage struct {
	destination string
	headers     [][2]string
	body        []byte
	deliveries  int
}

type doubleFrame struct {
	command string
	headers [][2]string
	body    []byte
}

func (f doubleFrame) get(name string) string {
	for _, h := range f.headers {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

func (f doubleFrame) has(name string) bool {
	for _, h := range f.headers {
		if h[0] == name {
			return true
		}
	}
	return false
}

func startDouble(t testing.TB, addr string, o doubleOptions) *double {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if o.versions == "" {
		o.versions = "1.0,1.1,1.2"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	d := &double{ln: ln, opts: o, queues: map[string][]*doubleMessage{}, conns: map[*doubleConn]bool{}, changed: make(chan struct{}, 1)}
	d.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.serve(conn) })
		}
	})
	t.Cleanup(d.stop)
	return d
}

func (d *double) addr() string { return d.ln.Addr().String() }

func (d *double) stop() {
	_ = d.ln.Close()
	d.cut()
	d.wg.Wait()
}

// cut drops every connection.
func (d *double) cut() {
	d.mu.Lock()
	for c := range d.conns {
		_ = c.conn.Close()
	}
	d.mu.Unlock()
}

func (d *double) with(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// wait polls until done says so.
func (d *double) wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		d.mu.Lock()
		ok := done()
		d.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-d.changed:
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			t.Fatalf("%s did not happen", what)
		}
	}
}

func (d *double) put(m *doubleMessage) {
	d.with(func() {
		d.queues[m.destination] = append(d.queues[m.destination], m)
		d.deliver()
	})
}

type doubleConn struct {
	d       *double
	conn    net.Conn
	version string
	subs    []*doubleSub
	txs     map[string][]doubleFrame
	broken  map[string]bool
	write   sync.Mutex
}

type doubleSub struct {
	id, destination, mode string
	prefetch              int
	unacked               []doubleUnacked
}

type doubleUnacked struct {
	id string
	m  *doubleMessage
}

func (d *double) serve(conn net.Conn) {
	c := &doubleConn{d: d, conn: conn, txs: map[string][]doubleFrame{}, broken: map[string]bool{}}
	d.with(func() { d.conns[c] = true })
	defer func() {
		_ = conn.Close()
		d.with(func() {
			delete(d.conns, c)
			for _, s := range c.subs {
				var back []*doubleMessage
				for _, u := range s.unacked {
					back = append(back, u.m)
				}
				d.queues[s.destination] = append(back, d.queues[s.destination]...)
			}
			d.deliver()
		})
	}()
	r := bufio.NewReader(conn)
	for {
		f, err := c.read(r)
		if err != nil || !c.handle(f) {
			return
		}
	}
}

func (c *doubleConn) read(r *bufio.Reader) (f doubleFrame, err error) {
	line := ""
	for line == "" {
		if line, err = r.ReadString('\n'); err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
	}
	f.command = line
	undo := strings.NewReplacer()
	switch {
	case f.command == "CONNECT":
	case c.version == "1.1":
		undo = strings.NewReplacer(`\n`, "\n", `\c`, ":", `\\`, `\`)
	case c.version == "1.2":
		undo = strings.NewReplacer(`\n`, "\n", `\c`, ":", `\\`, `\`, `\r`, "\r")
	}
	length := -1
	for {
		if line, err = r.ReadString('\n'); err != nil {
			return f, err
		}
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		f.headers = append(f.headers, [2]string{undo.Replace(name), undo.Replace(value)})
		if name == "content-length" {
			length, _ = strconv.Atoi(value)
		}
	}
	if length < 0 {
		body, err := r.ReadBytes(0)
		if err != nil {
			return f, err
		}
		f.body = body[:len(body)-1]
		return f, nil
	}
	f.body = make([]byte, length+1)
	if _, err = io.ReadFull(r, f.body); err == nil && f.body[length] != 0 {
		err = fmt.Errorf("no NUL")
	}
	f.body = f.body[:length]
	return f, err
}

func (c *doubleConn) send(command string, body []byte, headers ...string) {
	do := strings.NewReplacer()
	switch {
	case command == "CONNECTED":
	case c.version == "1.1":
		do = strings.NewReplacer("\n", `\n`, ":", `\c`, `\`, `\\`)
	case c.version == "1.2":
		do = strings.NewReplacer("\n", `\n`, ":", `\c`, `\`, `\\`, "\r", `\r`)
	}
	var b bytes.Buffer
	b.WriteString(command + "\n")
	for i := 0; i < len(headers); i += 2 {
		b.WriteString(do.Replace(headers[i]) + ":" + do.Replace(headers[i+1]) + "\n")
	}
	b.WriteString("\n")
	b.Write(body)
	b.WriteByte(0)
	b.WriteByte('\n')
	c.write.Lock()
	defer c.write.Unlock()
	_, _ = c.conn.Write(b.Bytes())
}

func (c *doubleConn) fail(f doubleFrame, text string) bool {
	if id := f.get("receipt"); id != "" && !c.d.opts.anonymous {
		c.send("ERROR", []byte("at some.java.Class"), "message", text, "receipt-id", id)
		return true
	}
	c.send("ERROR", nil, "message", text)
	return false
}

func (c *doubleConn) handle(f doubleFrame) bool {
	c.d.with(func() { c.d.frames = append(c.d.frames, f) })
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	switch f.command {
	case "CONNECT":
		return c.connect(f)
	case "SEND":
		if tx := f.get("transaction"); tx != "" {
			if c.d.opts.eager && f.get("destination") == "/queue/forbidden" {
				c.broken[tx] = true
				return c.fail(f, "User app is not authorized to write")
			}
			c.txs[tx] = append(c.txs[tx], f)
			if c.d.opts.eager {
				c.receipt(f)
			}
			return true
		}
		return c.take(f, true)
	case "BEGIN":
		c.txs[f.get("transaction")] = nil
	case "COMMIT":
		if c.broken[f.get("transaction")] {
			return c.fail(f, "COMMIT FAILED: Transaction marked rollback only")
		}
		if !c.d.opts.eager {
			c.receipt(f)
		}
		for _, s := range c.txs[f.get("transaction")] {
			if !c.take(s, !c.d.opts.eager) {
				return false
			}
		}
		delete(c.txs, f.get("transaction"))
		c.d.deliver()
		if c.d.opts.eager {
			c.receipt(f)
		}
		return true
	case "SUBSCRIBE":
		n, _ := strconv.Atoi(f.get("prefetch-count"))
		c.subs = append(c.subs, &doubleSub{id: f.get("id"), destination: f.get("destination"), mode: f.get("ack"), prefetch: n})
		c.d.deliver()
	case "ACK", "NACK":
		if !c.settle(f) {
			c.send("ERROR", nil, "message", "unexpected ack")
			return false
		}
		c.d.deliver()
	case "DISCONNECT":
		c.receipt(f)
		return false
	default:
		return c.fail(f, "unknown command")
	}
	c.receipt(f)
	return true
}

func (c *doubleConn) connect(f doubleFrame) bool {
	o := c.d.opts
	accepts := f.get("accept-version")
	if accepts == "" {
		accepts = "1.0"
	}
	for v := range strings.SplitSeq(accepts, ",") {
		if strings.Contains(o.versions, v) && v > c.version {
			c.version = v
		}
	}
	if o.password != "" && f.get("passcode") != o.password {
		c.send("ERROR", []byte("Access refused for user 'app'"), "message", "Bad CONNECT")
		return true // as RabbitMQ does
	}
	headers := []string{"session", "s1", "server", "double/1"}
	if c.version != "1.0" {
		headers = append(headers, "version", c.version)
	}
	if o.beat != "" {
		headers = append(headers, "heart-beat", o.beat)
	}
	c.send("CONNECTED", nil, headers...)
	return true
}

func (c *doubleConn) receipt(f doubleFrame) {
	if id := f.get("receipt"); id != "" && !c.d.opts.silent {
		c.send("RECEIPT", nil, "receipt-id", id)
	}
}

func (c *doubleConn) take(f doubleFrame, receipt bool) bool {
	switch {
	case c.d.opts.full:
		return c.fail(f, "No space left on device")
	case strings.HasPrefix(f.get("destination"), "/queue/forbidden"):
		return c.fail(f, "access_refused to "+f.get("destination"))
	}
	m := &doubleMessage{destination: f.get("destination"), body: f.body}
	for _, h := range f.headers {
		if h[0] != "destination" && h[0] != "receipt" && h[0] != "transaction" {
			m.headers = append(m.headers, h)
		}
	}
	c.d.sent = append(c.d.sent, m)
	c.d.queues[m.destination] = append(c.d.queues[m.destination], m)
	c.d.deliver()
	if receipt {
		c.receipt(f)
	}
	return true
}

// deliver sends what subscribers have room for. The caller holds the lock.
func (d *double) deliver() {
	for c := range d.conns {
		for _, s := range c.subs {
			for q := d.queues[s.destination]; len(q) > 0 && len(s.unacked) < max(s.prefetch, 1); q = d.queues[s.destination] {
				m := q[0]
				d.queues[s.destination] = q[1:]
				d.number++
				id := fmt.Sprintf(`ID:host\%d`, d.number) // needs escapes
				headers := []string{"subscription", s.id, "destination", m.destination, "message-id", id}
				if c.version == "1.2" {
					headers = append(headers, "ack", "a:"+id)
					id = "a:" + id
				}
				if m.deliveries++; m.deliveries > 1 {
					headers = append(headers, "redelivered", "true")
				}
				for _, h := range m.headers {
					headers = append(headers, h[0], h[1])
				}
				if s.mode != "auto" {
					s.unacked = append(s.unacked, doubleUnacked{id, m})
				}
				c.send("MESSAGE", m.body, headers...)
			}
		}
	}
}

func (c *doubleConn) settle(f doubleFrame) bool {
	id := f.get("message-id")
	if c.version == "1.2" {
		id = f.get("id")
	}
	for _, s := range c.subs {
		if c.version != "1.2" && f.get("subscription") != s.id {
			continue
		}
		for i, u := range s.unacked {
			if u.id != id {
				continue
			}
			if f.command == "NACK" {
				c.d.nacked = append(c.d.nacked, u.m)
			}
			from := i
			if s.mode == "client" {
				from = 0
			}
			s.unacked = append(s.unacked[:from:from], s.unacked[i+1:]...)
			return true
		}
	}
	return false
}
