package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
)

// commandLine is the file name in problems with key=value arguments. The line is the
// number of the argument.
const commandLine = "command line"

// maxMessage is the largest message that send and receive take, as with pipelines.
const maxMessage = 16 << 20

// connectorNamed finds a connector by the first argument.
func (io stdio) connectorNamed(name string) (connectors.Spec, error) {
	i := slices.IndexFunc(io.specs, func(s connectors.Spec) bool { return s.Name == name })
	if i >= 0 {
		return io.specs[i], nil
	}
	var names []string
	for _, s := range io.specs {
		names = append(names, s.Name)
	}
	return connectors.Spec{}, usageError("there is no connector %q; %s", name, config.Suggest(name, names))
}

// parsePairs turns key=value arguments into the node that a connector's YAML would
// give. A value is a YAML scalar, or a list or mapping in flow style; text that YAML
// would read as something else (a lone #, `a: b`) is taken as text.
func parsePairs(args []string, r *config.Report) (config.Node, error) {
	var doc strings.Builder
	for _, a := range args {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return config.Node{}, usageError("%q is not key=value", a)
		}
		doc.WriteString(yamlText(key) + ": " + yamlText(value) + "\n")
	}
	if doc.Len() == 0 {
		doc.WriteString("{}\n")
	}
	f := config.Parse(commandLine, []byte(doc.String()), config.SystemLookup(), r)
	if f == nil {
		return config.Node{}, nil
	}
	return f.Root(), nil
}

// yamlText returns text so that YAML reads it as the user meant it.
func yamlText(s string) string {
	switch {
	case s == "":
		return `""`
	case strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]"),
		strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}"),
		len(s) > 1 && strings.HasPrefix(s, `"`) && strings.HasSuffix(s, `"`),
		len(s) > 1 && strings.HasPrefix(s, "'") && strings.HasSuffix(s, "'"):
		return s
	case strings.ContainsAny(s, "\n\r\t"):
		return strconv.Quote(s)
	case strings.ContainsAny(s[:1], "#&*!|>%@`\"'[]{},? -:"), strings.Contains(s, ": "), strings.Contains(s, " #"),
		strings.HasSuffix(s, ":"), strings.HasSuffix(s, " "):
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return s
}

// failed prints problems and returns the error that ends the command, if there is one.
func failed(io stdio, r *config.Report) error {
	printProblems(io.err, r.Problems())
	if r.Failed() {
		return &exitError{code: exitUsage}
	}
	return nil
}

// newSink builds the sink of a connector from key=value arguments.
func newSink(spec connectors.Spec, args []string, env connectors.Env, io stdio) (connectors.Sink, error) {
	if spec.Sink == nil {
		return nil, usageError("%s cannot send; it only receives", spec.Name)
	}
	var r config.Report
	node, err := parsePairs(args, &r)
	if err != nil {
		return nil, err
	}
	if r.Failed() {
		return nil, failed(io, &r)
	}
	build, _, options := spec.Sink.Decode(node, &r)
	for _, o := range options {
		r.Errorf(o.Expr.Node, "LS1150", "write the value", "an expression needs a pipeline; here a value is plain text")
	}
	if err := failed(io, &r); err != nil {
		return nil, err
	}
	s, err := build(env)
	if err != nil {
		return nil, usageError("%s: %s", spec.Name, err)
	}
	return s, nil
}

// newSource builds the source of a connector from key=value arguments.
func newSource(spec connectors.Spec, args []string, env connectors.Env, io stdio) (connectors.Source, error) {
	if spec.Source == nil {
		return nil, usageError("%s cannot receive; it only sends", spec.Name)
	}
	var r config.Report
	node, err := parsePairs(args, &r)
	if err != nil {
		return nil, err
	}
	if r.Failed() {
		return nil, failed(io, &r)
	}
	build, _ := spec.Source.Decode(node, &r)
	if err := failed(io, &r); err != nil {
		return nil, err
	}
	s, err := build(env)
	if err != nil {
		return nil, usageError("%s: %s", spec.Name, err)
	}
	return s, nil
}

// withEnv lends a connector what a pipeline would, for the time of f. The state of a
// command is worth nothing after it, so its directory is removed.
func withEnv(ctx context.Context, verb string, io stdio, f func(context.Context, connectors.Env) error) error {
	dir, err := os.MkdirTemp("", "linkspan-"+verb+"-*")
	if err != nil {
		return &exitError{exitEnvironment, fmt.Sprintf("make a temporary directory: %v", err)}
	}
	// The process id is part of the name, and so of the name that a broker knows: two
	// commands at once must not push each other out.
	env := connectors.Env{
		Pipeline: "cli", Name: fmt.Sprintf("%s-%d", verb, os.Getpid()), Dir: dir, MaxMessage: maxMessage,
		Logger: newLogger(io.err, slog.LevelWarn), Listeners: connectors.NewListeners(), Replies: connectors.NewReplies(),
	}
	return errors.Join(f(ctx, env), env.Listeners.Close(), os.RemoveAll(dir))
}
