package cmd

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/keys"
	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue/journal"
	stepsall "github.com/linkspan/linkspan/transform/all"
)

func (io stdio) registry(k *keys.Source) pipelines.Registry {
	return pipelines.Registry{
		Connectors: io.specs, Steps: stepsall.Specs(), Keys: k,
		Queue: (*journal.Engine)(nil).Caps(), // they are the same for every journal
	}
}

func newCheck(io stdio) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "compile pipelines and report every problem, without running anything",
		Long: `check compiles the files and folders and prints every problem of all of them at
once: the place, the line, why it is wrong, and what to write. Nothing is dialled,
opened or written. It needs no key.

Warnings do not change the exit code: 0 when the pipelines would run, 2 when not.`,
		Example: "  linkspan check pipeline.yaml\n  linkspan check pipelines/ --format json",
		Args:    needs("the path of a pipeline or a folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return usageError("--format is text or json, not %q", format)
			}
			var r config.Report
			d := pipelines.Load(args, io.registry(keys.None()), config.SystemLookup(), &r)
			return report(io, d, &r, format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	asJSON(cmd, &format)
	return cmd
}

// asJSON adds the --json flag that every command has.
func asJSON(cmd *cobra.Command, format *string) {
	cmd.Flags().BoolFunc("json", "the same as --format json", func(string) error {
		*format = "json"
		return nil
	})
}

func report(io stdio, d *pipelines.Deployment, r *config.Report, format string) error {
	if format == "json" {
		if err := reportJSON(io.out, d, r); err != nil {
			return err
		}
	} else {
		printProblems(io.err, r.Problems())
		reportText(io.out, d, r)
	}
	if r.Failed() {
		return &exitError{code: exitUsage}
	}
	return nil
}

func reportText(w io.Writer, d *pipelines.Deployment, r *config.Report) {
	for _, p := range d.Plans {
		fmt.Fprintf(w, "%s: pipeline %s: %s (%s)\n", p.File, p.Name, p.Guarantee.Level, p.Guarantee.Because)
	}
	faults, warnings := 0, 0
	for _, p := range r.Problems() {
		if p.Severity == config.Error {
			faults++
		} else {
			warnings++
		}
	}
	fmt.Fprintf(w, "%d pipelines compiled, %d errors, %d warnings\n", len(d.Plans), faults, warnings)
}

func reportJSON(w io.Writer, d *pipelines.Deployment, r *config.Report) error {
	type problem struct {
		config.Problem
		Severity string `json:"severity"`
	}
	type pipeline struct {
		Name      string              `json:"pipeline"`
		File      string              `json:"file"`
		Hash      string              `json:"hash"`
		Guarantee pipelines.Guarantee `json:"guarantee"`
	}
	out := struct {
		Pipelines []pipeline `json:"pipelines"`
		Problems  []problem  `json:"problems"`
	}{Pipelines: []pipeline{}, Problems: []problem{}}
	for _, p := range d.Plans {
		out.Pipelines = append(out.Pipelines, pipeline{p.Name, p.File, p.Hash, p.Guarantee})
	}
	for _, p := range r.Problems() {
		out.Problems = append(out.Problems, problem{p, p.Severity.String()})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(out)
}
