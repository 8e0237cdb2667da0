package mask

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPartial(t *testing.T) {
	for _, c := range []struct {
		p          partial
		text, want string
	}{
		{partial{Last: 4, Char: "*"}, "4111111111111111", "************1111"},
		{partial{Last: 4, Char: "*"}, "1234567", "*******"},
		{partial{Last: 4, Char: "*"}, "12345678", "****5678"},
		{partial{First: 2, Last: 2, Char: "#"}, "abcdefgh", "ab####gh"},
		{partial{First: 1, Char: "*"}, "", ""},
		{partial{Last: 1, Char: "*"}, "Zoë 👩‍👩‍👧 e\u0301", "******e\u0301"},
		{partial{Last: 1, Char: "•"}, "abcde", "••••e"},
	} {
		if got := c.p.hide(c.text); got != c.want {
			t.Errorf("%+v hides %q as %q, want %q", c.p, c.text, got, c.want)
		}
	}
}

// The short way for ASCII gives what the general way gives.
func TestPartialPlainAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~\t\n]{0,30}`).Draw(t, "text")
		p := partial{First: rapid.IntRange(0, 6).Draw(t, "first"), Last: rapid.IntRange(0, 6).Draw(t, "last"), Char: "*"}
		if got, want := p.hidePlain(text), p.hideClusters(text); got != want {
			t.Fatalf("%+v: %q, want %q", p, got, want)
		}
	})
}
