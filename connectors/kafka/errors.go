package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/linkspan/linkspan/message"
)

// The codes of the connector; docs/errors.md says what to do about each.
const (
	codeUnreachable = "LS4370"
	codeCredentials = "LS4371"
	codeTLS         = "LS4372"
	codeNoTopic     = "LS4373"
	codeForbidden   = "LS4374"
	codeFenced      = "LS4375"
	codeTooLarge    = "LS4376"
	codeRefused     = "LS4377"
	codeCannotCarry = "LS4378"
	codeHeld        = "LS4379"
	codeDataLoss    = "LS4380"
	codeClosed      = "LS4381"
)

// codedError is an error with a code of its own.
type codedError struct {
	code, text string
	cause      error
}

// Error implements error.
func (e *codedError) Error() string {
	if e.cause != nil {
		return e.code + ": " + e.text + ": " + e.cause.Error()
	}
	return e.code + ": " + e.text
}

// Unwrap returns the cause.
func (e *codedError) Unwrap() error { return e.cause }

// explain gives an error of the cluster its code.
func explain(err error) error {
	if _, coded := errors.AsType[*codedError](err); err == nil || coded {
		return err
	}
	_, firstRead := errors.AsType[*kgo.ErrFirstReadEOF](err)
	kafka, answered := errors.AsType[*kerr.Error](err)
	switch {
	case answered:
		return explainAnswer(kafka)
	case strings.Contains(err.Error(), "tls alert record"): // the client's guess, which has no type
		return &codedError{code: codeTLS, text: "the broker speaks TLS at this port; add `tls: {}`"}
	case firstRead:
		return &codedError{code: codeClosed, text: "the broker closed the connection at once; check `tls:`, `auth:` with its mechanism and password, and the port"}
	default:
		return &codedError{code: codeUnreachable, text: "the brokers cannot be reached", cause: network(err)}
	}
}

// explainAnswer gives what a broker answered its code.
func explainAnswer(err *kerr.Error) error {
	switch err {
	case kerr.SaslAuthenticationFailed:
		return &codedError{code: codeCredentials, text: fmt.Sprintf("the broker does not accept the user, the password or the token (code %d)", err.Code)}
	case kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState:
		return &codedError{code: codeCredentials, text: fmt.Sprintf("the broker does not take this SASL mechanism here (code %d); check auth.mechanism and the port", err.Code)}
	case kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed:
		return &codedError{code: codeForbidden, text: fmt.Sprintf("the user lacks a permission (%s)", err.Message)}
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID:
		return &codedError{code: codeNoTopic, text: "the topic or partition does not exist"}
	case kerr.FencedInstanceID, kerr.UnreleasedInstanceID:
		return &codedError{code: codeFenced, text: "another member of the group has the same instance_id"}
	default:
		return &codedError{code: codeUnreachable, text: "the broker answered " + err.Message}
	}
}

// network keeps the errors of the network; others may quote what was received.
func network(err error) error {
	if isNetwork(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("an answer cannot be read (%T)", err)
}

func isNetwork(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// verdict says what the failure of a record means for its message.
func verdict(err error) error {
	reason, known := errors.AsType[*message.Reason](err)
	kafka, answered := errors.AsType[*kerr.Error](err)
	switch {
	case known:
		return reason
	case errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kgo.ErrRecordRetries):
		return message.Unavailable(&codedError{code: codeUnreachable, text: "the brokers did not confirm in time"})
	case !answered:
		return message.Unavailable(explain(err))
	}
	switch kafka {
	case kerr.MessageTooLarge, kerr.RecordListTooLarge:
		return &message.Reason{Code: codeTooLarge, Text: "the message is larger than the broker takes", Permanent: true}
	case kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.InvalidTopicException:
		return &message.Reason{Code: codeRefused, Text: "the broker refused the message (" + kafka.Message + ")", Permanent: true}
	case kerr.PolicyViolation, kerr.UnsupportedForMessageFormat, kerr.CorruptMessage:
		return &message.Reason{Code: codeRefused, Text: "the broker refused the message (" + kafka.Message + ")"}
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID:
		return &message.Reason{Code: codeNoTopic, Text: "the topic or partition does not exist"}
	case kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed:
		return &message.Reason{Code: codeForbidden, Text: "the user may not write here (" + kafka.Message + ")"}
	default:
		return message.Unavailable(explain(err))
	}
}

// refusal reports whether a record, and not its neighbours, may be what the broker
// refused: then each of the batch is tried alone.
func refusal(err error) bool {
	reason, ok := errors.AsType[*message.Reason](err)
	return ok && (reason.Code == codeTooLarge || reason.Code == codeRefused)
}
