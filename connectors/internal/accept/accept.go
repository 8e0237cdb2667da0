// Package accept is what listeners share whose address outlives them: the loop, and whose
// turn it is.
package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// pause is the wait after an accept failed, usually for lack of descriptors.
const pause = 100 * time.Millisecond

// Loop hands every connection to admit until ctx ends, and then returns nil. The address
// stays open: it belongs to the deployment, and the next Loop goes on with it.
func Loop(ctx context.Context, ln net.Listener, log *slog.Logger, admit func(net.Conn)) error {
	timed, ok := ln.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return fmt.Errorf("listen on %s: the listener has no deadlines", ln.Addr())
	}
	if err := timed.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("listen on %s: %w", ln.Addr(), err)
	}
	// It fails when the listener is closed, which ends Accept as well.
	stop := context.AfterFunc(ctx, func() { _ = timed.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		case err != nil:
			log.LogAttrs(ctx, slog.LevelWarn, "accept failed, trying again", slog.String("error", err.Error()))
			run.Pause(ctx, pause)
		default:
			admit(conn)
		}
	}
}
