package cmd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/console"
)

func newQueueExport(std stdio) *cobra.Command {
	var at location
	var out string
	q := console.MessageQuery{Content: true}
	cmd := &cobra.Command{
		Use:   "export --topic TOPIC",
		Short: "write the messages of a topic with everything they have, as JSON",
		Long: `export writes one JSON object a line for each message that a topic holds: offset,
instants, properties, key, headers and payload, and payload_base64 for a payload that is
not UTF-8. It changes nothing. Also messages under lost+found/ can be exported, which are
those of a topic whose name was lost to damage.` + lookExitCodes,
		Example: "  linkspan queue export --topic orders --out orders.ndjson\n  linkspan queue export --topic orders.dead --since 24h | jq .payload",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Topic == "" {
				return usageError("--topic is missing; `linkspan queue stats` lists the topics")
			}
			if err := checkSelection(cmd, &q); err != nil {
				return err
			}
			if out == "" {
				return export(cmd.Context(), &at, q, std.out)
			}
			return exportFile(cmd.Context(), &at, q, out)
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&q.Topic, "topic", "", "the topic: the name of a pipeline, or NAME.dead")
	cmd.Flags().StringVar(&out, "out", "", "a new file, instead of standard output")
	selectFlags(cmd, &q)
	return cmd
}

// exportFile leaves no file behind when it fails: half an export looks like a whole one.
func exportFile(ctx context.Context, at *location, q console.MessageQuery, name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return &exitError{exitEnvironment, err.Error()}
	}
	if err = errors.Join(export(ctx, at, q, f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

func export(ctx context.Context, at *location, q console.MessageQuery, w io.Writer) error {
	return withDirectory(ctx, at, func(d *directory) error {
		buffered := bufio.NewWriterSize(w, 1<<16)
		e := console.NewEncoder(buffered)
		err := d.Messages(ctx, q, func(m console.QueuedMessage) error { return e.Encode(m) })
		return errors.Join(err, buffered.Flush())
	})
}
