package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/journal"
)

func newQueueKeys(io stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "the keys of an encrypted queue: status, rotate, shred",
		Long: `With linkspan run --encrypt, or queue: {encrypt: true} in linkspan.yaml, what the queue
stores is encrypted with AES-256-GCM. Each topic and the journal have data keys of their
own. The master key (--keys, LINKSPAN_KEYS, or DATA/keys) encrypts those in the file
keyring; who has neither can read nothing.`,
		Example: "  linkspan queue keys status\n  linkspan queue keys rotate --new-keys next.key\n  linkspan queue keys shred --topic old-orders",
		Args:    subcommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeysStatus(io), newKeysRotate(io), newKeysShred(io))
	return cmd
}

func newKeysStatus(io stdio) *cobra.Command {
	var at location
	format := "text"
	cmd := &cobra.Command{
		Use:   "status",
		Short: "list the data keys, without secrets",
		Long: `status lists the data keys of a running or a stopped queue: the number of the topic that
each is for, or journal, and the name of the master key that it is encrypted with. An
active key encrypts what is new, the others are for reading.

With --json, one object a key.` + lookExitCodes,
		Example: "  linkspan queue keys status --data /var/lib/linkspan",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			list, err := journal.KeysStatus(vfs.OS(), at.data)
			switch {
			case errors.Is(err, fs.ErrNotExist) || err == nil && !exists(filepath.Join(at.data, "FORMAT")):
				return noQueue(at.data)
			case err != nil:
				return &exitError{exitEnvironment, err.Error()}
			}
			if format == "json" {
				return eachJSON(io.out, list)
			}
			if len(list) == 0 {
				fmt.Fprintln(io.out, "the queue is not encrypted")
				return nil
			}
			t := newTable(io.out, "KEY", "FOR", "MASTER", "CREATED", "ACTIVE")
			for _, k := range list {
				of := "journal"
				if k.Topic != 0 {
					of = "topic " + strconv.FormatUint(uint64(k.Topic), 10)
				}
				t.row(digits(uint64(k.ID)), of, k.Master, clock(k.Created), strconv.FormatBool(k.Active))
			}
			return t.end()
		},
	}
	at.flags(cmd)
	asJSON(cmd, &format)
	return cmd
}

func newKeysRotate(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "rotate"}}
	cmd := c.command(io, "rotate", "make new data keys, and change the master key",
		`rotate makes new data keys for what is written from now on. With --new-keys it also
encrypts all data keys with another master key: when it is done, the old one opens
nothing any more. Configure the new one before the next start.`,
		"  linkspan queue keys rotate\n  linkspan queue keys rotate --new-keys next.key")
	cmd.Flags().StringVar(&c.order.KeyFile, "new-keys", "", "file with the next master key, 64 hexadecimal digits")
	return cmd
}

func newKeysShred(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "shred"}}
	return c.command(io, "shred --topic TOPIC", "delete a topic so that no copy of the files can be read",
		`shred deletes a topic like queue delete, and every key with which its messages could be
read from old copies of the data directory. It returns when that is done, which takes as
long as messages of other topics have to be moved; when it is interrupted, call it again.
Backups of the keyring have to be deleted by you.`,
		"  linkspan queue keys shred --topic old-orders")
}

// rotation changes the keys of an open queue. It knows which master key the queue has
// at the moment: that it was opened with, wherever that came from, then each new one.
type rotation struct {
	queue *journal.Engine

	mu     sync.Mutex
	master journal.Master // nil: the queue is not encrypted
}

// rotate is an order of an operator. Without a file the master key stays.
func (r *rotation) rotate(ctx context.Context, keyFile string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.master
	if keyFile != "" {
		source, err := keys.ReadFile(keyFile)
		if err == nil {
			next, err = journal.NewMaster(source)
		}
		if err != nil {
			return fmt.Errorf("rotate keys: %w", err)
		}
	}
	if err := r.queue.RotateKeys(ctx, next); err != nil {
		return err
	}
	r.master = next
	return nil
}
