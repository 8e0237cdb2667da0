package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

func TestScanVerdicts(t *testing.T) {
	long := strings.Repeat("1", MaxDigits)
	tests := []struct {
		name, doc, code string
		offset          int
	}{
		{"empty", "", CodeEmpty, 0},
		{"blank", " \n\t", CodeEmpty, 3},
		{"byte order mark", "\ufeff{}", CodeMalformed, 0},
		{"second value", "{} {}", CodeTrailing, 3},
		{"trailing bracket", "[]]", CodeTrailing, 2},
		{"cut object", `{"a":1`, CodeMalformed, 6},
		{"cut after colon", `{"a":`, CodeMalformed, 5},
		{"cut after comma", `{"a":1,`, CodeMalformed, 7},
		{"cut name", `{"abcdefghijkl`, CodeMalformed, 14},
		{"trailing comma", `[1,]`, CodeMalformed, 3},
		{"wrong bracket", `[1}`, CodeMalformed, 2},
		{"name without colon", `{"a" 1}`, CodeMalformed, 5},
		{"form feed as white space", "[\f1]", CodeMalformed, 1},
		{"raw newline in a string", "[\"a\nb\"]", CodeMalformed, 3},
		{"control character in a name", "{\"a\x00\":1}", CodeMalformed, 3},
		{"unknown escape", `["\x"]`, CodeMalformed, 2},
		{"cut escape", `["\u00`, CodeMalformed, 2},
		{"lone high surrogate", `["a\ud800"]`, CodeEncoding, 3},
		{"lone low surrogate", `["\udc00"]`, CodeEncoding, 2},
		{"high before high", `["\ud800\ud800"]`, CodeEncoding, 2},
		{"lone surrogate in a name", `{"\ud800":1}`, CodeEncoding, 2},
		{"pair", `["\ud83d\ude00"]`, "", 0},
		{"invalid UTF-8 in a string", "[\"abcdefgh\xff\"]", CodeEncoding, 10},
		{"overlong", "[\"\xc0\xaf\"]", CodeEncoding, 2},
		{"surrogate in UTF-8", "[\"\xed\xa0\x80\"]", CodeEncoding, 2},
		{"cut character", "[\"\xc3\"]", CodeEncoding, 2},
		{"replacement character itself", "[\"\ufffd\"]", "", 0},
		{"twins", `{"a":1,"b":2,"a":3}`, CodeDuplicate, 13},
		{"twins through an escape", `{"a":1,"\u0061":3}`, CodeDuplicate, 7},
		{"twins both escaped", `{"\u0061":1,"\u0061":3}`, CodeDuplicate, 12},
		{"twins in an inner object", `[{"x":{"a":1,"a":1}}]`, CodeDuplicate, 13},
		{"long twins", `{"abcdefghijkl":1,"abcdefghijkl":1}`, CodeDuplicate, 18},
		{"empty twins", `{"":1,"":1}`, CodeDuplicate, 6},
		{"the same name in two objects", `{"a":{"a":1},"b":{"a":[{"a":1},{"a":1}]}}`, "", 0},
		{"names that share ends", `{"abcdefghXabcdefgh":1,"abcdefghYabcdefgh":1}`, "", 0},
		{"a name and its prefix with zeros", `{"a":1,"a\u0000":1}`, "", 0},
		{"names alike but for a case", `{"a":1,"A":1}`, "", 0},
		{"minus zero", "-0", "", 0},
		{"leading zero", "01", CodeMalformed, 0},
		{"digits at the limit", long, "", 0},
		{"digits at the limit with a point", "-1." + long[1:], "", 0},
		{"digits over the limit", long + "1", CodeNumber, 0},
		{"digits over the limit with a point", "1." + long, CodeNumber, 1},
		{"exponent at the limit", "1e400", "", 0},
		{"exponent over the limit", "1e401", CodeNumber, 2},
		{"negative exponent over the limit", "[1E-401]", CodeNumber, 4},
		{"huge exponent", "1e99999999999999999999", CodeNumber, 2},
		{"exponent with zeros", "1e0000000000000000000001", "", 0},
		{"deep", strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), "", 0},
		{"too deep", strings.Repeat("[", MaxDepth+1), CodeDepth, MaxDepth},
		{"far too deep", strings.Repeat(`{"a":`, 10_000), CodeDepth, 5 * MaxDepth},
		{"a million deep", strings.Repeat("[", 1_000_000), CodeDepth, MaxDepth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check([]byte(tt.doc))
			if tt.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var s *SyntaxError
			if !errors.As(err, &s) || s.Code != tt.code || s.Offset != tt.offset {
				t.Fatalf("got %v, want %s at %d", err, tt.code, tt.offset)
			}
			if text := err.Error(); !strings.Contains(text, tt.code) || s.Reason() == "" {
				t.Errorf("text %q", text)
			}
		})
	}
}

func TestEveryTailAndEveryByte(t *testing.T) {
	// Every prefix of an order is refused, and no single changed byte makes the scan and the oracle disagree.
	raw := orders(t)[0]
	for i := range raw {
		if Check(raw[:i:i]) == nil {
			t.Fatalf("accepted the first %d bytes", i)
		}
	}
	for i := range raw {
		for _, c := range []byte("\x00\x1f\" \\,:{}[]0-.eE\x7f\x80\xc3\xff") {
			doc := bytes.Clone(raw)
			doc[i] = c
			agree(t, doc)
		}
	}
}

func TestWideObjects(t *testing.T) {
	for _, n := range []int{15, 16, 17, 18, 64, 65, 5000} {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":{"k0":1,"in":{}}`, i)
		}
		good := "{" + b.String()[1:] + "}"
		if err := Check([]byte(good)); err != nil {
			t.Errorf("%d members: %v", n, err)
		}
		for _, twin := range []int{0, n / 2, n - 1} {
			bad := fmt.Sprintf(`%s,"k\u003%d%s":0}`, good[:len(good)-1], strconv.Itoa(twin)[0]-'0', strconv.Itoa(twin)[1:])
			if code, _ := IsSyntax(Check([]byte(bad))); code != CodeDuplicate {
				t.Errorf("%d members with a twin of k%d: got %q", n, twin, code)
			}
		}
	}
}

// TestWideAfterFailure checks that a Doc whose table was left full by a refused document forgets it.
func TestWideAfterFailure(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, `,"k%d":1`, i)
	}
	doc := "{" + b.String()[1:]
	var d Doc
	for range 3 {
		d.Reset(nil, []byte(doc+"!"))
		if d.Scan() == nil {
			t.Fatal("accepted")
		}
		d.Reset(nil, []byte(doc+"}"))
		if err := d.Scan(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHostileDocuments checks that time stays in proportion to length for shapes made to be slow.
func TestHostileDocuments(t *testing.T) {
	wide := func(n int, name func(i int) string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%s":0`, name(i))
		}
		return "{" + b.String()[1:] + "}"
	}
	same := wide(17, func(i int) string { return fmt.Sprintf("n%d", i) })
	nested := strings.Repeat(same[:len(same)-1]+`,"z":`, 900) + "1" + strings.Repeat("}", 900)
	docs := map[string]string{
		"many members":                 wide(100_000, func(i int) string { return strconv.Itoa(i) }),
		"names alike at both ends":     wide(20_000, func(i int) string { return fmt.Sprintf("aaaaaaaa%08dbbbbbbbb", i) }),
		"the same wide object, nested": nested,
		"many small objects":           "[" + strings.Repeat(same+",", 5000) + "1]",
	}
	for name, doc := range docs {
		var d Doc
		best := time.Hour
		for range 5 {
			start := time.Now()
			d.Reset(nil, []byte(doc))
			if err := d.Scan(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			best = min(best, time.Since(start))
		}
		// A quadratic scan would take seconds; the bound leaves room for slow machines and the race detector.
		if limit := time.Duration(len(doc)) * time.Microsecond; best > limit {
			t.Errorf("%s: %v for %d bytes, more than %v", name, best, len(doc), limit)
		}
	}
}

// oracle is the verdict of another strict parser.
func oracle(doc []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(doc))
	if _, err := d.ReadValue(); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the value: %w", err)
	}
	return nil
}

// agree compares our verdict with the oracle's. They differ by design in three points: our limits on numbers and on
// depth (the oracle's is 10,000).
func agree(t *testing.T, doc []byte) {
	t.Helper()
	err, want := Check(doc), oracle(doc)
	code, _ := IsSyntax(err)
	if code == CodeNumber || code == CodeDepth {
		return
	}
	if (err == nil) != (want == nil) {
		t.Errorf("%q: got %v, the oracle says %v", doc, err, want)
	}
	if want != nil && errors.Is(want, jsontext.ErrDuplicateName) != (code == CodeDuplicate) {
		t.Errorf("%q: got %v, the oracle says %v", doc, err, want)
	}
	if (err == nil) && !json.Valid(doc) {
		t.Errorf("%q: accepted, but encoding/json refuses it", doc)
	}
}

func TestSuiteAgainstOracle(t *testing.T) {
	for _, c := range suite(t) {
		agree(t, c.doc)
	}
}

func seed(f *testing.F) {
	f.Helper()
	for _, c := range suite(f) {
		if len(c.doc) < 4096 {
			f.Add(c.doc)
		}
	}
	for _, o := range orders(f) {
		f.Add(o)
	}
	f.Add([]byte(`{"a":{"b":{"c":1}},"b":[[1,2],[3]],"c":{"d":{}}}`))
}

func FuzzScan(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, doc []byte) {
		agree(t, doc)
		v, err := Decode(doc)
		if err != nil {
			return
		}
		out, err := Append(nil, v)
		if err != nil {
			t.Fatalf("%q decoded, but did not encode: %v", doc, err)
		}
		if err := Check(out); err != nil {
			t.Fatalf("%q became %q: %v", doc, out, err)
		}
	})
}

func FuzzDecodeUnscanned(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, doc []byte) {
		_, err := DecodeScanned(doc)
		if err != nil && Check(doc) == nil {
			if code, _ := IsSyntax(err); code != CodeNumber {
				t.Fatalf("%q: %v", doc, err)
			}
		}
	})
}

// FuzzEdit checks that edits of any document leave a document, with the values that were set.
func FuzzEdit(f *testing.F) {
	seed(f)
	set, slots, err := NewSet(editPaths...)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var d Doc
		d.Reset(set, doc)
		valid := d.Scan() == nil
		for i, slot := range slots {
			if len(doc) == 0 {
				break
			}
			switch doc[i%len(doc)] % 4 {
			case 0:
				d.Unset(slot)
			case 1:
				if d.Set(slot, []byte(`{"a":[0]}`)) == nil {
					if got, ok := d.Get(slot); !ok || string(got) != `{"a":[0]}` {
						t.Fatalf("%q: set %v, got %q", doc, set.Path(slot), got)
					}
				}
			case 2:
				_ = d.Each(slot, func([]byte) ([]byte, error) { return []byte(`"x"`), nil })
			}
		}
		out := d.AppendTo(nil)
		if !valid {
			if !bytes.Equal(out, doc) {
				t.Fatalf("%q was edited though it is refused", doc)
			}
			return
		}
		if err := Check(out); err != nil {
			if code, _ := IsSyntax(err); code != CodeDepth {
				t.Fatalf("%q became %q: %v", doc, out, err)
			}
		}
		if !bytes.Equal(d.Bytes(), out) {
			t.Fatalf("%q: AppendTo and Bytes differ", doc)
		}
	})
}
