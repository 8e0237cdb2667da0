package main

import (
	"os"
	"path/filepath"
	"strings"
)

// brokersEnv returns the addresses that test/brokers/brokers has written, none when it
// did not run.
func brokersEnv() map[string]string {
	home := os.Getenv("LS_HOME")
	if home == "" {
		home = filepath.Join(os.TempDir(), "linkspan-brokers")
	}
	text, err := os.ReadFile(filepath.Join(home, "brokers.env")) //nolint:gosec // the user names the folder
	if err != nil {
		return nil
	}
	env := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			env[k] = v
		}
	}
	return env
}
