package gather

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

// countedConn counts writes.
type countedConn struct {
	net.Conn

	writes int
}

// Write implements net.Conn.
func (c *countedConn) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}

// Several writes of the library are one of the socket.
func TestConnGathers(t *testing.T) {
	near, far := net.Pipe()
	group := run.NewGroup(t.Context())
	group.Go("reader", func(context.Context) error { _, err := io.Copy(io.Discard, far); return err })
	counted := &countedConn{Conn: near}
	p := NewConn(counted)
	write := func(n, size, want int) {
		t.Helper()
		before := counted.writes
		for range n {
			if _, err := p.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		if got := counted.writes - before; got != want {
			t.Errorf("%d writes, want %d", got, want)
		}
	}
	write(3, 10, 3)
	p.Hold()
	p.Hold()
	p.wait = time.Hour // what is late comes below
	write(100, 10, 0)
	p.Release()
	write(10, 10, 0) // the other one holds
	write(1, flushBytes, 1)
	p.wait = flushAfter
	write(1, 10, 0)
	for limit := time.Now().Add(5 * time.Second); ; <-time.After(time.Millisecond) {
		p.mu.Lock()
		held := len(p.buf)
		p.mu.Unlock()
		if held == 0 {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("it was never written")
		}
	}
	p.Release()
	write(1, 1, 1)
	p.Abort()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// Batches keep the order and their bounds.
func TestBatches(t *testing.T) {
	a := NewBatches[int](3)
	for i := range 7 {
		a.Add(&message.Message{Payload: make([]byte, 10)}, i)
	}
	a.Add(&message.Message{Payload: make([]byte, batchBytes)}, 7)
	next := 0
	for _, want := range []int{3, 3, 1, 1} {
		b, more := a.Take()
		if len(b.Marks) != want || b.Batch.Len() != want || b.Marks[0] != next || !more {
			t.Errorf("%d messages from %d, want %d from %d", len(b.Marks), b.Marks[0], want, next)
		}
		next += want
		a.Recycle(b)
	}
	if b, more := a.Take(); b != nil || !more {
		t.Error("there is more than was added")
	}
	a.Finish()
	if _, more := a.Take(); more {
		t.Error("it does not end")
	}
}
