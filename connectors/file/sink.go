package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/message"
)

// stampFormat is the time in the name of a rotated file. It sorts by time.
const stampFormat = "20060102T150405.000000000Z"

type sink struct {
	cfg SinkConfig

	mu sync.Mutex
	// file is nil when it must be opened (again).
	file *os.File
	size int64
	// began is when the first line of the file was written, as far as is known.
	began time.Time
	buf   bytes.Buffer
}

func newSink(cfg SinkConfig, _ connectors.Env) (connectors.Sink, error) {
	return &sink{cfg: cfg}, nil
}

// Open implements connectors.Sink.
func (s *sink) Open(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open()
}

func (s *sink) open() error {
	if s.file != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.cfg.Path), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	_, err := os.Stat(s.cfg.Path)
	isNew := errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(s.cfg.Path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		s.size, err = cutTornLine(f, info.Size())
	}
	if err == nil && isNew {
		err = syncDir(filepath.Dir(s.cfg.Path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open file: %w", err), f.Close())
	}
	s.file, s.began = f, info.ModTime()
	if s.size == 0 {
		s.began = time.Now()
	}
	return nil
}

// cutTornLine removes an unfinished last line and returns the new size.
func cutTornLine(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 4096)
	end := size
	for end > 0 {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if at := bytes.LastIndexByte(buf[:n], '\n'); at >= 0 {
			end += int64(at) + 1 - n
			break
		}
		end -= n
	}
	if end == size {
		return size, nil
	}
	if err := f.Truncate(end); err != nil {
		return 0, err
	}
	return end, f.Sync()
}

// Close implements connectors.Sink.
func (s *sink) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}

// Handle implements message.Handler.
func (s *sink) Handle(_ context.Context, b *message.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Reset()
	failed := lines.Append(&s.buf, b)
	if s.buf.Len() == 0 {
		return lines.Partial(failed)
	}
	if err := s.write(); err != nil {
		for _, full := range noSpace() {
			if errors.Is(err, full) {
				return message.Unavailable(fmt.Errorf("write %s: %w", s.cfg.Path, message.ErrDiskFull))
			}
		}
		return message.Unavailable(err)
	}
	return lines.Partial(failed)
}

// write appends the buffer and makes it durable. After an error the file is closed:
// what a failed fsync left in the cache cannot be trusted, and a part of a line is
// cut when the file is opened again.
func (s *sink) write() error {
	if err := s.open(); err != nil {
		return err
	}
	if s.full(time.Now()) {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	_, err := s.file.Write(s.buf.Bytes())
	if err == nil {
		err = s.file.Sync()
	}
	if err == nil {
		s.size += int64(s.buf.Len())
		return nil
	}
	// The whole batch comes again, so nothing of it may stay.
	err = errors.Join(fmt.Errorf("write %s: %w", s.cfg.Path, err), s.file.Truncate(s.size), s.file.Close())
	s.file = nil
	return err
}

func (s *sink) full(now time.Time) bool {
	r := s.cfg.Rotate
	return s.size > 0 && (r.Bytes > 0 && s.size+int64(s.buf.Len()) > int64(r.Bytes) ||
		r.Every > 0 && !s.began.UTC().Truncate(r.Every).Equal(now.UTC().Truncate(r.Every)))
}

// rotate renames the file and begins a new one.
func (s *sink) rotate() error {
	err := s.file.Close()
	s.file = nil
	if err != nil {
		return fmt.Errorf("close file: %w", err)
	}
	if err := os.Rename(s.cfg.Path, s.cfg.Path+"."+time.Now().UTC().Format(stampFormat)); err != nil {
		return fmt.Errorf("rotate file: %w", err)
	}
	if err := s.prune(); err != nil {
		return err
	}
	return s.open() // syncs the folder, and with it the rename
}

// prune removes the oldest rotated files.
func (s *sink) prune() error {
	if s.cfg.Rotate.Keep == 0 {
		return nil
	}
	names, err := filepath.Glob(globQuote(s.cfg.Path) + ".*Z")
	if err != nil {
		return fmt.Errorf("list rotated files: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, err := time.Parse(stampFormat, name[len(s.cfg.Path)+1:])
		return err != nil // not one of ours
	})
	slices.Sort(names)
	for len(names) > s.cfg.Rotate.Keep {
		if err := os.Remove(names[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove rotated file: %w", err)
		}
		names = names[1:]
	}
	return nil
}
