package pipelines

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/message"
)

func TestScheduleOfASender(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	header := func(pairs ...string) (h message.Headers) {
		for i := 0; i < len(pairs); i += 2 {
			h = append(h, message.Header{Name: pairs[i], Value: message.String(pairs[i+1])})
		}
		return h
	}
	m := message.Message{ID: "a", Headers: header("Linkspan-Delay", "90", "x", "1", "LINKSPAN-TTL", "8784h", "linkspan-priority", "9", "linkspan-id", "b", "linkspan-other", "2")}
	if err := schedule(&m, now); err != nil {
		t.Fatal(err)
	}
	if m.ID != "b" || m.Priority != 9 || !m.NotBefore.Equal(now.Add(90*time.Second)) || !m.Expires.Equal(now.Add(366*24*time.Hour)) {
		t.Errorf("got %+v", m)
	}
	var kept []string
	for _, h := range m.Headers {
		kept = append(kept, h.Name)
	}
	if diff := cmp.Diff([]string{"x", "linkspan-other"}, kept); diff != "" {
		t.Errorf("headers that stay: %s", diff)
	}
	for _, bad := range [][]string{
		{"linkspan-delay", "-1"},
		{"linkspan-delay", "366.5d"},
		{"linkspan-delay", "31622401"},
		{"linkspan-ttl", "0"},
		{"linkspan-ttl", "99999999999999999999"},
		{"linkspan-priority", "10"},
		{"linkspan-priority", ""},
		{"linkspan-id", ""},
		{"linkspan-id", "a", "Linkspan-ID", "b"},       // which of them would be remembered?
		{"linkspan-delay", "1", "linkspan-delay", "1"}, // a proxy may have added one
	} {
		m := message.Message{Headers: header(bad...)}
		if r, ok := errors.AsType[*message.Reason](schedule(&m, now)); !ok || r.Code != "LS2108" {
			t.Errorf("%q: got %v", bad, r)
		}
	}
}
