package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/message"
)

// headerError is the header of a CSV row that could not be made an object.
const headerError = "file.error"

// quietPolls is how often a renamed file is looked at before it is left.
const quietPolls = 10

type source struct {
	cfg SourceConfig
	env connectors.Env
	key []byte

	file  *os.File
	state state
	saved int64
	cut   *lines.Cutter
	table *table
	batch message.Batch
	// after is the position behind each message of the batch.
	after []int64
	arena []byte
	// quiet counts looks at a renamed file that did not grow.
	quiet int
}

func newSource(cfg SourceConfig, env connectors.Env) (connectors.Source, error) {
	find := lines.Line
	if cfg.Format == formatCSV {
		find = rows(cfg.Delimiter[0])
	}
	return &source{cfg: cfg, env: env, key: []byte(cfg.Path), cut: lines.NewCutter(find, env.MaxMessage)}, nil
}

// Run implements connectors.Source.
func (s *source) Run(ctx context.Context, next message.Handler) error {
	defer func() {
		if s.file != nil {
			_ = s.file.Close() // opened for reading only
		}
	}()
	if err := s.open(ctx); err != nil || s.file == nil {
		return err
	}
	for {
		n, err := s.cut.Fill(s.file)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", s.cfg.Path, err)
		}
		if err := s.handOn(ctx, next, false); err != nil || ctx.Err() != nil {
			return err
		}
		if n > 0 {
			s.quiet = 0
			continue
		}
		more, err := s.atEnd(ctx, next)
		if err != nil || !more {
			return err
		}
	}
}

// open finds the file and the position in it. The file stays nil when ctx ended.
func (s *source) open(ctx context.Context) error {
	old, err := loadState(s.env.Dir, s.cfg.Path)
	if err != nil {
		return err
	}
	f, err := s.await(ctx)
	if err != nil || f == nil {
		return err
	}
	if old == nil {
		if s.cfg.From == fromEnd {
			info, err := f.Stat()
			if err != nil {
				return errors.Join(err, f.Close())
			}
			return s.use(f, state{Path: s.cfg.Path, Offset: info.Size()})
		}
		return s.use(f, state{Path: s.cfg.Path})
	}
	same, err := old.sameStart(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	// An empty beginning says nothing; then it must be the very file.
	if same && (old.HeadBytes > 0 || old.Inode == inode(info)) {
		return s.use(f, *old)
	}
	if renamed := old.findRenamed(s.cfg.Path); renamed != nil {
		_ = f.Close() // opened for reading only; it comes after the renamed one
		return s.use(renamed, *old)
	}
	s.env.Logger.LogAttrs(ctx, slog.LevelWarn, "the file is another one than before, reading it from the start", slog.String("path", s.cfg.Path))
	return s.use(f, state{Path: s.cfg.Path})
}

// await waits for the file to exist when it is followed.
func (s *source) await(ctx context.Context) (*os.File, error) {
	for said := false; ; said = true {
		f, err := os.Open(s.cfg.Path)
		if err == nil {
			return f, nil
		}
		if !s.cfg.Follow || !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open file: %w", err)
		}
		if !said {
			s.env.Logger.LogAttrs(ctx, slog.LevelInfo, "waiting for the file", slog.String("path", s.cfg.Path))
		}
		if !s.pause(ctx) {
			return nil, nil //nolint:nilnil // the source was stopped
		}
	}
}

// use goes on with a file at a position.
func (s *source) use(f *os.File, at state) error {
	if s.file != nil {
		_ = s.file.Close() // opened for reading only
	}
	s.file, s.state, s.table, s.quiet = f, at, nil, 0
	if at.Offset == 0 {
		// A byte order mark is not part of the first record.
		mark := make([]byte, 3)
		if n, _ := f.ReadAt(mark, 0); n == 3 && string(mark) == "\xef\xbb\xbf" {
			s.state.Offset = 3
		}
	}
	if err := s.state.identify(f); err != nil {
		return err
	}
	if _, err := f.Seek(s.state.Offset, io.SeekStart); err != nil {
		return fmt.Errorf("seek file: %w", err)
	}
	s.cut.Reset(s.state.Offset)
	s.saved = s.state.Offset
	if s.cfg.Format == formatCSV && s.state.Offset > 3 {
		return s.readHeader()
	}
	return nil
}

// readHeader finds the columns of a file that is not read from its start.
func (s *source) readHeader() error {
	if len(s.cfg.Columns) > 0 {
		return nil
	}
	cut := lines.NewCutter(rows(s.cfg.Delimiter[0]), s.env.MaxMessage)
	from := io.NewSectionReader(s.file, 0, s.state.Offset)
	for {
		if _, err := cut.Fill(from); err != nil {
			return fmt.Errorf("read header row: %w", err)
		}
		first, ok, err := cut.Next()
		if err != nil {
			return err
		}
		if ok {
			s.table, err = header([]byte(trimMark(string(first))), s.cfg.Delimiter)
			return err
		}
	}
}

func trimMark(s string) string {
	if len(s) >= 3 && s[:3] == "\xef\xbb\xbf" {
		return s[3:]
	}
	return s
}

// atEnd decides what follows the end of the file. More is false when nothing does.
func (s *source) atEnd(ctx context.Context, next message.Handler) (more bool, err error) {
	same, err := s.state.sameStart(s.file)
	if err != nil {
		return false, err
	}
	info, err := s.file.Stat()
	if err != nil {
		return false, fmt.Errorf("stat file: %w", err)
	}
	if !same || info.Size() < s.cut.Offset()+int64(s.cut.Pending()) {
		s.env.Logger.LogAttrs(ctx, slog.LevelInfo, "the file was truncated, reading it from the start", slog.String("path", s.cfg.Path))
		f, err := os.Open(s.cfg.Path)
		if err != nil {
			return false, fmt.Errorf("open file: %w", err)
		}
		return true, s.use(f, state{Path: s.cfg.Path})
	}
	successor := s.successor()
	if successor != nil && s.quiet < quietPolls && s.cfg.Follow {
		// The writer may not know of the rename yet and still add to the old file.
		s.quiet++
		_ = successor.Close() // opened for reading only
		return s.pause(ctx), nil
	}
	if successor != nil || !s.cfg.Follow {
		// This file will not grow any more, so a line without an end is complete.
		if err := s.handOn(ctx, next, true); err != nil || ctx.Err() != nil {
			return false, err
		}
	}
	switch {
	case successor != nil:
		return true, s.use(successor, state{Path: s.cfg.Path})
	case !s.cfg.Follow:
		return false, connectors.ErrEnd
	}
	return s.pause(ctx), nil
}

// successor returns the file that stands at the path now, if it is another one and
// the one that is read has not grown since its end was reached.
func (s *source) successor() *os.File {
	now, err := os.Stat(s.cfg.Path)
	if err != nil {
		return nil // renamed, and the new one is not there yet
	}
	mine, err := s.file.Stat()
	if err != nil || os.SameFile(now, mine) || mine.Size() > s.cut.Offset()+int64(s.cut.Pending()) {
		return nil
	}
	f, err := os.Open(s.cfg.Path)
	if err != nil {
		return nil
	}
	return f
}

// pause waits for the next look. It returns false when ctx ended.
func (s *source) pause(ctx context.Context) bool {
	timer := time.NewTimer(s.cfg.Poll)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// handOn hands on all complete records that were read, and what is left when last
// is set, and notes how far it came.
func (s *source) handOn(ctx context.Context, next message.Handler, last bool) error {
	for ctx.Err() == nil {
		if err := s.gather(last); err != nil {
			return errors.Join(err, s.save())
		}
		if s.batch.Len() == 0 {
			// Records that are passed over count as read.
			s.state.Offset = s.cut.Offset()
			return s.save()
		}
		err := next.Handle(ctx, &s.batch)
		if taken := lines.Taken(err, s.batch.Len()); taken > 0 {
			s.state.Offset = s.after[taken-1]
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return s.save()
		case err != nil:
			return errors.Join(fmt.Errorf("hand on records of %s: %w", s.cfg.Path, err), s.save())
		}
	}
	return s.save()
}

func (s *source) save() error {
	if s.state.Offset == s.saved {
		return nil
	}
	if err := s.state.identify(s.file); err != nil {
		return err
	}
	if err := s.state.save(s.env.Dir); err != nil {
		return err
	}
	s.saved = s.state.Offset
	return nil
}
