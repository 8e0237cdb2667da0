package accept

import (
	"context"
	"fmt"
	"sync"
)

// Place is an address that one source at a time accepts on. After a reload the next
// source waits until the one before has answered its clients.
type Place struct {
	// turn holds one token; the source that has it accepts.
	turn chan struct{}

	mu sync.Mutex
	// claim is the source that bound the address and does not run yet.
	claim string
}

// NewPlace returns a place that is free.
func NewPlace() *Place {
	p := &Place{turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// Claim books the place for a source that will run. It fails when another source has
// booked it.
func (p *Place) Claim(owner, address string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claim != "" && p.claim != owner {
		return fmt.Errorf("listen on %s: %s receives there already; give one of them another port", address, p.claim)
	}
	p.claim = owner
	return nil
}

// Take waits for the place. The caller gives it back with leave; ok is false when ctx
// ended first.
func (p *Place) Take(ctx context.Context) (leave func(), ok bool) {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claim = ""
	return func() { p.turn <- struct{}{} }, true
}
