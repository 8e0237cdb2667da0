package all

import (
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A connector folder that nobody lists would be built and tested, and missing from
// the program. What is built over watermill is for programs that bring their own, and
// cloud is a module of its own.
func TestSpecsListsEveryFolder(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	var folders, names []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains([]string{"all", "cloud", "connectortest", "internal", "watermill"}, e.Name()) {
			folders = append(folders, e.Name())
		}
	}
	for _, s := range Specs() {
		names = append(names, s.Name)
		if s.Source == nil && s.Sink == nil {
			t.Errorf("%s has no end", s.Name)
		}
	}
	if d := cmp.Diff(folders, names); d != "" {
		t.Error(d)
	}
}
