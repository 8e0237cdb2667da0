package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps payloads. Fail, when it is set, decides per batch.
type recorder struct {
	mu      sync.Mutex
	got     []string
	msgs    []message.Message
	fail    func(n int) error
	changed chan struct{}
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (h *recorder) Handle(_ context.Context, b *message.Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		if err := h.fail(len(h.got)); err != nil {
			return err
		}
	}
	for i := range b.Messages {
		h.got = append(h.got, string(b.Messages[i].Payload))
		h.msgs = append(h.msgs, b.Messages[i].Clone())
	}
	select {
	case h.changed <- struct{}{}:
	default:
	}
	return nil
}

func (h *recorder) wait(t *testing.T, n int) []string {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		h.mu.Lock()
		got := append([]string(nil), h.got...)
		h.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-h.changed:
		case <-limit:
			t.Fatalf("%d records, want %d", len(got), n)
		}
	}
}

type rig struct {
	t    *testing.T
	env  connectors.Env
	path string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{t, connectors.Env{Name: "in", Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), MaxMessage: 1 << 20}, filepath.Join(t.TempDir(), "in.ndjson")}
}

func (r *rig) source(change func(*SourceConfig)) connectors.Source {
	cfg := SourceConfig{Path: r.path, Format: formatLines, From: fromStart, Delimiter: ",", Poll: 10 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	src, err := newSource(cfg, r.env)
	if err != nil {
		r.t.Fatal(err)
	}
	return src
}

func (r *rig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) append(text string) {
	r.t.Helper()
	f, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// follow runs a source until stop.
func (r *rig) follow(h message.Handler, change func(*SourceConfig)) (stop func()) {
	src := r.source(func(c *SourceConfig) {
		c.Follow = true
		if change != nil {
			change(c)
		}
	})
	group := run.NewGroup(context.Background())
	group.Go("source", func(ctx context.Context) error { return src.Run(ctx, h) })
	var once sync.Once
	stop = func() {
		once.Do(func() {
			group.Stop()
			if err := group.Wait(); err != nil {
				r.t.Errorf("run: %v", err)
			}
		})
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) readAll(h message.Handler, change func(*SourceConfig)) error {
	return r.source(change).Run(r.t.Context(), h)
}

func TestSourceReadsToTheEnd(t *testing.T) {
	r, h := newRig(t), newRecorder()
	var want []string
	var text strings.Builder
	for i := range 30000 {
		want = append(want, fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, strings.Repeat("x", i%50)))
		text.WriteString(want[i] + []string{"\n", "\r\n"}[i%2])
	}
	r.write("\xef\xbb\xbf" + text.String() + "torn")
	if err := r.readAll(h, nil); !errors.Is(err, connectors.ErrEnd) {
		t.Fatal(err)
	}
	if d := cmp.Diff(append(want, "torn"), h.got); d != "" {
		t.Error(d)
	}
	if m := h.msgs[0]; m.Topic != r.path || string(m.Key) != r.path || m.ContentType != "text/plain" {
		t.Errorf("got %+v", m)
	}
	// It has been read; nothing comes twice.
	if err := r.readAll(h, nil); !errors.Is(err, connectors.ErrEnd) || len(h.got) != len(want)+1 {
		t.Errorf("%v, %d records", err, len(h.got))
	}
}

func TestSourceGoesOnAfterAnError(t *testing.T) {
	r, h := newRig(t), newRecorder()
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "%d\n", i)
	}
	r.write(text.String())
	boom := errors.New("boom")
	h.fail = func(n int) error {
		if n >= 1024 {
			return boom
		}
		return nil
	}
	if err := r.readAll(h, nil); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	h.fail = nil
	if err := r.readAll(h, nil); !errors.Is(err, connectors.ErrEnd) {
		t.Fatal(err)
	}
	for i, got := range h.got {
		if got != strconv.Itoa(i) {
			t.Fatalf("record %d is %s", i, got)
		}
	}
	if len(h.got) != 3000 {
		t.Errorf("%d records", len(h.got))
	}
}

func TestSourceFollows(t *testing.T) {
	r, h := newRig(t), newRecorder()
	r.env.MaxMessage = 100
	r.follow(h, nil) // the file does not exist yet
	r.append("a\nto")
	h.wait(t, 1)
	r.append("rn\n")
	if got := h.wait(t, 2); got[1] != "torn" {
		t.Fatalf("got %q", got)
	}
	// Renamed and made anew: the old one is read to its end first.
	r.append("last without end")
	if err := os.Rename(r.path, r.path+".1"); err != nil {
		t.Fatal(err)
	}
	r.append("new 1\n")
	if got := h.wait(t, 4); got[2] != "last without end" || got[3] != "new 1" {
		t.Fatalf("got %q", got)
	}
	// Truncated.
	r.write("t\n")
	if got := h.wait(t, 5); got[4] != "t" {
		t.Fatalf("got %q", got)
	}
}

func TestSourceWasAwayDuringARotation(t *testing.T) {
	r, h := newRig(t), newRecorder()
	stop := r.follow(h, nil)
	r.append("a\n")
	h.wait(t, 1)
	stop()
	r.append("b\n")
	if err := os.Rename(r.path, r.path+".1"); err != nil {
		t.Fatal(err)
	}
	r.append("c\n")
	stop = r.follow(h, nil)
	if got := h.wait(t, 3); got[1] != "b" || got[2] != "c" {
		t.Errorf("got %q", got)
	}
	stop()
	// Another file under the same name is read from its start.
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(r.path + ".1")
	r.write("other\nfile\n")
	r.follow(h, nil)
	if got := h.wait(t, 5); got[3] != "other" {
		t.Errorf("got %q", got)
	}
}

func TestSourceFromEnd(t *testing.T) {
	r, h := newRig(t), newRecorder()
	r.write("old\n")
	if err := r.readAll(h, func(c *SourceConfig) { c.From = fromEnd }); !errors.Is(err, connectors.ErrEnd) || len(h.got) != 0 {
		t.Fatalf("%v %q", err, h.got)
	}
}

func TestSourceLineTooLong(t *testing.T) {
	r, h := newRig(t), newRecorder()
	r.env.MaxMessage = 1000
	r.write("ok\n" + strings.Repeat("x", 300_000) + "\nafter\n")
	err := r.readAll(h, nil)
	if err == nil || !strings.Contains(err.Error(), "LS4302") || !strings.Contains(err.Error(), "byte 3 ") || len(h.got) != 1 {
		t.Errorf("%v %d", err, len(h.got))
	}
}

func TestSourceCSV(t *testing.T) {
	r, h := newRig(t), newRecorder()
	r.write("\xef\xbb\xbfid;name\r\n1;\"A \"\"x\"\"; é\nB\"\r\n\r\n2;5\" pipe\n3;too;many\n4;ok")
	csv := func(c *SourceConfig) { c.Format, c.Delimiter = formatCSV, ";" }
	if err := r.readAll(h, csv); !errors.Is(err, connectors.ErrEnd) {
		t.Fatal(err)
	}
	want := []string{`{"id":"1","name":"A \"x\"; é\u000aB"}`, `2;5" pipe`, `3;too;many`, `{"id":"4","name":"ok"}`}
	if d := cmp.Diff(want, h.got); d != "" {
		t.Fatal(d)
	}
	if m := h.msgs[2]; m.Headers.Text(headerError) != "LS4303" || m.ContentType != "text/csv" || h.msgs[3].ContentType != "application/json" {
		t.Errorf("got %+v", m)
	}
	r.append("\n5;later\n") // the header is found again
	if err := r.readAll(h, csv); !errors.Is(err, connectors.ErrEnd) || h.got[4] != `{"id":"5","name":"later"}` {
		t.Errorf("%v %q", err, h.got)
	}
	r2 := newRig(t)
	r2.write("a,a\n1,2\n")
	if err := r2.readAll(h, func(c *SourceConfig) { c.Format = formatCSV }); err == nil || !strings.Contains(err.Error(), "LS4304") {
		t.Errorf("a column twice: %v", err)
	}
}

func payloads(texts ...string) *message.Batch {
	var b message.Batch
	for _, text := range texts {
		b.Messages = append(b.Messages, message.Message{Payload: []byte(text)})
	}
	return &b
}

func TestSinkAppendsAndCutsATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.ndjson")
	if err := os.WriteFile(path, []byte("whole\n"+strings.Repeat("torn", 3000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := newSink(SinkConfig{Path: path}, connectors.Env{})
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := payloads("a", "{\n}", "x\ny", "after", "other")
	b.Messages[2].Key, b.Messages[3].Key, b.Messages[4].Key = []byte("k"), []byte("k"), []byte("l")
	err := s.Handle(t.Context(), b)
	var p *message.PartialError
	var reason *message.Reason
	if !errors.As(err, &p) || len(p.Failed) != 2 || !errors.As(p.Failed[0].Err, &reason) || reason.Code != "LS4301" || !errors.Is(p.Failed[1].Err, message.ErrBehind) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	data, _ := os.ReadFile(path)
	if string(data) != "whole\na\n{}\nother\n" {
		t.Errorf("got %q", data)
	}
}

func TestSinkRotates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	s, _ := newSink(SinkConfig{Path: path, Rotate: Rotate{Bytes: 10, Keep: 2}}, connectors.Env{})
	for i := range 6 {
		if err := s.Handle(t.Context(), payloads(fmt.Sprintf("line %d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	names, _ := filepath.Glob(path + "*")
	var got []string
	for _, n := range names {
		data, _ := os.ReadFile(n)
		got = append(got, string(data))
	}
	if d := cmp.Diff([]string{"line 5\n", "line 3\n", "line 4\n"}, got); d != "" {
		t.Error(d)
	}
}

func TestSinkFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	s := &sink{cfg: SinkConfig{Path: "/dev/full"}}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.file = f
	err = s.Handle(t.Context(), payloads("x"))
	if !message.IsUnavailable(err) || !errors.Is(err, message.ErrDiskFull) {
		t.Errorf("got %v", err)
	}
}
