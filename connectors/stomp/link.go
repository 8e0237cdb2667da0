package stomp

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"github.com/linkspan/linkspan/internal/run"
)

const (
	// writeTimeout ends a connection whose peer does not read.
	writeTimeout = 10 * time.Second
	// quietAfter is how long a connection keeps a grown buffer.
	quietAfter = time.Second
	// frameWithin is how long a frame that has begun may take to arrive, and frameRate
	// what buys it more time, in bytes a second.
	frameWithin = 30 * time.Second
	frameRate   = 16 << 10
	// beatMargin is how much later than twice its interval a heart-beat may come.
	beatMargin = time.Second
	// maxBeat is the longest interval of heart-beats; a peer that says more means never.
	maxBeat = 24 * time.Hour
)

// link is one connection, on either side. One goroutine reads, any may write.
type link struct {
	conn   net.Conn
	stream stream
	// within is how long a frame that has begun may take.
	within time.Duration
	// begun is when the frame that is not complete began. It belongs to the reader.
	begun time.Time

	write sync.Mutex
	// wrote is when something was sent last, in Unix milliseconds.
	wrote atomic.Int64

	deadline sync.Mutex
	// stopped means that reads end at once.
	stopped bool
}

func newLink(conn net.Conn, l limits) *link {
	return &link{conn: conn, stream: stream{from: conn, limits: l, crlf: true}, within: frameWithin}
}

// agree goes on in a version. A peer that ended the lines of its first frame with
// CRLF may go on to do so in any version; 1.2 has it for all.
func (l *link) agree(v version) {
	l.stream.version, l.stream.escapes, l.stream.crlf = v, v, v >= version12 || l.stream.sawCRLF
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

func (l *link) sendFrame(f *frame.Frame) error {
	return l.send(appendFrame(nil, l.stream.version, f))
}

// stop ends the read under way and all later ones. What was read stays readable
// through next.
func (l *link) stop() { l.halt(true) }

// resume lets reads go on after stop.
func (l *link) resume() { l.halt(false) }

func (l *link) halt(stop bool) {
	l.deadline.Lock()
	defer l.deadline.Unlock()
	l.stopped = stop
	if stop {
		// It fails on a closed connection only, where reads have ended.
		_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	}
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

// pump gives every frame to handle until one fails or the connection ends. Quiet is
// called whenever all that has arrived was handled. Silence is the longest wait for a
// byte; zero: no bound.
func (l *link) pump(silence time.Duration, handle func(*frame.Frame) error, quiet func()) error {
	for {
		f, ok, err := l.stream.next()
		if err != nil {
			return err
		}
		if ok {
			l.begun = time.Time{}
			if err := handle(f); err != nil {
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

var errSlow = &wireError{"LS4357", "a frame was not complete in time"}

// await reads once. A connection that goes quiet gives up its large buffer.
func (l *link) await(silence time.Duration) error {
	if pending := l.stream.pending(); pending > 0 {
		left := l.left(pending)
		if left <= 0 {
			return errSlow
		}
		if silence == 0 || left < silence {
			silence = left
		}
		return l.fill(silence)
	}
	if len(l.stream.buf) > idleBuffer && (silence == 0 || silence > quietAfter) {
		if err := l.fill(quietAfter); !isTimeout(err) {
			return err
		}
		l.stream.rest()
		silence = max(0, silence-quietAfter)
	}
	return l.fill(silence)
}

// left is how much time is left for the frame that has begun.
func (l *link) left(pending int) time.Duration {
	now := time.Now()
	if l.begun.IsZero() {
		l.begun = now
	}
	return l.begun.Add(l.within + time.Duration(pending)*time.Second/frameRate).Sub(now)
}

func (l *link) fill(within time.Duration) error {
	if err := l.readWithin(within); err != nil {
		return err
	}
	return l.stream.fill()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// linger says that nothing more will be sent, and reads on for a moment, up to limit
// bytes: what nobody has read would make the system withdraw what was sent last.
func (l *link) linger(d time.Duration, limit int64) {
	half, ok := l.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	// The connection ends anyhow, whatever these return.
	_ = l.conn.SetReadDeadline(time.Now().Add(d))
	_, _ = io.Copy(io.Discard, io.LimitReader(l.conn, limit))
}

// beats are the heart-beats that two peers have agreed on (STOMP 1.2, Heart-beating).
type beats struct {
	// every is how often something must be sent, silence the longest time in which
	// nothing may arrive. Zero: never, and no bound.
	every, silence time.Duration
}

// beatHeader offers to send and wants to receive every d.
func beatHeader(d time.Duration) string {
	n := strconv.FormatInt(d.Milliseconds(), 10)
	return n + "," + n
}

// agreeBeats returns what follows from this side's interval, both ways, and the
// peer's header.
func agreeBeats(mine time.Duration, theirs string) (b beats, err error) {
	if theirs == "" {
		return b, nil
	}
	can, wants, ok := strings.Cut(theirs, ",")
	sends, err1 := strconv.ParseUint(strings.TrimSpace(can), 10, 64)
	receives, err2 := strconv.ParseUint(strings.TrimSpace(wants), 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return b, malformed("heart-beat is not two numbers")
	}
	limit := uint64(maxBeat.Milliseconds())
	if mine > 0 && receives > 0 && receives <= limit {
		b.every = max(mine, time.Duration(receives)*time.Millisecond)
	}
	if mine > 0 && sends > 0 && sends <= limit {
		b.silence = 2*max(mine, time.Duration(sends)*time.Millisecond) + beatMargin
	}
	return b, nil
}

// beat sends heart-beats until ctx ends.
func (l *link) beat(group *run.Group, every time.Duration) {
	if every == 0 {
		return
	}
	group.Go("stomp heart-beat", func(ctx context.Context) error {
		tick := time.NewTicker(every / 2)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				if now.UnixMilli()-l.wrote.Load() < every.Milliseconds()/4 {
					continue
				}
				if err := l.send([]byte{'\n'}); err != nil {
					l.stop()
					return nil // the reader reports the loss
				}
			}
		}
	})
}
