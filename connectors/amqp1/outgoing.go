package amqp1

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	amqp "github.com/Azure/go-amqp"
)

// maxSenders bounds the links of a connection. One that was not used for the longest time
// makes room.
const maxSenders = 64

// outgoing is one connection that sends. Several calls use it at once.
type outgoing struct {
	link *link
	cfg  *SinkConfig
	// window has a token for each message that may be on its way.
	window chan struct{}
	// aborted: this side has given the connection up.
	aborted atomic.Bool

	mu      sync.Mutex
	senders map[string]*sender
	// clock counts uses.
	clock uint64
}

// sender is a link to one address, with a session of its own.
type sender struct {
	*amqp.Sender

	session *amqp.Session
	used    uint64
	// busy is the number of messages that have no outcome.
	busy atomic.Int64
	// lost is how many there were when the link ended.
	lost atomic.Int64
}

// errBusy says that all links have messages on their way.
var errBusy = errors.New("too many addresses at once")

func newOutgoing(l *link, cfg *SinkConfig) *outgoing {
	o := &outgoing{link: l, cfg: cfg, window: make(chan struct{}, cfg.MaxInFlight), senders: map[string]*sender{}}
	for range cfg.MaxInFlight {
		o.window <- struct{}{}
	}
	return o
}

func (o *outgoing) ended() bool {
	select {
	case <-o.link.Done():
		return true
	default:
		return o.aborted.Load()
	}
}

// abort gives the connection up: nothing can be known of what is on its way.
func (o *outgoing) abort() {
	o.aborted.Store(true)
	o.link.pipe.Abort()
}

// sender returns the link to an address, attaching it when it is new, and counts a message
// on it. It returns errBusy when there are as many links as most, and none is idle.
func (o *outgoing) sender(ctx context.Context, address string, most int) (*sender, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	if s := o.senders[address]; s != nil {
		s.used = o.clock
		s.busy.Add(1)
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(dialWithin, o.cfg.Timeout))
	defer cancel()
	if !o.makeRoom(ctx) && len(o.senders) >= most {
		return nil, errBusy
	}
	session, err := o.link.NewSession(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	options := &amqp.SenderOptions{}
	if o.cfg.Node != "" {
		options.TargetCapabilities = []string{o.cfg.Node}
	}
	attached, err := session.NewSender(ctx, address, options)
	if err != nil {
		_ = session.Close(ctx) // the refusal may have ended it
		return nil, err
	}
	s := &sender{Sender: attached, session: session, used: o.clock}
	s.busy.Add(1)
	o.senders[address] = s
	return s, nil
}

// makeRoom ends the idle link that was not used for the longest time when there are many,
// and reports whether there is room.
func (o *outgoing) makeRoom(ctx context.Context) bool {
	if len(o.senders) < maxSenders {
		return true
	}
	oldest := ""
	for address, s := range o.senders {
		if s.busy.Load() == 0 && (oldest == "" || s.used < o.senders[oldest].used) {
			oldest = address
		}
	}
	if oldest == "" {
		return false
	}
	_ = o.senders[oldest].session.Close(ctx)
	delete(o.senders, oldest)
	return true
}

// drop forgets a link that has ended, ends its session, and returns how many messages were
// under way on it.
func (o *outgoing) drop(ctx context.Context, address string, s *sender) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.lost.Load() == 0 {
		s.lost.Store(s.busy.Load())
	}
	if o.senders[address] != s {
		return int(s.lost.Load())
	}
	delete(o.senders, address)
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	_ = s.session.Close(ctx) // the peer may have ended it
	return int(s.lost.Load())
}
