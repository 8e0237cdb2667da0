package mask

import (
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/transform"
)

// compileRedact replaces a value of any kind by a fixed text, "***" unless
// {redact: TEXT} says another. Only its presence shows.
func compileRedact(args config.Node, c *transform.Compiler) Func {
	text := "***"
	if !args.IsZero() {
		if !args.IsScalar() || args.IsNull() {
			c.Report.Errorf(args, "LS1305", "write {redact: TEXT}", "redact takes one text")
			return nil
		}
		text = args.Text()
	}
	replacement := jsonscan.AppendString(nil, text)
	return func(dst, _ []byte) ([]byte, error) { return append(dst, replacement...), nil }
}

// compileNull replaces a value of any kind by null.
func compileNull(args config.Node, c *transform.Compiler) Func {
	if !args.IsZero() {
		c.Report.Errorf(args, "LS1305", "write null", "null takes no arguments")
		return nil
	}
	return func(dst, _ []byte) ([]byte, error) { return append(dst, "null"...), nil }
}
