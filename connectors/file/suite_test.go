package file

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/connectortest"
	"github.com/linkspan/linkspan/message"
)

func TestSuite(t *testing.T) {
	r := newRig(t)
	out := filepath.Join(t.TempDir(), "out")
	connectortest.Run(t, connectortest.Harness{
		Source: &connectortest.Source{
			New: func(*testing.T) connectors.Source {
				return r.source(func(c *SourceConfig) { c.Follow = true })
			},
			Send: func(_ context.Context, m message.Message) error {
				r.append(string(m.Payload) + "\n")
				return nil
			},
		},
		Sink: &connectortest.Sink{
			New: func(t *testing.T) connectors.Sink {
				s, err := newSink(SinkConfig{Path: out}, connectors.Env{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Received: func(t *testing.T, _ int) (ms []message.Message) {
				data, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				for line := range bytes.Lines(data) {
					ms = append(ms, message.Message{Payload: bytes.TrimSuffix(line, []byte("\n"))})
				}
				return ms
			},
			Away: func(t *testing.T) connectors.Sink {
				s, _ := newSink(SinkConfig{Path: filepath.Join(os.Args[0], "out") /* below a file */}, connectors.Env{})
				return s
			},
		},
	}, connectortest.Features{Redelivers: true, Lines: true})
}
