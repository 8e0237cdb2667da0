package mqtt

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/linkspan/linkspan/internal/run"
)

// TestBrokerSaysNothing: brokers that do not speak MQTT 5 close the connection, and the
// error says what to try.
func TestBrokerSaysNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	group := run.NewGroup(t.Context())
	group.Go("broker", func(context.Context) error {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return nil
			}
			_, _ = conn.Read(make([]byte, 1024))
			_ = conn.Close()
		}
	})
	defer func() {
		_ = ln.Close()
		_ = group.Wait()
	}()
	for version, hint := range map[string]string{"5": "`version: 3.1.1`", "3.1.1": "check whether this port"} {
		err := newTestSink(t, ln.Addr().String(), func(c *SinkConfig) { c.Version = version }).Open(t.Context())
		if err == nil || !strings.Contains(err.Error(), "LS4205") || !strings.Contains(err.Error(), hint) {
			t.Errorf("version %s: %v", version, err)
		}
	}
}
