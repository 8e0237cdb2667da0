// Package lines is what the connectors that carry one message a line have in
// common: cutting a stream of bytes into lines, and writing payloads as lines.
package lines

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/linkspan/linkspan/message"
)

const (
	// ReadSize is how much is read at once, in bytes.
	ReadSize = 256 << 10
	// BatchSize is the largest number of lines in one batch.
	BatchSize = 512
	// defaultMax is the longest line when the queue does not say.
	defaultMax = 1 << 20
)

// TooLongError is a line that no message can hold. It is not skipped: that would be
// a loss that nobody sees.
type TooLongError struct {
	// Offset is where the line starts, in bytes.
	Offset int64
	// Max is the limit in bytes.
	Max int64
}

// Error implements error.
func (e *TooLongError) Error() string {
	return fmt.Sprintf("LS4302: the line at byte %d is longer than the largest message, %d bytes; raise the limit or cut the line", e.Offset, e.Max)
}

// Find returns the length of the first record in data including what ends it, or 0
// when its end is not there yet.
type Find func(data []byte) int

// Line is the Find of lines that end with LF.
func Line(data []byte) int { return bytes.IndexByte(data, '\n') + 1 }

// Cutter cuts bytes into records. Records are slices of its buffer and valid until
// more is added.
type Cutter struct {
	find Find
	max  int64
	buf  []byte
	pos  int
	// start is the offset of buf[0].
	start int64
	// seen is how much after pos is known to have no end, so that a long record is not
	// searched again and again.
	seen int
}

// NewCutter returns a Cutter for records of at most maxSize bytes; 0: 1 MiB.
func NewCutter(find Find, maxSize int64) *Cutter {
	if maxSize <= 0 {
		maxSize = defaultMax
	}
	return &Cutter{find: find, max: maxSize}
}

// Reset forgets everything and goes on at offset.
func (c *Cutter) Reset(offset int64) {
	c.buf, c.pos, c.start, c.seen = c.buf[:0], 0, offset, 0
}

// Offset is where the next record starts.
func (c *Cutter) Offset() int64 { return c.start + int64(c.pos) }

// Pending is the number of bytes that are not cut yet.
func (c *Cutter) Pending() int { return len(c.buf) - c.pos }

func (c *Cutter) compact() {
	c.start += int64(c.pos)
	n := copy(c.buf, c.buf[c.pos:])
	c.buf, c.pos = c.buf[:n], 0
}

// Write adds a copy of data.
func (c *Cutter) Write(data []byte) {
	c.compact()
	c.buf = append(c.buf, data...)
}

// Fill reads once, up to ReadSize bytes.
func (c *Cutter) Fill(r io.Reader) (int, error) {
	c.compact()
	if cap(c.buf)-len(c.buf) < ReadSize {
		bigger := make([]byte, len(c.buf), max(2*len(c.buf), len(c.buf)+ReadSize))
		copy(bigger, c.buf)
		c.buf = bigger
	}
	n, err := r.Read(c.buf[len(c.buf) : len(c.buf)+ReadSize])
	c.buf = c.buf[:len(c.buf)+n]
	return n, err
}

// Next returns the next complete record without its line end. Ok is false when
// there is none.
func (c *Cutter) Next() (record []byte, ok bool, err error) {
	rest := c.buf[c.pos:]
	if len(rest) == c.seen {
		return nil, false, nil
	}
	n := c.find(rest)
	if size := int64(n); size > c.max+2 || n == 0 && int64(len(rest)) > c.max+2 {
		return nil, false, &TooLongError{Offset: c.Offset(), Max: c.max}
	}
	if n == 0 {
		c.seen = len(rest)
		return nil, false, nil
	}
	c.pos, c.seen = c.pos+n, 0
	return TrimEnd(rest[:n:n]), true, nil
}

// Rest returns what is left as the last record. Ok is false when nothing is.
func (c *Cutter) Rest() (record []byte, ok bool) {
	rest := c.buf[c.pos:]
	c.pos, c.seen = len(c.buf), 0
	return TrimEnd(rest), len(rest) > 0
}

// TrimEnd cuts LF or CRLF.
func TrimEnd(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}

// Keys is a set of ordering keys. The zero value is empty.
type Keys map[string]struct{}

// Has reports whether key is in the set. A message without a key never is.
func (k Keys) Has(key []byte) bool {
	_, ok := k[string(key)]
	return ok && key != nil
}

// Add puts a key into the set; nil, which orders nothing, is left out.
func (k *Keys) Add(key []byte) {
	if key == nil {
		return
	}
	if *k == nil {
		*k = Keys{}
	}
	(*k)[string(key)] = struct{}{}
}

// Append writes each payload as one line. A payload with a line break is written
// compact when it is JSON, where the break means nothing, and refused when it is
// not. Later messages of the same key then wait.
func Append(buf *bytes.Buffer, b *message.Batch) (failed []message.Failed) {
	var refused Keys
	for i := range b.Messages {
		payload := b.Messages[i].Payload
		if refused.Has(b.Messages[i].Key) {
			failed = append(failed, message.Failed{Index: i, Err: message.ErrBehind})
			continue
		}
		if bytes.IndexByte(payload, '\n') < 0 {
			buf.Write(payload)
			buf.WriteByte('\n')
			continue
		}
		size := buf.Len()
		if err := json.Compact(buf, payload); err != nil {
			buf.Truncate(size)
			refused.Add(b.Messages[i].Key)
			failed = append(failed, message.Failed{Index: i, Err: &message.Reason{
				Code: "LS4301", Text: "the payload has a line break and is not JSON, so it cannot be one line", Permanent: true,
			}})
			continue
		}
		buf.WriteByte('\n')
	}
	return failed
}

// Partial returns nil, or the failures as an error.
func Partial(failed []message.Failed) error {
	if len(failed) == 0 {
		return nil
	}
	return &message.PartialError{Failed: failed}
}

// Taken returns how many messages at the start of a batch of n were taken over,
// given what the hand-over returned.
func Taken(err error, n int) int {
	var partial *message.PartialError
	switch {
	case err == nil:
		return n
	case !errors.As(err, &partial):
		return 0
	}
	for _, f := range partial.Failed {
		n = min(n, f.Index)
	}
	return n
}
