package http

import "sync"

// gate counts the requests inside, bounds them, and can be closed.
type gate struct {
	limit int

	mu     sync.Mutex
	inside int
	closed bool
	idle   chan struct{}
}

type gateState uint8

const (
	gateOpen gateState = iota
	gateFull
	gateClosed
)

func newGate(limit int) *gate { return &gate{limit: limit, idle: make(chan struct{})} }

// enter lets a request in when it returns gateOpen; leave must follow then.
func (g *gate) enter() gateState {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return gateClosed
	case g.inside >= g.limit:
		return gateFull
	}
	g.inside++
	return gateOpen
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.closed && g.inside == 0 {
		close(g.idle)
	}
}

// close lets nobody in any more. The channel is closed when all have left. It is
// called once.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.inside == 0 {
		close(g.idle)
	}
	return g.idle
}
