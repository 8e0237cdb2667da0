//go:build brokers

package pairs

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// proxy stands between the bridge and a broker, and makes the network bad.
type proxy struct {
	target string
	ln     net.Listener
	group  *run.Group

	mu    sync.Mutex
	conns map[net.Conn]bool
	// served is how many connections there were.
	served int
	// hole swallows bytes: both ends stay connected and hear nothing.
	hole bool
	// slow delays every read by this.
	slow time.Duration
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, ln: ln, conns: map[net.Conn]bool{}, group: run.NewGroup(t.Context())}
	p.group.Go("accept", func(context.Context) error {
		for {
			client, err := ln.Accept()
			if err != nil {
				return nil // closed
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.keep(client, server)
			p.group.Go("up", func(context.Context) error { p.pump(server, client); return nil })
			p.group.Go("down", func(context.Context) error { p.pump(client, server); return nil })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.heal()
		p.reset()
		_ = p.group.Wait()
	})
	return p
}

func (p *proxy) keep(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served++
	for _, c := range conns {
		p.conns[c] = true
	}
}

func (p *proxy) pump(to, from net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		hole, slow := p.hole, p.slow
		p.mu.Unlock()
		if slow > 0 {
			<-time.After(slow)
		}
		if n > 0 && !hole {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			_ = to.Close()
			_ = from.Close()
			p.mu.Lock()
			delete(p.conns, from)
			p.mu.Unlock()
			return
		}
	}
}

// reset cuts every connection without a goodbye.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

func (p *proxy) swallow() { p.set(true, 0) }
func (p *proxy) crawl()   { p.set(false, 20*time.Millisecond) }
func (p *proxy) heal()    { p.set(false, 0) }

func (p *proxy) set(hole bool, slow time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole, p.slow = hole, slow
}
