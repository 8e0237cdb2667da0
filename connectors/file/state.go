package file

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// headBytes is how much of a file's beginning identifies it.
const headBytes = 1024

// state is the position in a file. It is kept in DIR/position.json.
type state struct {
	Path   string `json:"path"`
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
	// Head is the SHA-256 of the first HeadBytes bytes.
	Head      string `json:"head"`
	HeadBytes int64  `json:"head_bytes"`
	// named: the name of the state file is on stable storage.
	named bool
}

func stateFile(dir string) string { return filepath.Join(dir, "position.json") }

// loadState returns nil when there is none for path.
func loadState(dir, path string) (*state, error) {
	data, err := os.ReadFile(stateFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // absence is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("read position: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read position %s: %w", stateFile(dir), err)
	}
	if s.Path != path {
		return nil, nil //nolint:nilnil // the input reads another file now
	}
	return &s, nil
}

// save replaces the state on stable storage: a crash leaves the old or the new one.
func (s *state) save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	temporary := stateFile(dir) + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temporary, stateFile(dir))
	}
	if err == nil && !s.named {
		// Later the name is there, and a rename that a power cut undoes gives an older
		// position, which repeats and loses nothing.
		err = syncDir(dir)
		s.named = err == nil
	}
	if err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	return nil
}

// identify notes which file s is about. A head that is there is kept while the
// file begins with it, since the file may have grown.
func (s *state) identify(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat file: %w", err)
	}
	s.Inode = inode(info)
	if s.HeadBytes == headBytes {
		return nil
	}
	s.HeadBytes = min(headBytes, info.Size())
	s.Head, err = head(f, s.HeadBytes)
	return err
}

// sameStart reports whether f begins as the file that s was taken from.
func (s *state) sameStart(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("stat file: %w", err)
	}
	if info.Size() < s.HeadBytes || info.Size() < s.Offset {
		return false, nil
	}
	got, err := head(f, s.HeadBytes)
	return got == s.Head, err
}

func head(f io.ReaderAt, n int64) (string, error) {
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read file: %w", err)
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:]), nil
}

// findRenamed looks beside path for the file that s was taken from, when another
// one stands at path now. It returns nil when there is none.
func (s *state) findRenamed(path string) *os.File {
	if s.Inode == 0 {
		return nil
	}
	names, err := filepath.Glob(globQuote(path) + "?*")
	if err != nil {
		return nil
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || inode(info) != s.Inode {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		if same, err := s.sameStart(f); err == nil && same {
			return f
		}
		_ = f.Close() // opened for reading only
	}
	return nil
}

func globQuote(path string) string {
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		if c := path[i]; c == '*' || c == '?' || c == '[' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, path[i])
	}
	return string(out)
}

// syncDir makes a created or renamed entry durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
