package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSourceReadsLinesToTheEnd(t *testing.T) {
	var text strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&text, "line %d\r\n", i)
	}
	text.WriteString("torn")
	in := newInput(strings.NewReader(text.String()))
	var got []string
	fail := 2
	h := message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
		if fail--; fail == 0 {
			return message.ErrFull
		}
		for i := range b.Messages {
			got = append(got, string(b.Messages[i].Payload))
		}
		return nil
	})
	if err := (&source{in: in}).Run(t.Context(), h); !errors.Is(err, message.ErrFull) {
		t.Fatalf("got %v", err)
	}
	// Started again, it goes on with the batch that was not taken over.
	if err := (&source{in: in}).Run(t.Context(), h); !errors.Is(err, connectors.ErrEnd) {
		t.Fatalf("got %v", err)
	}
	if len(got) != 2001 || got[1999] != "line 1999" || got[2000] != "torn" {
		t.Errorf("%d lines, the last %q", len(got), got[len(got)-1])
	}
}

func TestSourceStops(t *testing.T) {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	stdin := newInput(r)
	cancel()
	if err := (&source{in: stdin}).Run(ctx, nil); err != nil {
		t.Error(err)
	}
	_ = w.Close()
	if stdin.group != nil {
		<-stdin.chunks // the reading goroutine waits for the next source
	}
	in := newInput(strings.NewReader(strings.Repeat("x", 100)))
	if err := (&source{in: in, env: connectors.Env{MaxMessage: 10}}).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "LS4302") {
		t.Errorf("a line that is too long: %v", err)
	}
	<-in.chunks
}

func TestSinkWritesLines(t *testing.T) {
	var out bytes.Buffer
	s := newSink(&out)
	err := s.Handle(t.Context(), &message.Batch{Messages: []message.Message{
		{Payload: []byte("a")}, {Payload: []byte("{\n \"b\": 1.50}")}, {Payload: []byte("c\nd")}, {Payload: nil},
	}})
	var p *message.PartialError
	if !errors.As(err, &p) || len(p.Failed) != 1 || p.Failed[0].Index != 2 {
		t.Errorf("got %v", err)
	}
	if out.String() != "a\n{\"b\":1.50}\n\n" {
		t.Errorf("got %q", out.String())
	}
}
