package mask

import (
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/transform"
)

// minHidden is how many characters must stay hidden for any to be shown.
const minHidden = 4

// maxShown bounds what may be asked to be shown.
const maxShown = 1000

type partial struct {
	// First and Last are the characters (grapheme clusters) kept at either end.
	First int `yaml:"first"`
	Last  int `yaml:"last"`
	// Char stands for each hidden character. Default *.
	Char string `yaml:"char"`
}

// compilePartial keeps some characters at the ends of a text. A text too short to
// leave minHidden characters hidden is hidden whole. The length shows.
func compilePartial(args config.Node, c *transform.Compiler) Func {
	p := partial{Char: "*"}
	if args.IsZero() {
		c.Report.Errorf(args, "LS1305", "write {partial: {last: 4}}", "partial needs first or last")
		return nil
	}
	before := len(c.Report.Problems())
	config.Decode(args, &p, c.Report)
	if len(c.Report.Problems()) > before {
		return nil
	}
	if p.First < 0 || p.Last < 0 || p.First > maxShown || p.Last > maxShown || p.First+p.Last == 0 || utf8.RuneCountInString(p.Char) != 1 {
		c.Report.Errorf(args, "LS1305", "write {partial: {first: 2, last: 4, char: \"*\"}}", "first and last must be between 0 and 1000 and not both 0, and char is one character")
		return nil
	}
	return p.mask
}

func (p partial) mask(dst, raw []byte) ([]byte, error) {
	if jsonscan.KindOf(raw) != jsonscan.String {
		return nil, errKind
	}
	text, err := jsonscan.Unquote(raw)
	if err != nil {
		return nil, errKind
	}
	return jsonscan.AppendString(dst, p.hide(text)), nil
}

func (p partial) hide(text string) string {
	if isPlain(text) {
		return p.hidePlain(text)
	}
	return p.hideClusters(text)
}

func (p partial) hideClusters(text string) string {
	total := uniseg.GraphemeClusterCount(text)
	first, last := p.First, p.Last
	if total-first-last < minHidden {
		first, last = 0, 0
	}
	var b strings.Builder
	b.Grow(len(text))
	g := uniseg.NewGraphemes(text)
	for i := 0; g.Next(); i++ {
		if i < first || i >= total-last {
			b.WriteString(g.Str())
		} else {
			b.WriteString(p.Char)
		}
	}
	return b.String()
}

// isPlain reports whether every byte is a character of its own.
func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf || text[i] == '\r' {
			return false
		}
	}
	return true
}

func (p partial) hidePlain(text string) string {
	hidden := len(text) - p.First - p.Last
	if hidden < minHidden {
		return strings.Repeat(p.Char, len(text))
	}
	return text[:p.First] + strings.Repeat(p.Char, hidden) + text[len(text)-p.Last:]
}
