package mqtt

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// idleBuffer is what a connection keeps while nothing arrives; busyBuffer is what
	// it grows to when reads fill it.
	idleBuffer = 2 << 10
	busyBuffer = 64 << 10
	// writeTimeout ends a connection whose peer does not read.
	writeTimeout = 10 * time.Second
	// quietAfter is how long a connection keeps a grown buffer.
	quietAfter = time.Second
)

// stream cuts bytes into packets. The buffer grows as bytes arrive, never by what a
// header claims, and never far beyond the largest packet.
type stream struct {
	from io.Reader
	// max is the largest packet, in bytes.
	max  int
	buf  []byte
	r, w int
}

// next returns a packet that has arrived completely. Ok is false when more bytes
// are needed.
func (s *stream) next() (p packet, ok bool, err error) {
	b := s.buf[s.r:s.w]
	if len(b) < 2 {
		return packet{}, false, nil
	}
	length, n := varint(b[1:])
	switch {
	case n < 0:
		return packet{}, false, malformed("remaining length")
	case n == 0:
		return packet{}, false, nil
	case 1+n+length > s.max:
		return packet{}, false, &protocolError{reasonPacketTooLarge, "the packet is larger than the limit"}
	case len(b) < 1+n+length:
		return packet{}, false, nil
	}
	s.r += 1 + n + length
	return packet{first: b[0], body: b[1+n : 1+n+length]}, true, nil
}

// peek returns the first byte of the next packet, if it has arrived.
func (s *stream) peek() (first byte, ok bool) {
	if s.r == s.w {
		return 0, false
	}
	return s.buf[s.r], true
}

// fill reads once. Packets returned before are no longer valid.
func (s *stream) fill() error {
	switch {
	case s.r == s.w:
		s.r, s.w = 0, 0
		if s.buf == nil || len(s.buf) > busyBuffer {
			s.buf = make([]byte, idleBuffer)
		}
	case s.r > 0 && s.w == len(s.buf):
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
	if s.w == len(s.buf) {
		s.grow()
	}
	n, err := s.from.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		// An error with bytes comes again with the next read.
		if s.w == len(s.buf) && len(s.buf) < busyBuffer {
			s.grow()
		}
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

func (s *stream) grow() {
	bigger := make([]byte, 2*len(s.buf))
	s.w = copy(bigger, s.buf[s.r:s.w])
	s.buf, s.r = bigger, 0
}

// rest gives the buffer up while nothing is in it and the connection is quiet.
func (s *stream) rest() {
	if s.r == s.w && len(s.buf) > idleBuffer {
		s.buf, s.r, s.w = nil, 0, 0
	}
}

// link is one connection, on either side. One goroutine reads, any may write.
type link struct {
	conn    net.Conn
	stream  stream
	version byte

	write sync.Mutex
	// wrote is when something was sent last, in Unix milliseconds.
	wrote atomic.Int64

	deadline sync.Mutex
	// stopped means that reads end at once.
	stopped bool
}

func newLink(conn net.Conn, maxPacket int) *link {
	return &link{conn: conn, stream: stream{from: conn, max: maxPacket}}
}

func (l *link) send(b []byte) error {
	l.write.Lock()
	defer l.write.Unlock()
	now := time.Now()
	if err := l.conn.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
		return err
	}
	l.wrote.Store(now.UnixMilli())
	_, err := l.conn.Write(b)
	return err
}

// stop ends the read under way and all later ones. What was read stays readable
// through next.
func (l *link) stop() {
	l.deadline.Lock()
	defer l.deadline.Unlock()
	l.stopped = true
	// It fails on a closed connection only, where reads have ended.
	_ = l.conn.SetReadDeadline(time.Unix(1, 0))
}

// readWithin bounds the next read. Zero: no bound.
func (l *link) readWithin(d time.Duration) error {
	l.deadline.Lock()
	defer l.deadline.Unlock()
	if l.stopped {
		return nil
	}
	if d == 0 {
		return l.conn.SetReadDeadline(time.Time{})
	}
	return l.conn.SetReadDeadline(time.Now().Add(d))
}

// pump gives every packet to handle until one fails or the connection ends. Quiet
// is called whenever all that has arrived was handled. Silence is the longest wait
// for a byte; zero: no bound.
func (l *link) pump(silence time.Duration, handle func(packet) error, quiet func()) error {
	for {
		p, ok, err := l.stream.next()
		if err != nil {
			return err
		}
		if ok {
			if err := p.checkFlags(); err != nil {
				return err
			}
			if err := handle(p); err != nil {
				return err
			}
			continue
		}
		quiet()
		if err := l.await(silence); err != nil {
			return err
		}
	}
}

// await reads once. A connection that goes quiet gives up its large buffer.
func (l *link) await(silence time.Duration) error {
	if len(l.stream.buf) > idleBuffer && (silence == 0 || silence > quietAfter) {
		if err := l.readWithin(quietAfter); err != nil {
			return err
		}
		err := l.stream.fill()
		if !isTimeout(err) {
			return err
		}
		l.stream.rest()
		silence = max(0, silence-quietAfter)
	}
	if err := l.readWithin(silence); err != nil {
		return err
	}
	return l.stream.fill()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
