package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// looker looks into a queue: that of a running process, or a stopped directory.
type looker interface {
	Topics(ctx context.Context) ([]queue.TopicStats, error)
	Messages(ctx context.Context, q console.MessageQuery, f func(console.QueuedMessage) error) error
	DeadLetters(ctx context.Context, q console.DeadLetterQuery, f func(pipelines.DeadLetter) error) error
	DeadLetter(ctx context.Context, pipeline string, number uint64) (console.DeadLetterView, error)
}

// directory is an opened data directory.
type directory struct {
	looker
	// live asks the process that holds the directory. Nil: it is stopped.
	live  *console.Client
	close func() error
}

// openDirectory opens a stopped directory read-only. When a process holds it, that
// process is asked instead: the lock says which it is, not a file that a killed
// process may have left.
func openDirectory(ctx context.Context, at *location) (*directory, error) {
	dir := at.data
	o, err := at.options()
	if err != nil {
		return nil, &exitError{exitEnvironment, err.Error()}
	}
	o.ReadOnly = true
	q, err := journal.Open(ctx, dir, o)
	switch {
	case err == nil:
		return &directory{
			looker: console.Reader{Queue: q},
			close:  func() error { return q.Close(context.WithoutCancel(ctx)) },
		}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, noQueue(dir)
	case !errors.Is(err, queue.ErrLocked):
		return nil, &exitError{exitEnvironment, err.Error()}
	}
	f, err := console.ReadAdminFile(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &exitError{exitEnvironment, fmt.Sprintf("%s is in use by a process that has no admin address; start it with --admin, or stop it first", dir)}
	}
	if err != nil {
		return nil, &exitError{exitEnvironment, err.Error()}
	}
	client := console.NewClient(f)
	return &directory{looker: client, live: client, close: func() error { client.Close(); return nil }}, nil
}

func noQueue(dir string) error {
	return &exitError{exitEnvironment, fmt.Sprintf("there is no queue in %s; name the directory of `linkspan run` with --data", dir)}
}

// withDirectory opens the directory for the time of f.
func withDirectory(ctx context.Context, at *location, f func(*directory) error) error {
	d, err := openDirectory(ctx, at)
	if err != nil {
		return err
	}
	err = f(d)
	if _, away := errors.AsType[*url.Error](err); away {
		err = &exitError{exitEnvironment, fmt.Sprintf("%v; %s is in use, and the process that holds it does not answer", err, at.data)}
	}
	return errors.Join(err, d.close())
}

// lookExitCodes ends the help of what looks into a directory.
const lookExitCodes = `

Exit codes: 0 ok, 1 what was asked for is not there, 2 usage, 4 there is no queue, or
the process that holds it does not answer.`

// pipelineOf returns the name that was given, else the only pipeline that there is.
func (d *directory) pipelineOf(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	topics, err := d.Topics(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, t := range topics {
		if name, ok := strings.CutSuffix(t.Name, pipelines.DeadLetterTopic("")); ok {
			names = append(names, name)
		}
	}
	switch len(names) {
	case 0:
		return "", &exitError{exitFailed, "the queue knows no pipeline yet"}
	case 1:
		return names[0], nil
	}
	return "", usageError("the queue has several pipelines; name one with --pipeline: %s", strings.Join(names, ", "))
}

// table aligns columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, columns ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	t.row(columns...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = oneLine(c)
		if c == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) end() error { return t.w.Flush() }

func digits[N int | uint64 | int64](n N) string {
	if n < 0 {
		return strconv.FormatInt(int64(n), 10)
	}
	return strconv.FormatUint(uint64(n), 10)
}

// oneLine quotes text that would break a table or command a terminal.
func oneLine(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text
	}
	return strconv.Quote(text)
}

// writePayload writes the bytes as they are, except that what could command a
// terminal is shown, not sent to it.
func writePayload(w io.Writer, payload []byte) error {
	if isTerminal(w) {
		var b strings.Builder
		for _, r := range string(payload) {
			if unicode.IsPrint(r) || r == '\n' || r == '\t' {
				b.WriteRune(r)
				continue
			}
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		payload = []byte(b.String())
	}
	_, err := w.Write(payload)
	return err
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
