package connectors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Listeners holds the addresses that a deployment listens on. They outlive the
// pipelines that use them, so that a reload hands them over open. An address is
// opened once; what shares it (several HTTP paths on one port) is kept beside it.
type Listeners struct {
	mu     sync.Mutex
	open   map[string]*Listener
	closed bool
}

// Listener is one open address with the value that its users share.
type Listener struct {
	net.Listener
	// Shared is made by the first user of the address. If it is an io.Closer, it is
	// closed with the address, and waits for what it started.
	Shared any
}

// AddressError says that an address could not be opened.
type AddressError struct {
	Address string
	Err     error
}

// Error implements error.
func (e *AddressError) Error() string {
	return fmt.Sprintf("listen on %s: %v; stop what uses the address, or choose another", e.Address, cause(e.Err))
}

// Unwrap returns the cause.
func (e *AddressError) Unwrap() error { return e.Err }

func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// NewListeners returns an empty set.
func NewListeners() *Listeners { return &Listeners{open: map[string]*Listener{}} }

// Open returns the listener of a TCP address, opening it when it is new. Protocol
// guards against two protocols on one address. Share makes the shared value when the
// address is new; it may be nil.
func (l *Listeners) Open(ctx context.Context, protocol, address string, share func(net.Listener) any) (*Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	key := protocol + " " + address
	if open, ok := l.open[key]; ok {
		return open, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &AddressError{Address: address, Err: err}
	}
	open := &Listener{Listener: ln}
	if share != nil {
		open.Shared = share(ln)
	}
	l.open[key] = open
	return open, nil
}

// Close closes every address.
func (l *Listeners) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, ln := range l.open {
		if shared, ok := ln.Shared.(io.Closer); ok {
			errs = append(errs, shared.Close())
		}
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	clear(l.open)
	return errors.Join(errs...)
}
