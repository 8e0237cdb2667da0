package jsonscan

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type suiteCase struct {
	name string
	doc  []byte
}

func suite(t testing.TB) []suiteCase {
	t.Helper()
	f, err := os.Open("testdata/jsontestsuite.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cases []suiteCase
	for s := bufio.NewScanner(f); s.Scan(); {
		part := strings.Split(s.Text(), "\t")
		n, err := strconv.Atoi(part[1])
		if err != nil {
			t.Fatal(err)
		}
		text, err := strconv.Unquote(part[2])
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, suiteCase{part[0], []byte(strings.Repeat(text, n))})
	}
	if len(cases) != 318 {
		t.Fatalf("%d cases, want 318", len(cases))
	}
	return cases
}

// stricter lists the cases that the suite wants accepted and we refuse, since they give an object two members of one
// name.
func stricter() map[string]string {
	return map[string]string{
		"y_object_duplicated_key":           CodeDuplicate,
		"y_object_duplicated_key_and_value": CodeDuplicate,
	}
}

func TestPublishedSuite(t *testing.T) {
	var d Doc
	either := map[string]string{}
	for _, c := range suite(t) {
		d.Reset(nil, c.doc)
		err := d.Scan()
		code, _ := IsSyntax(err)
		switch c.name[:2] {
		case "y_":
			if want := stricter()[c.name]; code != want {
				t.Errorf("%s: got %v, want code %q", c.name, err, want)
			}
		case "n_":
			if err == nil {
				t.Errorf("%s: accepted", c.name)
			}
		default:
			either[c.name[2:]] = code
		}
		if _, derr := Decode(c.doc); err != nil && derr == nil {
			t.Errorf("%s: refused by Scan, accepted by Decode", c.name)
		}
	}
	if diff := cmp.Diff(ours(), either); diff != "" {
		t.Errorf("cases left to the parser (-want +got):\n%s", diff)
	}
}

// ours is our verdict on the cases that the suite leaves to the parser; no code means accepted.
func ours() map[string]string {
	return map[string]string{
		"number_double_huge_neg_exp":                   CodeNumber,
		"number_huge_exp":                              CodeNumber,
		"number_neg_int_huge_exp":                      CodeNumber,
		"number_pos_double_huge_exp":                   CodeNumber,
		"number_real_neg_overflow":                     CodeNumber,
		"number_real_pos_overflow":                     CodeNumber,
		"number_real_underflow":                        CodeNumber,
		"number_too_big_neg_int":                       "",
		"number_too_big_pos_int":                       "",
		"number_very_big_negative_int":                 "",
		"object_key_lone_2nd_surrogate":                CodeEncoding,
		"string_1st_surrogate_but_2nd_missing":         CodeEncoding,
		"string_1st_valid_surrogate_2nd_invalid":       CodeEncoding,
		"string_UTF-16LE_with_BOM":                     CodeMalformed,
		"string_UTF-8_invalid_sequence":                CodeEncoding,
		"string_UTF8_surrogate_U+D800":                 CodeEncoding,
		"string_incomplete_surrogate_and_escape_valid": CodeEncoding,
		"string_incomplete_surrogate_pair":             CodeEncoding,
		"string_incomplete_surrogates_escape_valid":    CodeEncoding,
		"string_invalid_lonely_surrogate":              CodeEncoding,
		"string_invalid_surrogate":                     CodeEncoding,
		"string_invalid_utf-8":                         CodeEncoding,
		"string_inverted_surrogates_U+1D11E":           CodeEncoding,
		"string_iso_latin_1":                           CodeEncoding,
		"string_lone_second_surrogate":                 CodeEncoding,
		"string_lone_utf8_continuation_byte":           CodeEncoding,
		"string_not_in_unicode_range":                  CodeEncoding,
		"string_overlong_sequence_2_bytes":             CodeEncoding,
		"string_overlong_sequence_6_bytes":             CodeEncoding,
		"string_overlong_sequence_6_bytes_null":        CodeEncoding,
		"string_truncated-utf-8":                       CodeEncoding,
		"string_utf16BE_no_BOM":                        CodeMalformed,
		"string_utf16LE_no_BOM":                        CodeMalformed,
		"structure_500_nested_arrays":                  "",
		"structure_UTF-8_BOM_empty_object":             CodeMalformed,
	}
}
