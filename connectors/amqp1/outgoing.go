package amqp1

import (
	"context"
	"fmt"
	"sync"

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
}

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
		return false
	}
}

// sender returns the link to an address, attaching it when it is new.
func (o *outgoing) sender(ctx context.Context, address string) (*sender, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	if s := o.senders[address]; s != nil {
		s.used = o.clock
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(dialWithin, o.cfg.Timeout))
	defer cancel()
	o.makeRoom(ctx)
	session, err := o.link.NewSession(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	options := &amqp.SenderOptions{}
	if o.cfg.Node != "" {
		options.TargetCapabilities = []string{o.cfg.Node}
	}
	link, err := session.NewSender(ctx, address, options)
	if err != nil {
		_ = session.Close(ctx) // the refusal may have ended it
		return nil, err
	}
	s := &sender{Sender: link, session: session, used: o.clock}
	o.senders[address] = s
	return s, nil
}

// makeRoom ends the link that was not used for the longest time when there are too many.
// What is on its way over it has no outcome then, and is sent again.
func (o *outgoing) makeRoom(ctx context.Context) {
	if len(o.senders) < maxSenders {
		return
	}
	oldest := ""
	for address, s := range o.senders {
		if oldest == "" || s.used < o.senders[oldest].used {
			oldest = address
		}
	}
	_ = o.senders[oldest].session.Close(ctx)
	delete(o.senders, oldest)
}

// drop forgets a link that has ended, and ends its session.
func (o *outgoing) drop(ctx context.Context, address string, s *sender) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.senders[address] != s {
		return
	}
	delete(o.senders, address)
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	_ = s.session.Close(ctx) // the peer may have ended it
}
