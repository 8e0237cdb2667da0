package amqp1

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestSuite(t *testing.T) {
	runSuite(t, startDouble(t).peer(), "in", "out", false)
}

// Each outcome has its meaning.
func TestOutcomesOfAPeer(t *testing.T) {
	d := startDouble(t)
	d.outcome = func(address string) any {
		return map[string]any{
			"rejected": described{pRejected, []any{described{pError, []any{symbol("x:no"), "secret words"}}}},
			"hopeless": described{pRejected, []any{described{pError, []any{symbol("amqp:decode-error")}}}},
			"released": described{pReleased, []any{}},
			"modified": described{pModified, []any{true}},
			"never":    described{pModified, []any{true, true}},
			"nothing":  described{0x23, []any{}},
		}[address]
	}
	for address, want := range map[string]message.Reason{
		"rejected": {Code: codeRejected}, "hopeless": {Code: codeRejected, Permanent: true}, "released": {Code: codeNotTaken},
		"modified": {Code: codeNotTaken}, "never": {Code: codeNotTaken, Permanent: true},
	} {
		failed := failures(t, testSink(t, d.peer(), address, nil).Handle(t.Context(), numbered(0, 3)))
		for i := range 3 {
			got := reasonOf(failed[i])
			if got.Code != want.Code || got.Permanent != want.Permanent || message.IsUnavailable(failed[i]) || strings.Contains(got.Text, "secret") {
				t.Errorf("%s: %v", address, failed[i])
			}
		}
	}
	refused := failures(t, testSink(t, d.peer(), "denied", nil).Handle(t.Context(), numbered(0, 1)))[0]
	if !message.IsUnavailable(refused) || !strings.Contains(refused.Error(), "LS4326") {
		t.Errorf("denied: %v", refused)
	}
	computedSink := testSink(t, d.peer(), "", func(c *SinkConfig) { c.Address = computed() })
	batch := numbered(0, 200)
	for i := range batch.Messages {
		batch.Messages[i].Options = []string{"q" + strings.Repeat("x", i%100)}
	}
	batch.Messages[7].Options[0] = "denied"
	failed := failures(t, computedSink.Handle(t.Context(), batch))
	if len(failed) != 1 || reasonOf(failed[7]).Code != codeAddress {
		t.Errorf("computed: %v", failed)
	}
}

// A message that makes the peer end the link is found, and the others get through.
func TestSinkFindsTheCulprit(t *testing.T) {
	d := startDouble(t)
	d.kill = func(body []byte) bool { return strings.HasSuffix(string(body), "\x017") }
	s := testSink(t, d.peer(), "q", nil)
	waiting := numbered(0, 20)
	for i := range waiting.Messages {
		waiting.Messages[i].Payload = append([]byte{1}, waiting.Messages[i].Payload...)
	}
	rounds, found := 0, 0
	for ; waiting.Len() > 0 && rounds < 10; rounds++ {
		failed := failures(t, s.Handle(t.Context(), waiting))
		rest := &message.Batch{}
		for i, m := range waiting.Messages {
			switch why := failed[i]; {
			case why == nil:
			case message.IsUnavailable(why):
				rest.Messages = append(rest.Messages, m)
			case string(m.Payload) != "\x017" || reasonOf(why).Code != codeRejected || strings.Contains(why.Error(), "secret"):
				t.Errorf("message %q: %v", m.Payload, why)
			default:
				found++
			}
		}
		waiting = rest
	}
	if waiting.Len() > 0 || found != 1 {
		t.Errorf("%d messages wait after %d rounds, %d found", waiting.Len(), rounds, found)
	}
	if err := s.Handle(t.Context(), numbered(100, 100)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Without credit a message waits for its time, and no longer.
func TestNoCredit(t *testing.T) {
	d := startDouble(t)
	d.credit = 0
	s := testSink(t, d.peer(), "q", func(c *SinkConfig) { c.Timeout = 50 * time.Millisecond })
	failed := failures(t, s.Handle(t.Context(), numbered(0, 2)))
	if len(failed) != 2 || !message.IsUnavailable(failed[0]) || !strings.Contains(failed[0].Error(), errTimeout.Error()) {
		t.Errorf("%v", failed)
	}
	d.mu.Lock()
	d.credit = 10
	d.mu.Unlock()
	if err := s.Handle(t.Context(), numbered(0, 100)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A link that is ended by the peer ends the source with its reason, and the sink goes on
// with another.
func TestDetached(t *testing.T) {
	d := startDouble(t)
	src := testSource(t, d.peer(), "q", nil)
	h := newRecorder()
	group := run.NewGroup(t.Context())
	group.Go("run", func(ctx context.Context) error { return src.Run(ctx, h) })
	s := testSink(t, d.peer(), "q", func(c *SinkConfig) { c.MaxInFlight = 3 })
	if err := s.Handle(t.Context(), numbered(0, 100)); err != nil {
		t.Fatal(err)
	}
	h.wait(t, 100)
	d.detach("q", "amqp:resource-deleted")
	if err := group.Wait(); err == nil || !strings.Contains(err.Error(), "LS4325") {
		t.Errorf("run: %v", err)
	}
	eventually(t, "another link", func() bool { return s.Handle(t.Context(), numbered(0, 1)) == nil })
}

// Cuts at random moments: everything that was confirmed arrives.
func TestCuts(t *testing.T) {
	d := startDouble(t)
	h := newRecorder()
	group := run.NewGroup(t.Context())
	group.Go("supervisor", func(ctx context.Context) error {
		for ctx.Err() == nil {
			_ = testSource(t, d.peer(), "q", func(c *SourceConfig) { c.Credit = 20 }).Run(ctx, h)
		}
		return nil
	})
	group.Go("scissors", func(ctx context.Context) error {
		for range 30 {
			run.Pause(ctx, 3*time.Millisecond)
			d.cut()
		}
		return nil
	})
	s := testSink(t, d.peer(), "q", nil)
	for at := 0; at < 2000; {
		batch := numbered(at, 50)
		for _, err := range failuresOrAll(t, s.Handle(t.Context(), batch), 50) {
			if !message.IsUnavailable(err) {
				t.Fatal(err)
			}
			at -= 50
			break
		}
		at += 50
	}
	eventually(t, "all there", func() bool {
		seen := map[string]bool{}
		for _, m := range h.all() {
			seen[string(m.Payload)] = true
		}
		return len(seen) == 2000
	})
	group.Stop()
	_ = group.Wait()
}

func failuresOrAll(t testing.TB, err error, n int) map[int]error {
	t.Helper()
	if err == nil {
		return nil
	}
	if _, ok := err.(*message.PartialError); ok { //nolint:errorlint // as it is returned
		return failures(t, err)
	}
	out := map[int]error{}
	for i := range n {
		out[i] = err
	}
	return out
}

// What is not taken goes back in its order, what never can be is rejected.
func TestSourcePartial(t *testing.T) {
	for _, how := range []string{notTakenDetach, notTakenRelease, notTakenModify} {
		d := startDouble(t)
		if err := testSink(t, d.peer(), "q", nil).Handle(t.Context(), numbered(0, 5)); err != nil {
			t.Fatal(err)
		}
		src := testSource(t, d.peer(), "q", func(c *SourceConfig) { c.NotTaken = how })
		err := src.Run(t.Context(), message.HandlerFunc(func(_ context.Context, b *message.Batch) error {
			p := &message.PartialError{}
			for i, m := range b.Messages {
				switch string(m.Payload) {
				case "0":
					p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrTooLarge})
				case "1":
				default:
					p.Failed = append(p.Failed, message.Failed{Index: i, Err: message.ErrFull})
				}
			}
			return p
		}))
		if err == nil || !strings.Contains(err.Error(), message.ErrFull.Error()) {
			t.Errorf("%s: %v", how, err)
		}
		h := newRecorder()
		start(t, testSource(t, d.peer(), "q", nil), h)
		got := h.wait(t, 3)
		for i, want := range []string{"2", "3", "4"} {
			if string(got[i].Payload) != want {
				t.Errorf("%s: %s came in place of %s", how, got[i].Payload, want)
			}
		}
		d.mu.Lock()
		if d.queue("q").rejected != 1 {
			t.Errorf("%s: %d rejected", how, d.queue("q").rejected)
		}
		d.mu.Unlock()
	}
}

// Whatever a peer sends, Run returns with an error.
func TestHostilePeer(t *testing.T) {
	sasl := []byte("AMQP\x03\x01\x00\x00")
	mechanisms := append(append([]byte{}, sasl...), wireFrame(1, 0, pMechanisms, []any{symbol("ANONYMOUS")}, nil)...)
	outcome := append(append([]byte{}, mechanisms...), wireFrame(1, 0, pOutcome, []any{uint8(0)}, nil)...)
	open := append(append(append([]byte{}, outcome...), "AMQP\x00\x01\x00\x00"...), wireFrame(0, 0, pOpen, []any{"x", nil, uint32(65536), uint16(1)}, nil)...)
	begin := append(append([]byte{}, open...), wireFrame(0, 0, pBegin, []any{uint16(0), uint32(0), uint32(10), uint32(10)}, nil)...)
	for name, bytes := range map[string][]byte{
		"nothing":          nil,
		"0-9-1":            []byte("AMQP\x00\x00\x09\x01"),
		"other mechanism":  append(append([]byte{}, sasl...), wireFrame(1, 0, pMechanisms, []any{symbol("GSSAPI")}, nil)...),
		"refused":          append(append([]byte{}, mechanisms...), wireFrame(1, 0, pOutcome, []any{uint8(1)}, nil)...),
		"cut in handshake": outcome[:20],
		"large frame":      append(append([]byte{}, open...), 0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0),
		"small frame":      append(append([]byte{}, open...), 0, 0, 0, 1, 2, 0, 0, 0),
		"closed":           append(append([]byte{}, open...), wireFrame(0, 0, pClose, []any{described{pError, []any{symbol("amqp:connection:forced"), "bye"}}}, nil)...),
		"session ended":    append(append([]byte{}, begin...), wireFrame(0, 0, pEnd, []any{described{pError, []any{symbol("amqp:internal-error"), "bye"}}}, nil)...),
		"transfer to none": append(append([]byte{}, begin...), wireFrame(0, 0, pTransfer, []any{uint32(9), uint32(0), []byte{1}}, []byte{1, 2, 3})...),
		"no such frame":    append(append([]byte{}, begin...), wireFrame(0, 0, 0x77, []any{}, nil)...),
		"unknown channel":  append(append([]byte{}, begin...), wireFrame(0, 9, pFlow, []any{}, nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			group := run.NewGroup(t.Context())
			group.Go("peer", func(context.Context) error {
				conn, err := ln.Accept()
				if err != nil {
					return nil
				}
				defer conn.Close()
				_, _ = conn.Write(bytes)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				return nil
			})
			s := testSource(t, peer{address: "amqp://" + ln.Addr().String()}, "q", nil)
			if err := s.Run(t.Context(), newRecorder()); err == nil {
				t.Error("run returned nil")
			}
			_ = ln.Close()
			_ = group.Wait()
		})
	}
}
