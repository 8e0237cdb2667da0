// Package brokersenv finds the real brokers that test/brokers/brokers has started, for
// tests with the build tag brokers. A broker that is not up fails the test: what did
// not run must not read as a pass. On a machine that cannot have a broker,
// LINKSPAN_BROKERS_SKIP names those that are left out, loudly.
package brokersenv

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// file is where the script writes addresses: brokers.env in $LS_HOME, or in the default
// home.
func file() string {
	home := os.Getenv("LS_HOME")
	if home == "" {
		home = filepath.Join(os.TempDir(), "linkspan-brokers")
	}
	return filepath.Join(home, "brokers.env")
}

// Need returns the value of a key of the broker's environment, such as
// LS_RABBITMQ_AMQP_URL of rabbitmq.
func Need(t testing.TB, broker, key string) string {
	t.Helper()
	t.Cleanup(func() { enter(t, broker) })
	if slices.Contains(strings.Split(os.Getenv("LINKSPAN_BROKERS_SKIP"), ","), broker) {
		t.Skipf("NOT TESTED: %s is left out by LINKSPAN_BROKERS_SKIP", broker)
	}
	text, err := os.ReadFile(file())
	if err != nil {
		t.Fatalf("%s is not up (test/brokers/brokers up %s): %v", broker, broker, err)
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), "="); ok && k == key {
			return v
		}
	}
	t.Fatalf("%s is not in %s: is %s up? (test/brokers/brokers up %s)", key, file(), broker, broker)
	return ""
}

// Do runs the script: restart, kill, up, pause or resume of a broker (a node, for kill,
// pause and resume; the broker kafka has the node kafka-1). It returns when the broker
// is ready again.
func Do(t testing.TB, verb, name string) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(here), "..", "brokers")
	if out, err := exec.CommandContext(t.Context(), script, verb, name).CombinedOutput(); err != nil {
		t.Fatalf("brokers %s %s: %v\n%s", verb, name, err, out)
	}
}

// enter writes what ran against what, and how it ended, into the ledger that the
// script prints as a table.
func enter(t testing.TB, broker string) {
	name := os.Getenv("LINKSPAN_BROKERS_LEDGER")
	if name == "" {
		return
	}
	result := "passed"
	switch {
	case t.Failed():
		result = "failed"
	case t.Skipped():
		result = "skipped"
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Errorf("the ledger of broker tests: %v", err)
		return
	}
	suite := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
	_, err = fmt.Fprintf(f, "%s %s %s %s\n", suite, broker, result, t.Name())
	if err := errors.Join(err, f.Close()); err != nil {
		t.Errorf("the ledger of broker tests: %v", err)
	}
}

// Print logs a result, and leaves it to the script to print at the end: go test shows
// what a package printed only when it fails.
func Print(t testing.TB, text string) {
	t.Helper()
	t.Log(text)
	name := os.Getenv("LINKSPAN_BROKERS_LEDGER")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name+".text", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Errorf("the results of broker tests: %v", err)
		return
	}
	_, err = fmt.Fprintf(f, "%s\n\n", text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Errorf("the results of broker tests: %v", err)
	}
}
