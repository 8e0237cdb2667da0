package kinesis

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/message"
)

// double is a service that takes records, except those with a payload in refused, once.
type double struct {
	refused map[string]string // payload: code
	calls   [][]string        // partition key: payload
}

// ServeHTTP implements http.Handler.
func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".DescribeStreamSummary") {
		if strings.Contains(r.Header.Get("Authorization"), "Credential=wrong") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"__type":"UnrecognizedClientException","message":"no"}`))
			return
		}
		_, _ = w.Write([]byte(`{"StreamDescriptionSummary":{"StreamName":"s","StreamARN":"a","StreamStatus":"ACTIVE","RetentionPeriodHours":24,"StreamCreationTimestamp":1,"EnhancedMonitoring":[],"OpenShardCount":1}}`))
		return
	}
	var in struct {
		Records []struct {
			Data         []byte
			PartitionKey string
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	type result struct {
		SequenceNumber, ErrorCode string `json:",omitempty"`
	}
	var out struct{ Records []result }
	var call []string
	for _, record := range in.Records {
		if code, ok := d.refused[string(record.Data)]; ok {
			out.Records = append(out.Records, result{ErrorCode: code})
			continue
		}
		out.Records = append(out.Records, result{SequenceNumber: "1"})
		call = append(call, record.PartitionKey+": "+string(record.Data))
	}
	d.calls = append(d.calls, call)
	_ = json.NewEncoder(w).Encode(out)
}

// A record that is refused for the moment holds back those of its key; what can never be
// a record is a refusal of the message.
func TestSinkTellsRecordsApart(t *testing.T) {
	msg := func(key, payload string) message.Message {
		m := message.Message{Payload: []byte(payload), Options: []string{key}}
		if key != "" {
			m.Key = []byte(key)
		}
		return m
	}
	for _, c := range []struct {
		name, yaml string
		refused    map[string]string
		batch      []message.Message
		calls      [][]string
		failed     string
	}{
		{"one message of a key in a call", "", nil, []message.Message{msg("a", "1"), msg("a", "2"), msg("b", "3")}, [][]string{{"a: 1", "b: 3"}, {"a: 2"}}, ""},
		{"not ordered", ", ordered: false", nil, []message.Message{msg("a", "1"), msg("a", "2"), msg("b", "3")}, [][]string{{"a: 1", "a: 2", "b: 3"}}, ""},
		{
			"throttled", "",
			map[string]string{"1": "ProvisionedThroughputExceededException"},
			[]message.Message{msg("a", "1"), msg("a", "2"), msg("b", "3"), msg("b", "4")},
			[][]string{{"b: 3"}, {"b: 4"}},
			"0 away, 1 behind",
		},
		{
			"too large", "", nil,
			[]message.Message{msg("a", strings.Repeat("x", 1<<20)), msg("a", "2"), msg("b", "3")},
			[][]string{{"b: 3"}},
			"0 LS4398, 1 behind",
		},
		{"a computed key", ", partition_key: payload.x", nil, []message.Message{msg("z", "1")}, [][]string{{"z: 1"}}, ""},
		{"a computed key that is none", ", partition_key: payload.x", nil, []message.Message{msg("", "1")}, nil, "0 LS4398"},
		{"a key that is no text", "", nil, []message.Message{msg("\xff", "1")}, [][]string{{digest([]byte{0xff}) + ": 1"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &double{refused: c.refused}
			server := httptest.NewServer(d)
			defer server.Close()
			k := buildSink(t, "{"+at(server.URL, "s")+c.yaml+"}")
			err := k.Handle(t.Context(), &message.Batch{Messages: c.batch})
			if diff := cmp.Diff(c.calls, d.calls); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.failed, describe(err)); diff != "" {
				t.Error(diff, err)
			}
		})
	}
}

func describe(err error) string {
	partial, _ := errors.AsType[*message.PartialError](err)
	switch {
	case err == nil:
		return ""
	case partial == nil:
		return err.Error()
	}
	var out []string
	for _, f := range partial.Failed {
		what := f.Err.Error()
		reason, ok := errors.AsType[*message.Reason](f.Err)
		switch {
		case errors.Is(f.Err, message.ErrBehind):
			what = "behind"
		case ok && reason.Permanent:
			what = reason.Code
		case message.IsUnavailable(f.Err):
			what = "away"
		}
		out = append(out, string(rune('0'+f.Index))+" "+what)
	}
	return strings.Join(out, ", ")
}

// Wrong credentials are told apart from a service that is away.
func TestWrongCredentials(t *testing.T) {
	server := httptest.NewServer(&double{})
	defer server.Close()
	wrong := strings.Replace(at(server.URL, "s"), "access_key: k", "access_key: wrong", 1)
	if err := buildSink(t, "{"+wrong+"}").Open(t.Context()); err == nil || !strings.Contains(err.Error(), "LS4396") {
		t.Error(err)
	}
	if err := buildSource(t, t.TempDir(), "{"+wrong+"}").Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "LS4396") {
		t.Error(err)
	}
}

// The places outlive a restart, and belong to one stream.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	p, err := openPlaces(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.keep("a", place{Sequence: "7"}), p.keep("b", place{Finished: true}), p.forget(map[string]bool{"a": true})); err != nil {
		t.Fatal(err)
	}
	if p, err = openPlaces(dir, "s"); err != nil {
		t.Fatal(err)
	}
	if at, ok := p.get("a"); !ok || at.Sequence != "7" {
		t.Errorf("%+v %v", at, ok)
	}
	if _, ok := p.get("b"); ok {
		t.Error("a shard that the stream has no more is still there")
	}
	if p, err = openPlaces(dir, "other"); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.get("a"); ok {
		t.Error("the place of another stream is used")
	}
}

func TestTaken(t *testing.T) {
	partial := &message.PartialError{Failed: []message.Failed{{Index: 4}, {Index: 2}}}
	for _, c := range []struct {
		err  error
		want int
	}{{nil, 5}, {errors.New("x"), 0}, {partial, 2}} {
		if got := taken(c.err, 5); got != c.want {
			t.Errorf("%v: %d", c.err, got)
		}
	}
}

func TestConfigurations(t *testing.T) {
	for _, c := range []struct{ end, yaml, want string }{
		{"in", `{stream: s, region: r, start: "2026-01-31T08:00:00Z", poll: 1s, batch: 10, auth: {access_key: a, secret_key: b, session_token: c}}`, ""},
		{"in", `{}`, `"stream" is missing`},
		{"in", `{stream: s, start: middle}`, "not a place"},
		{"in", `{stream: s, poll: 1ms}`, "five times a second"},
		{"in", `{stream: s, batch: 0}`, "not possible"},
		{"out", `{stream: s, partition_key: payload.id, ordered: false, timeout: 1s, endpoint: "http://h:1"}`, ""},
		{"out", `{stream: s, timeout: 0s}`, "must be positive"},
	} {
		var r config.Report
		if c.end == "in" {
			Spec().Source.Decode(node(t, c.yaml), &r)
		} else {
			Spec().Sink.Decode(node(t, c.yaml), &r)
		}
		text := texts(&r)
		if c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q", c.yaml, text)
		}
	}
}

func texts(r *config.Report) string {
	var b strings.Builder
	for _, p := range r.Problems() {
		b.WriteString(p.Text())
	}
	return b.String()
}
