// Package gather is what the connectors over frame-by-frame libraries have in common:
// writing many frames at once, and handing on many messages at once.
package gather

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// flushBytes is how much is gathered before it is written.
const flushBytes = 64 << 10

// flushAfter is how long written bytes are held at most, so that whoever holds may wait
// for an answer to what it wrote.
const flushAfter = time.Millisecond

// Conn is the socket below a library that writes every frame by itself. While it is held,
// what is written gathers.
type Conn struct {
	net.Conn

	broken atomic.Pointer[error]

	mu      sync.Mutex
	holders int
	buf     []byte
	late    *time.Timer
	wait    time.Duration
}

// NewConn returns a Conn over a socket.
func NewConn(conn net.Conn) *Conn { return &Conn{Conn: conn, wait: flushAfter} }

// Read implements net.Conn, and keeps the first failure.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.broken.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Failure returns the first failure to read, if there was one.
func (c *Conn) Failure() error {
	if err := c.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders == 0 && len(c.buf) == 0 {
		return c.Conn.Write(b)
	}
	if len(c.buf) == 0 {
		c.later()
	}
	c.buf = append(c.buf, b...)
	if c.holders == 0 || len(c.buf) >= flushBytes {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (c *Conn) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// later sees to it that what gathers is written soon.
func (c *Conn) later() {
	if c.late == nil {
		c.late = time.AfterFunc(c.wait, c.Flush)
		return
	}
	c.late.Reset(c.wait)
}

// Hold lets writes gather.
func (c *Conn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders++
}

// Flush writes what has gathered, while others may go on to hold.
func (c *Conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flush() != nil {
		c.Abort()
	}
}

// Release writes what has gathered. Others may go on to hold.
func (c *Conn) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders--
	if c.flush() != nil {
		c.Abort()
	}
}

// Abort ends the socket at once. What waits for it fails.
func (c *Conn) Abort() { _ = c.Close() }
