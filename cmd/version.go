package cmd

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is the release, as the changelog names it.
const version = "0.1.0"

func newVersion(io stdio) *cobra.Command {
	format := "text"
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			if format == "json" {
				return json.NewEncoder(io.out).Encode(map[string]string{"version": version, "revision": revision(), "go": runtime.Version()})
			}
			fmt.Fprintf(io.out, "linkspan %s (%s, %s)\n", version, revision(), runtime.Version())
			return nil
		},
	}
	asJSON(cmd, &format)
	return cmd
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return s.Value[:12]
			}
		}
	}
	return "unversioned"
}
