package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

func newQueue(io stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "look into the queue and change it: stats, browse, export, verify, seek, purge, ...",
		Long: `queue looks into a data directory, and changes it where a command says so. When a
running linkspan holds the directory it is asked through its admin address; a stopped
directory is opened.`,
		Example: "  linkspan queue stats\n  linkspan queue browse --topic orders --payload --limit 5\n  linkspan queue verify --data /var/lib/linkspan",
		Args:    subcommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newQueueStats(io), newQueueBrowse(io), newQueueExport(io), newQueueVerify(io))
	cmd.AddCommand(newQueueSeek(io), newQueuePurge(io), newQueueDelete(io), newQueueUnsubscribe(io), newQueueResume(io), newQueueKeys(io))
	return cmd
}

func newQueueStats(io stdio) *cobra.Command {
	var at location
	format := "text"
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "list topics, what they hold, and how far their subscriptions are",
		Long: `stats prints a line for each subscription of each topic: how many messages the
topic holds for it, how many of them it has not settled, and how many are handed out.
A topic NAME.dead holds the dead letters of a pipeline.

With --json, one object a topic.` + lookExitCodes,
		Example: "  linkspan queue stats\n  linkspan queue stats --data /var/lib/linkspan --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDirectory(cmd.Context(), &at, func(d *directory) error {
				topics, err := d.Topics(cmd.Context())
				if err != nil {
					return err
				}
				if format == "json" {
					return eachJSON(io.out, topics)
				}
				return printTopics(io.out, topics)
			})
		},
	}
	at.flags(cmd)
	asJSON(cmd, &format)
	return cmd
}

func eachJSON[T any](w io.Writer, items []T) error {
	e := console.NewEncoder(w)
	for _, item := range items {
		if err := e.Encode(item); err != nil {
			return err
		}
	}
	return nil
}

func printTopics(w io.Writer, topics []queue.TopicStats) error {
	t := newTable(w, "TOPIC", "SUBSCRIPTION", "MESSAGES", "BYTES", "FIRST", "NEXT", "BACKLOG", "IN FLIGHT")
	for _, s := range topics {
		head := []string{s.Name, "", digits(s.Messages), digits(s.Bytes), digits(s.First), digits(s.Next)}
		if len(s.Subscriptions) == 0 {
			t.row(append(head, "", "")...)
		}
		for _, sub := range s.Subscriptions {
			head[1] = sub.Name
			t.row(append(head[:6:6], digits(sub.Backlog), digits(sub.InFlight))...)
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	for _, s := range topics {
		if s.Held {
			fmt.Fprintf(w, "topic %s is held, because it lost messages to damage; `linkspan queue resume --topic %s` lets it go on\n", s.Name, s.Name)
		}
	}
	return nil
}

func newQueueBrowse(io stdio) *cobra.Command {
	var at location
	var q console.MessageQuery
	format := "text"
	cmd := &cobra.Command{
		Use:   "browse --topic TOPIC",
		Short: "list the messages that a topic holds",
		Long: `browse lists messages in order and changes nothing: they stay where they are. Keys,
headers and payloads are data; they are shown with --payload only.

With --json, one object a line; a payload that is not UTF-8 is in payload_base64.` + lookExitCodes,
		Example: "  linkspan queue browse --topic orders\n  linkspan queue browse --topic orders --from 1200 --limit 10 --payload --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Topic == "" {
				return usageError("--topic is missing; `linkspan queue stats` lists the topics")
			}
			if q.Limit < 0 {
				return usageError("--limit is a number of messages, 0 for all")
			}
			if err := checkSelection(cmd, &q); err != nil {
				return err
			}
			return withDirectory(cmd.Context(), &at, func(d *directory) error { return browse(cmd.Context(), d, q, format, io) })
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&q.Topic, "topic", "", "the topic: the name of a pipeline, or NAME.dead")
	selectFlags(cmd, &q)
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "how many at most; 0: all")
	cmd.Flags().BoolVar(&q.Content, "payload", false, "show keys, headers and payloads")
	asJSON(cmd, &format)
	return cmd
}

// selectFlags say which messages of a topic are meant.
func selectFlags(cmd *cobra.Command, q *console.MessageQuery) {
	cmd.Flags().Uint64Var(&q.From, "from", 0, "the first offset")
	cmd.Flags().Var((*instant)(&q.Since), "since", "instead of --from: an instant (RFC 3339), or how long ago (15m)")
	cmd.Flags().StringVar(&q.ID, "id", "", "only messages with this ID")
	cmd.Flags().StringVar(&q.Key, "key", "", "only messages with this key")
	cmd.Flags().StringArrayVar(&q.Headers, "header", nil, "only messages with this header, as NAME=VALUE")
}

// checkSelection refuses flags of selectFlags that would silently select something else.
func checkSelection(cmd *cobra.Command, q *console.MessageQuery) error {
	if cmd.Flags().Changed("from") && !q.Since.IsZero() {
		return usageError("--from and --since both say where to begin; give one of them")
	}
	for _, h := range q.Headers {
		if name, _, ok := strings.Cut(h, "="); !ok || name == "" {
			return usageError("--header is NAME=VALUE, such as --header x-tenant=acme")
		}
	}
	return nil
}

func browse(ctx context.Context, d *directory, q console.MessageQuery, format string, io stdio) error {
	count, last := 0, uint64(0)
	show, end := browseJSON(io.out)
	if format == "text" {
		show, end = browseText(io.out, q.Content)
	}
	err := d.Messages(ctx, q, func(m console.QueuedMessage) error {
		count, last = count+1, m.Offset
		return show(m)
	})
	if err != nil && count == 0 {
		return err
	}
	if err = errors.Join(err, end()); err == nil && q.Limit > 0 && count == q.Limit && format == "text" {
		instead := ""
		if !q.Since.IsZero() {
			instead = " instead of --since"
		}
		fmt.Fprintf(io.err, "%d messages shown; go on with --from %d%s\n", count, last+1, instead)
	}
	return err
}

func browseJSON(w io.Writer) (show func(console.QueuedMessage) error, end func() error) {
	e := console.NewEncoder(w)
	return func(m console.QueuedMessage) error { return e.Encode(m) }, func() error { return nil }
}

func browseText(w io.Writer, content bool) (show func(console.QueuedMessage) error, end func() error) {
	columns := []string{"OFFSET", "TIME", "SOURCE", "FROM", "TYPE", "SIZE"}
	if content {
		columns = append(columns, "KEY", "HEADERS", "PAYLOAD")
	}
	t := newTable(w, columns...)
	return func(m console.QueuedMessage) error {
		cells := []string{digits(m.Offset), clock(m.Appended), m.Source, m.Topic, m.ContentType, digits(m.Size)}
		if content {
			payload, err := m.Bytes()
			if err != nil {
				return err
			}
			cells = append(cells, m.Key+m.KeyBase64, headerText(m.Headers, " "), string(payload))
		}
		t.row(cells...)
		return nil
	}, t.end
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }

func newQueueVerify(io stdio) *cobra.Command {
	var at location
	format := "text"
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "read everything in a stopped data directory and say what does not verify",
		Long: `verify reads what a stopped data directory still needs, and changes nothing.

A torn tail is what a power cut leaves of a write that was not acknowledged: nothing
is lost, and the next run goes on without it. A journal file that was cut short by hand
looks the same. Damage is data that was stable and does
not verify any more; the report names the files, the places and the messages.

Exit codes: 0 clean, 1 torn tail, 2 damage, 4 it could not verify, also because a
running linkspan uses the directory.`,
		Example: "  linkspan queue verify --data /var/lib/linkspan",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := at.options()
			if err != nil {
				return &exitError{exitEnvironment, err.Error()}
			}
			end := spin(cmd.Context(), io.err, "verifying "+at.data)
			rep, err := journal.VerifyWith(cmd.Context(), at.data, o)
			end()
			switch {
			case errors.Is(err, queue.ErrLocked):
				return &exitError{exitEnvironment, fmt.Sprintf("%s is in use by a running linkspan; stop it to verify the directory", at.data)}
			case errors.Is(err, fs.ErrNotExist) && !exists(at.data), errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), "read format"):
				return noQueue(at.data)
			case err != nil:
				return &exitError{exitEnvironment, err.Error()}
			}
			if err := printReport(io.out, &rep, format); err != nil {
				return err
			}
			if rep.Status != journal.Clean {
				return &exitError{code: int(rep.Status)}
			}
			return nil
		},
	}
	at.flags(cmd)
	asJSON(cmd, &format)
	return cmd
}

func printReport(w io.Writer, r *journal.Report, format string) error {
	if format == "json" {
		return console.NewEncoder(w).Encode(struct {
			*journal.Report
			Status string `json:"status"`
		}{r, r.Status.String()})
	}
	fmt.Fprintf(w, "%s: %d topics, %d subscriptions, %d messages; %d frames in %d segments, %d bytes\n",
		r.Status, r.Topics, r.Subscriptions, r.Messages, r.Frames, r.Segments, r.Bytes)
	if r.Tail != nil {
		fmt.Fprintf(w, "torn tail: %s at byte %d; the next run goes on without it\n", r.Tail.Segment, r.Tail.Pos)
	}
	if r.Checkpoints > 0 {
		fmt.Fprintf(w, "damaged checkpoints: %d; the state came from an older one and the journal\n", r.Checkpoints)
	}
	for _, d := range r.Damage {
		fmt.Fprintf(w, "damaged: %s at byte %d, %d bytes\n", d.Segment, d.Pos, d.Length)
	}
	for _, l := range r.Lost {
		fmt.Fprintf(w, "lost: topic %s, offsets %d to %d\n", l.Topic, l.First, l.Last)
	}
	return nil
}
