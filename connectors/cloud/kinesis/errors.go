package kinesis

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"
)

// explain names what is wrong where the service says it in its own words.
func explain(err error) error {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return err
	}
	switch api.ErrorCode() {
	case "UnrecognizedClientException", "InvalidSignatureException", "AccessDeniedException", "IncompleteSignature",
		"IncompleteSignatureException", "MissingAuthenticationTokenException", "ExpiredTokenException", "InvalidClientTokenId":
		return fmt.Errorf("LS4396: the service does not accept the credentials, or they do not permit this: %w", err)
	default:
		return err
	}
}

// isCode reports whether the service answered with this code.
func isCode(err error, code string) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && api.ErrorCode() == code
}
