package mqtt

import (
	"context"
	"errors"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

type dialSource struct{}

func newDialSource(SourceConfig, connectors.Env) connectors.Source { return dialSource{} }

func (dialSource) Run(context.Context, message.Handler) error {
	return errors.New("dialling a broker is not available")
}

func newSink(SinkConfig, connectors.Env) (connectors.Sink, error) {
	return nil, errors.New("publishing to a broker is not available")
}
