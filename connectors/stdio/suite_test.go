package stdio

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/message"
)

func TestSuite(t *testing.T) {
	r, w := io.Pipe()
	in := newInput(r)
	t.Cleanup(func() {
		_ = w.Close()
		<-in.chunks // the end, which no source was there to take
	})
	var out bytes.Buffer
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New: func(*testing.T) connectors.Source { return &source{in: in} },
			Send: func(_ context.Context, m message.Message) error {
				_, err := w.Write(append(bytes.Clone(m.Payload), '\n'))
				return err
			},
		},
		Sink: &connectortest.Sink{
			New: func(*testing.T) connectors.Sink { return newSink(&out) },
			Received: func(*testing.T, int) (ms []message.Message) {
				for line := range bytes.Lines(out.Bytes()) {
					ms = append(ms, message.Message{Payload: bytes.TrimSuffix(line, []byte("\n"))})
				}
				return ms
			},
		},
	}, connectortest.Features{Redelivers: true, Lines: true})
}
