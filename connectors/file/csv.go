package file

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/linkspan/linkspan/connectors/internal/lines"
)

// rows returns the lines.Find of CSV: a line break between quotes does not end a
// record. A quote counts at the start of a field only, so that a stray one does not
// swallow the rest of the file.
func rows(delimiter byte) lines.Find {
	return func(data []byte) int {
		start, quoted, closed := true, false, false
		for i, c := range data {
			switch {
			case quoted:
				quoted = c != '"'
				closed = !quoted
				continue
			case c == '"' && (start || closed): // a doubled quote opens again
				quoted = true
			case c == '\n':
				return i + 1
			}
			start, closed = c == delimiter, false
		}
		return 0
	}
}

// table turns rows into JSON objects.
type table struct {
	delimiter rune
	columns   []string
	// names are the columns as JSON strings with a colon.
	names [][]byte
}

func newTable(delimiter string, columns []string) (*table, error) {
	t := &table{delimiter: rune(delimiter[0]), columns: columns}
	if name, twice := duplicate(columns); twice {
		return nil, fmt.Errorf("LS4304: the header row names the column %q twice; give each a name of its own", name)
	}
	for _, c := range columns {
		t.names = append(t.names, append(appendString(nil, c), ':'))
	}
	return t, nil
}

// split returns the fields of a record.
func split(record []byte, delimiter rune) ([]string, error) {
	r := csv.NewReader(bytes.NewReader(record))
	r.Comma, r.FieldsPerRecord, r.ReuseRecord = delimiter, -1, true
	fields, err := r.Read()
	if err != nil {
		return nil, err
	}
	return fields, nil
}

var errRagged = errors.New("the row does not fit the columns")

// object appends the record as a JSON object.
func (t *table) object(to, record []byte) ([]byte, error) {
	fields, err := split(record, t.delimiter)
	if err != nil || len(fields) != len(t.columns) {
		return to, errRagged
	}
	to = append(to, '{')
	for i, f := range fields {
		if i > 0 {
			to = append(to, ',')
		}
		if !utf8.ValidString(f) {
			return to, errRagged
		}
		to = appendString(append(to, t.names[i]...), f)
	}
	return append(to, '}'), nil
}

// appendString writes a JSON string.
func appendString(to []byte, s string) []byte {
	const digits = "0123456789abcdef"
	to = append(to, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ':
			to = append(to, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}

// header reads the column names from the first record of a file.
func header(first []byte, delimiter string) (*table, error) {
	fields, err := split(lines.TrimEnd(first), rune(delimiter[0]))
	if err != nil {
		return nil, fmt.Errorf("read header row: %w", errRagged)
	}
	return newTable(delimiter, append([]string(nil), fields...))
}
