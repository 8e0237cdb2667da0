package journal_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// planted is a line of the list of known mistakes.
type planted struct {
	name, pkg, tests string
}

// TestPlants builds the tests with the known mistakes in them and shows that each is
// found, and that without one the same tests pass. It is part of the long batteries.
func TestPlants(t *testing.T) {
	if amount(t, 0, 8) < 8 {
		t.Skip("needs -battery long")
	}
	dir := t.TempDir()
	for _, pkg := range []string{".", "../internal/delivery"} {
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "planted", "-o", filepath.Join(dir, testBinary(pkg)), pkg)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
		}
	}
	list := plants(t)
	all := map[string][]string{}
	var missed atomic.Int64
	slots := newPool()
	for _, p := range list {
		all[p.pkg] = append(all[p.pkg], p.tests)
		slots.do(func() {
			start := time.Now()
			out, err := p.run(t, dir)
			if err == nil {
				missed.Add(1)
				t.Errorf("%s is not found by %s", p.name, p.tests)
				return
			}
			t.Logf("%-20s found by %s in %v", p.name, finder(out), time.Since(start).Round(10*time.Millisecond))
		})
	}
	slots.wait()
	for pkg, tests := range all {
		if out, err := (&planted{pkg: pkg, tests: strings.Join(tests, "|")}).run(t, dir); err != nil {
			t.Errorf("without a plant the tests of %s fail: %v\n%s", pkg, err, out)
		}
	}
	t.Logf("%d plants, %d found", len(list), len(list)-int(missed.Load()))
	if len(list) < 15 {
		t.Error("the list is too short")
	}
}

func testBinary(pkg string) string {
	name := filepath.Base(pkg)
	if pkg == "." {
		name = "journal"
	}
	if runtime.GOOS == "windows" {
		return name + ".exe"
	}
	return name + ".test"
}

// run runs the tests that should find the mistake, at their short size.
func (p *planted) run(t *testing.T, dir string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, testBinary(p.pkg)), "-test.run", "^("+p.tests+")$", "-test.failfast", "-test.timeout", "120s", "-rapid.nofailfile")
	if p.pkg == "." {
		cmd.Args = append(cmd.Args, "-battery", "plants")
	}
	cmd.Dir = p.pkg
	cmd.Env = append(os.Environ(), "LINKSPAN_PLANT="+p.name)
	return cmd.CombinedOutput()
}

// finder names the test that failed.
func finder(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
			name, _, _ := strings.Cut(rest, " ")
			return name
		}
	}
	return "a panic or a time-out"
}

func plants(t *testing.T) (list []*planted) {
	t.Helper()
	f, err := os.Open("testdata/plants.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Split(s.Text(), "|")
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		if len(fields) != 4 {
			t.Fatalf("plants.txt: %q has no four fields", s.Text())
		}
		p := &planted{name: strings.TrimSpace(fields[0]), pkg: "."}
		var tests []string
		for name := range strings.SplitSeq(fields[1], ",") {
			name, other := strings.CutPrefix(strings.TrimSpace(name), "delivery.")
			if other {
				p.pkg = "../internal/delivery"
			}
			tests = append(tests, name)
		}
		p.tests = strings.Join(tests, "|")
		list = append(list, p)
	}
	return list
}

// TestPlantsAreListed compares the list with the mistakes that the program has.
func TestPlantsAreListed(t *testing.T) {
	source, err := os.ReadFile("../internal/plant/plant.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := plants(t)
	for _, p := range listed {
		if !strings.Contains(string(source), `"`+p.name+`"`) {
			t.Errorf("%s is listed and not there", p.name)
		}
	}
	if n := strings.Count(string(source), " Bug = "); n != len(listed) {
		t.Errorf("%d plants, %d listed", n, len(listed))
	}
}
