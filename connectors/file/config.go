// Package file connects linkspan to files.
//
// A source delivers at least once and in order: the position up to which records
// were handed on is written to stable storage afterwards, at the latest after every
// 256 KiB, and reading goes on there after a restart. It recognises a file that was
// renamed and made anew (the old one is read to its end first) and one that was
// truncated. A sink has delivered a batch when it is on stable storage (fsync); a line
// that a crash left unfinished is cut off when the file is opened.
package file

import (
	"slices"
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
)

// Spec describes the file connector.
func Spec() connectors.Spec {
	return connectors.Spec{
		Name: "file",
		Source: connectors.SourceOf(connectors.Traits{Redelivers: true, OrderKey: "file"},
			func() SourceConfig {
				return SourceConfig{Format: formatNDJSON, From: fromStart, Follow: true, Delimiter: ",", Poll: 200 * time.Millisecond}
			}, newSource),
		Sink: connectors.SinkOf(connectors.Traits{Confirms: true},
			func() SinkConfig { return SinkConfig{Rotate: Rotate{Keep: 10}} }, newSink),
	}
}

const (
	formatNDJSON = "ndjson"
	formatLines  = "lines"
	formatCSV    = "csv"
	fromStart    = "start"
	fromEnd      = "end"
)

// SourceConfig is what a user writes under `file:` of an input.
type SourceConfig struct {
	// Path is the file.
	Path string `yaml:"path,required"`
	// Format says what a record is. ndjson: a line of JSON, empty lines are passed
	// over. lines: a line of text. csv: a row (RFC 4180), which becomes a JSON object of
	// strings; a row with too many or too few fields goes on as it is, with content type
	// text/csv and the header file.error = LS4303, for the pipeline to dead-letter.
	// Default: ndjson.
	Format string `yaml:"format"`
	// From is where to begin when the file is read for the first time: start or end.
	// Default: start.
	From string `yaml:"from"`
	// Follow waits for more at the end of the file. Without it the input ends there.
	// Default: true.
	Follow bool `yaml:"follow"`
	// Delimiter separates the fields of csv: one ASCII character. Default: a comma.
	Delimiter string `yaml:"delimiter"`
	// Columns name the fields of csv when the file has no header row. Default: the first
	// row names them.
	Columns []string `yaml:"columns"`
	// Poll is how often a file that is followed is looked at. Default: 200ms.
	Poll time.Duration `yaml:"poll"`
}

// Check implements connectors.Checker.
func (c *SourceConfig) Check(n config.Node, r *config.Report) {
	oneOf(n.Get("format"), c.Format, []string{formatNDJSON, formatLines, formatCSV}, r)
	oneOf(n.Get("from"), c.From, []string{fromStart, fromEnd}, r)
	if len(c.Delimiter) != 1 || c.Delimiter[0] >= 0x80 || c.Delimiter == "\"" || c.Delimiter == "\n" || c.Delimiter == "\r" {
		r.Errorf(n.Get("delimiter"), "LS1150", `write one character, such as ";" or "\t"`, "this is not a delimiter")
	}
	if c.Poll < 10*time.Millisecond {
		r.Errorf(n.Get("poll"), "LS1150", "write 200ms", "poll must be at least 10ms")
	}
	if name, twice := duplicate(c.Columns); twice {
		r.Errorf(n.Get("columns"), "LS1150", "give each column a name of its own", "the column %q is there twice", name)
	}
}

func oneOf(n config.Node, value string, known []string, r *config.Report) {
	if !slices.Contains(known, value) {
		r.Errorf(n, "LS1150", config.Suggest(value, known), "%q is not known here", value)
	}
}

func duplicate(names []string) (name string, twice bool) {
	seen := map[string]bool{}
	for _, n := range names {
		if seen[n] {
			return n, true
		}
		seen[n] = true
	}
	return "", false
}

// SinkConfig is what a user writes under `file:` of an output. Each payload becomes
// one line.
type SinkConfig struct {
	// Path is the file. It is made, with its folder, when it does not exist.
	Path string `yaml:"path,required"`
	// Rotate renames a full or old file and begins a new one.
	Rotate Rotate `yaml:"rotate"`
}

// Rotate says when a file is renamed to PATH.TIME and begun anew.
type Rotate struct {
	// Bytes is the size that ends a file. Default: 0, no bound.
	Bytes config.Size `yaml:"bytes"`
	// Every is the time span that a file holds; spans are counted from midnight UTC.
	// Default: 0, no bound.
	Every time.Duration `yaml:"every"`
	// Keep is the number of renamed files that are kept. Default: 10; 0: all.
	Keep int `yaml:"keep"`
}

// Check implements connectors.Checker.
func (c *SinkConfig) Check(n config.Node, r *config.Report) {
	if c.Rotate.Keep < 0 || c.Rotate.Every < 0 || c.Rotate.Every > 0 && c.Rotate.Every < time.Second {
		r.Errorf(n.Get("rotate"), "LS1150", "write rotate: {bytes: 100MiB, every: 24h, keep: 10}", "every must be at least 1s and keep not negative")
	}
}
