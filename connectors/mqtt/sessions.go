package mqtt

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/linkspan/linkspan/connectors/internal/accept"
)

const (
	// maxSessions bounds the sessions that are kept for clients that are away.
	maxSessions = 100_000
	// maxSessionExpiry is the longest that a session is kept.
	maxSessionExpiry = 24 * time.Hour
)

// station is what belongs to an address and outlives the sources that use it: who
// is its user, and the sessions of its clients.
type station struct {
	ln    net.Listener
	place *accept.Place

	mu       sync.Mutex
	sessions map[string]*session
}

// session is what is kept of a client between connections: the QoS 2 identifiers
// that it has not released.
type session struct {
	receipts receipts
	// peer is the connection that it has. Nil: it is away.
	peer *peer
	// expires is when a client that is away is forgotten.
	expires time.Time
}

func newStation(ln net.Listener) *station {
	return &station{ln: ln, place: accept.NewPlace(), sessions: map[string]*session{}}
}

// attach gives a client its session. A connection that the client has already is
// ended first, and waited for, so that two never receive for one session.
func (s *station) attach(ctx context.Context, p *peer, clean bool) (_ *session, present bool, err error) {
	for {
		s.mu.Lock()
		got := s.sessions[p.clientID]
		if got == nil || got.peer == nil {
			defer s.mu.Unlock()
			if got == nil || clean || time.Now().After(got.expires) {
				s.makeRoom()
				got, present = &session{}, false
				s.sessions[p.clientID] = got
			} else {
				present = true
			}
			got.peer = p
			return got, present, nil
		}
		old := got.peer
		s.mu.Unlock()
		old.end(reasonTakenOver)
		select {
		case <-old.gone:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// detach ends the use of a session. It is kept for expiry; zero: forgotten.
func (s *station) detach(p *peer, got *session, expiry time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	got.peer = nil
	got.receipts.abandon()
	got.expires = time.Now().Add(min(expiry, maxSessionExpiry))
	if expiry == 0 {
		delete(s.sessions, p.clientID)
	}
}

// makeRoom forgets sessions when there are too many: the expired ones, and if that
// does not help any that is away. Its client then sees that there is no session.
func (s *station) makeRoom() {
	if len(s.sessions) < maxSessions {
		return
	}
	now := time.Now()
	for id, x := range s.sessions {
		if x.peer == nil && now.After(x.expires) {
			delete(s.sessions, id)
		}
	}
	for id, x := range s.sessions {
		if len(s.sessions) < maxSessions-maxSessions/100 {
			return
		}
		if x.peer == nil {
			delete(s.sessions, id)
		}
	}
}
