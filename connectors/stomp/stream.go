package stomp

import (
	"bytes"
	"io"

	"github.com/go-stomp/stomp/v3/frame"
)

const (
	// idleBuffer is what a connection keeps while nothing arrives; busyBuffer is what
	// it grows to when reads fill it.
	idleBuffer = 2 << 10
	busyBuffer = 64 << 10
	// maxHead is what the command and headers of a frame may have, in bytes.
	maxHead = 64 << 10
)

// limits bound a frame, in bytes and headers.
type limits struct {
	head, headers, body int
}

// stream cuts bytes into frames. The buffer grows as bytes arrive, never by what a
// header claims, and never far beyond the largest frame. What was searched once is not
// searched again, however slowly bytes come.
type stream struct {
	from    io.Reader
	version version
	// escapes is the version whose escapes are undone.
	escapes version
	limits  limits
	// crlf: lines may end with CRLF.
	crlf bool
	// sawCRLF: the command of the last frame did.
	sawCRLF bool

	buf  []byte
	r, w int

	// These are of the frame that is being read, and count from r: how far it was
	// searched, where its current line starts, how many lines it has, where its body
	// starts (0: not known), how long that is (-1: NUL ends it).
	scanned, line, lines, head, length int

	fields []string
	header frame.Header
	frame  frame.Frame
}

// next returns a frame that has arrived completely. Ok is false when more bytes are
// needed. The frame and its body are valid until the next call of next or fill; its
// strings stay.
func (s *stream) next() (f *frame.Frame, ok bool, err error) {
	if s.head == 0 {
		if ok, err := s.findHead(); !ok || err != nil {
			return nil, false, err
		}
		if err := s.parse(); err != nil {
			return nil, false, err
		}
	}
	end, err := s.findEnd()
	if end < 0 || err != nil {
		return nil, false, err
	}
	s.frame.Header, s.frame.Body = &s.header, s.buf[s.r+s.head:s.r+end:s.r+end]
	s.r += end + 1
	s.scanned, s.line, s.lines, s.head = 0, 0, 0, 0
	return &s.frame, true, nil
}

// pending is how much of an unfinished frame is there, in bytes.
func (s *stream) pending() int { return s.w - s.r }

// oversized returns the frame whose body was found to be too large, after next has
// failed for that, without its body. Nothing can be read after it.
func (s *stream) oversized() (f *frame.Frame, ok bool) {
	s.frame.Header, s.frame.Body = &s.header, nil
	return &s.frame, s.head > 0
}

// findHead looks for the empty line that ends the headers. Line ends before the
// command are heart-beats.
func (s *stream) findHead() (ok bool, err error) {
	b := s.buf[s.r:s.w]
	for {
		i := bytes.IndexByte(b[s.scanned:], '\n')
		if i < 0 {
			s.scanned = len(b)
			if len(b) > s.limits.head {
				return false, tooMuch("the headers are larger than the limit")
			}
			return false, nil
		}
		end := s.scanned + i
		line := b[s.line:end]
		s.scanned, s.line = end+1, end+1
		empty, cr := len(line) == 0, len(line) == 1 && line[0] == '\r'
		switch {
		case s.lines == 0 && (empty || cr):
			s.r += end + 1
			s.scanned, s.line, b = 0, 0, s.buf[s.r:s.w]
			continue
		case end > s.limits.head:
			return false, tooMuch("the headers are larger than the limit")
		case empty || s.crlf && cr:
			s.head = end + 1
			return true, nil
		}
		if s.lines++; s.lines > s.limits.headers+1 {
			return false, tooMuch("more headers than the limit")
		}
	}
}

func (s *stream) parse() (err error) {
	head, cr := s.buf[s.r:s.r+s.head], ""
	if s.crlf {
		cr = "\r"
	}
	s.sawCRLF = s.crlf && bytes.HasSuffix(head, []byte("\r\n"))
	s.frame.Command, s.fields, err = parseHead(head, s.escapes, cr, s.fields[:0])
	if err != nil {
		return err
	}
	s.header = *frame.NewHeader(s.fields...)
	clear(s.fields)
	s.length, err = bodyLength(&s.header, s.limits.body)
	return err
}

// findEnd returns where the NUL is that ends the frame; -1: it has not come yet.
func (s *stream) findEnd() (int, error) {
	b := s.buf[s.r:s.w]
	if s.length >= 0 {
		end := s.head + s.length
		switch {
		case len(b) <= end:
			return -1, nil
		case b[end] != 0:
			return -1, malformed("no NUL after the body")
		}
		return end, nil
	}
	i := bytes.IndexByte(b[s.scanned:], 0)
	size := s.scanned + i - s.head
	if i < 0 {
		s.scanned = len(b)
		size = len(b) - s.head
	}
	switch {
	case size > s.limits.body:
		return -1, tooMuch("the frame is larger than the limit")
	case i < 0:
		return -1, nil
	}
	return s.head + size, nil
}

// fill reads once.
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
