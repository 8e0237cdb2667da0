package all

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/message"
)

var update = flag.Bool("update", false, "write the table of docs/properties.md")

const propertiesPage = "../../docs/properties.md"

// The table of the documentation is what the connectors declare.
func TestProperties(t *testing.T) {
	page, err := os.ReadFile(propertiesPage)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "-update` -->\n", "<!-- end of table -->"
	head, rest, ok1 := strings.Cut(string(page), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("the markers of the table are missing")
	}
	want := table(t)
	if *update {
		if err := os.WriteFile(propertiesPage, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, old); diff != "" {
		t.Errorf("the table is not up to date; run go test ./connectors/all -run TestProperties -update\n%s", diff)
	}
}

func table(t *testing.T) string {
	var names []string
	var all []connectors.Properties
	for _, s := range Specs() {
		if s.Sink == nil || !s.Sink.Traits.Headers {
			continue
		}
		if s.Source != nil && !cmp.Equal(s.Source.Traits.Carries, s.Sink.Traits.Carries) {
			t.Errorf("%s: input and output carry different properties", s.Name)
		}
		names, all = append(names, "`"+s.Name+"`"), append(all, s.Sink.Traits.Carries)
	}
	var b strings.Builder
	row := func(first string, cell func(connectors.Properties) string) {
		b.WriteString("| " + first)
		for _, p := range all {
			b.WriteString(" | " + cell(p))
		}
		b.WriteString(" |\n")
	}
	place := func(header, native string) string {
		switch {
		case native != "":
			return native
		case header != "":
			return "`" + header + "`"
		default:
			return "–"
		}
	}
	b.WriteString("\n| property | " + strings.Join(names, " | ") + " |\n|" + strings.Repeat(" --- |", len(names)+1) + "\n")
	row("id", func(p connectors.Properties) string { return place("linkspan-id", p.ID) })
	row("correlation id", func(p connectors.Properties) string { return place("linkspan-correlation-id", p.CorrelationID) })
	row("reply to", func(p connectors.Properties) string { return place("linkspan-reply-to", p.ReplyTo) })
	row("content type", func(p connectors.Properties) string { return place("linkspan-content-type", p.ContentType) })
	row("expiry", func(p connectors.Properties) string { return place("linkspan-expires", p.Expires) })
	row("priority", func(p connectors.Properties) string { return place("linkspan-priority", p.Priority) })
	row("time", func(p connectors.Properties) string { return place("", p.Time) })
	row("key", func(p connectors.Properties) string { return place("", p.Key) })
	row("kinds of header values", func(p connectors.Properties) string { return kinds(p.Kinds) })
	row("a header name may repeat", func(p connectors.Properties) string {
		if p.Repeats {
			return "yes"
		}
		return "`linkspan-repeated`"
	})
	b.WriteString("\n")
	for i, p := range all {
		for _, n := range p.Notes {
			b.WriteString("- " + names[i] + ": " + n + "\n")
		}
	}
	return b.String() + "\n"
}

func kinds(set connectors.Kinds) string {
	if set == connectors.AllKinds() {
		return "all"
	}
	words := []string{"text"}
	for i, word := range []string{message.KindNull: "null", message.KindBytes: "bytes", message.KindBool: "bool", message.KindInt: "int", message.KindFloat: "float", message.KindTime: "time"} {
		if word != "" && set.Has(message.Kind(i)) {
			words = append(words, word)
		}
	}
	return strings.Join(words, ", ")
}
