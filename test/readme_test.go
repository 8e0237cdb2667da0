package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestReadme runs the console blocks of the README in one shell, in their order, and
// compares what they print. A line `...` stands for any lines, `...` in a line for
// any text. A command whose effect takes a moment is tried again for a while.
func TestReadme(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "bin", "linkspan")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/linkspan").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.Symlink(filepath.Join(root, "examples"), filepath.Join(dir, "examples")); err != nil {
		t.Fatal(err)
	}
	sh := newShell(t, dir)
	commands := 0
	for _, c := range consoleCommands(string(text)) {
		commands++
		if strings.HasSuffix(c.line, "&") {
			sh.run(t, c.line)
			continue
		}
		var got string
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
			got = sh.run(t, c.line)
			if c.matches(got) {
				break
			}
		}
		if !c.matches(got) {
			log, _ := os.ReadFile(filepath.Join(dir, "bridge.log"))
			t.Fatalf("$ %s\nprinted:\n%s\nthe README says:\n%s\nlog:\n%s", c.line, got, c.want, tail(string(log)))
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands were found", commands)
	}
}

type command struct{ line, want string }

func (c command) matches(got string) bool {
	pattern := regexp.QuoteMeta(strings.TrimSpace(c.want))
	pattern = strings.ReplaceAll(pattern, `\.\.\.`, `(?s:.*)`)
	return regexp.MustCompile(`^` + pattern + `$`).MatchString(strings.TrimSpace(got))
}

func consoleCommands(text string) []command {
	var all []command
	for _, block := range strings.Split(text, "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for line := range strings.Lines(block) {
			if cmd, ok := strings.CutPrefix(line, "$ "); ok {
				all = append(all, command{line: strings.TrimSpace(cmd)})
			} else if len(all) > 0 {
				all[len(all)-1].want += line
			}
		}
	}
	return all
}

// shell is one bash that runs commands one after the other.
type shell struct {
	in  io.Writer
	out *bufio.Reader
}

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--norc", "-m")
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fmt.Fprintln(in, "kill %1 2>/dev/null; wait; exit")
		in.Close()
		_ = cmd.Wait()
	})
	return &shell{in: in, out: bufio.NewReader(out)}
}

// run runs one command and returns what it printed.
func (s *shell) run(t *testing.T, line string) string {
	t.Helper()
	const mark = "=== end of command ==="
	if strings.HasSuffix(line, "&") {
		fmt.Fprintf(s.in, "%s\necho; echo %q\n", line, mark)
	} else {
		fmt.Fprintf(s.in, "{ %s\n} 2>&1; echo; echo %q\n", line, mark)
	}
	var got strings.Builder
	for {
		l, err := s.out.ReadString('\n')
		if strings.TrimSpace(l) == mark {
			return got.String()
		}
		got.WriteString(l)
		if err != nil {
			t.Fatalf("$ %s\n%s%v", line, got.String(), err)
		}
	}
}
