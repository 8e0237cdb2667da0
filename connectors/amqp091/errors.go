package amqp091

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

// explain says what a refusal of the broker means for something that only the
// configuration names, so that the broker's own words can be passed on. It returns nil for
// nil.
func explain(err error, what string) error {
	if err == nil {
		return nil
	}
	refusal, ok := errors.AsType[*amqp.Error](err)
	if !ok || !refusal.Server {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch refusal.Code {
	case amqp.NotFound:
		return fmt.Errorf("LS4310: %s: it does not exist; create it, or set `declare: create`: %w", what, err)
	case amqp.AccessRefused:
		return fmt.Errorf("LS4311: %s: the user has no permission, or the queue has an exclusive consumer: %w", what, err)
	case amqp.ResourceLocked, amqp.PreconditionFailed:
		return fmt.Errorf("LS4312: %s: it exists with other properties, or belongs to another connection: %w", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// explainOpen says why a connection was not opened. Broken is what ended the socket.
func explainOpen(ctx context.Context, err, broken error) error {
	switch refusal, _ := errors.AsType[*amqp.Error](err); {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(broken, os.ErrDeadlineExceeded):
		return errors.New("the broker did not answer in time")
	case errors.Is(err, amqp.ErrSASL):
		return errors.New("LS4308: the broker offers none of the ways to log in; see auth")
	case errors.Is(err, amqp.ErrCredentials) || refusal != nil && refusal.Server && refusal.Code == amqp.AccessRefused:
		// Brokers end the socket without a word, by the text of the protocol.
		return errors.New("LS4308: the broker does not accept the user or the password")
	case errors.Is(err, amqp.ErrVhost) || refusal != nil && refusal.Server && refusal.Code == amqp.NotAllowed:
		return fmt.Errorf("LS4309: the virtual host does not exist, or the user may not use it: %w", err)
	case broken != nil && !errors.Is(broken, io.EOF):
		return broken
	default:
		return err
	}
}

// lost says why a channel that was open has ended.
func lost(err *amqp.Error) error {
	switch {
	case err == nil:
		return errors.New("the connection was lost")
	case err.Server:
		return fmt.Errorf("the broker ended it (code %d)", err.Code)
	default:
		return fmt.Errorf("the connection was lost: %s", err.Reason)
	}
}
