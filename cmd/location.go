package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/queue/journal"
)

// keysVariable is the environment's master key, 64 hexadecimal digits.
const keysVariable = "LINKSPAN_KEYS"

// location is a data directory and where its master key is.
type location struct {
	data string
	keys string // a file
}

func (l *location) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.data, "data", defaultData, "the data directory")
	cmd.Flags().StringVar(&l.keys, "keys", "", "file with the master key, when the queue is encrypted (default: "+keysVariable+", or DATA/keys)")
}

// source returns the master key that somebody configured: in a file, in the
// environment, or in the data directory. It may be none.
func (l *location) source() (*keys.Source, error) {
	if l.keys != "" {
		return keys.ReadFile(l.keys)
	}
	if text, ok := os.LookupEnv(keysVariable); ok {
		s, err := keys.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("read key from %s: %w", keysVariable, err)
		}
		return s, nil
	}
	s, err := keys.ReadFile(filepath.Join(l.data, "keys"))
	if errors.Is(err, fs.ErrNotExist) {
		return keys.None(), nil
	}
	return s, err
}

// encrypted reports whether the directory has a keyring.
func (l *location) encrypted() bool {
	list, err := journal.KeysStatus(vfs.OS(), l.data)
	return err != nil && !errors.Is(err, fs.ErrNotExist) || len(list) > 0
}

// options are what the directory is opened with: the master key if it is encrypted.
func (l *location) options() (o journal.Options, err error) {
	if !l.encrypted() {
		return o, nil
	}
	source, err := l.source()
	if err != nil || !source.Present() {
		return o, err // opening says that a key is needed
	}
	o.Master, err = journal.NewMaster(source)
	return o, err
}

// open opens a stopped directory for writing. It returns the master key, too: nil
// when the directory is not encrypted.
func (l *location) open(ctx context.Context) (*journal.Engine, journal.Master, error) {
	o, err := l.options()
	if err != nil {
		return nil, nil, &exitError{exitEnvironment, err.Error()}
	}
	q, err := journal.Open(ctx, l.data, o)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, noQueue(l.data)
	case err != nil:
		return nil, nil, &exitError{exitEnvironment, err.Error()}
	}
	return q, o.Master, nil
}
