package test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/linkspan/linkspan/internal/vfs"
	"github.com/linkspan/linkspan/pipelines"
)

// Senders over HTTP and MQTT 5 say how their messages are to be treated; a receiver
// that is slow sees that it was done.
func TestSchedulingBySenders(t *testing.T) {
	type arrival struct {
		body string
		at   time.Time
	}
	arrivals, proceed := make(chan arrival, 100), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrivals <- arrival{string(body), time.Now()}
		<-proceed
	}))
	defer receiver.Close()
	mqttAddr, httpAddr := freePort(t), freePort(t)
	e := bridgeOn(t, vfs.NewMem(), fmt.Sprintf(`
pipeline: scheduled
in:
  bus: {mqtt: {listen: %q, topics: [in]}}
  web: {http: {listen: %q, path: /in}}
route: [{else: receiver}]
out: {receiver: {http: {url: %q, timeout: 20s, max_in_flight: 1}}}
delivery: {priority: true, dedup: 1h, max_in_flight: 1, lanes: 1}
`, mqttAddr, httpAddr, receiver.URL))

	post := func(body string, headers ...string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+httpAddr+"/in", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	client := mqttClient(t, mqttAddr)
	publish := func(body string, expiry uint32, user ...string) {
		p := &paho.Publish{Topic: "in", QoS: 1, Payload: []byte(body), Properties: &paho.PublishProperties{}}
		if expiry > 0 {
			p.Properties.MessageExpiry = &expiry
		}
		for i := 0; i < len(user); i += 2 {
			p.Properties.User.Add(user[i], user[i+1])
		}
		if ack, err := client.Publish(t.Context(), p); err != nil || ack.ReasonCode >= 0x80 {
			t.Fatalf("publish %s: %v %v", body, ack, err)
		}
	}

	// The first message keeps the receiver busy while the others queue up.
	if code := post("first", "Idempotency-Key", "1"); code != http.StatusAccepted {
		t.Fatal(code)
	}
	order := []string{(<-arrivals).body}
	start := time.Now()
	post("http delayed", "Linkspan-Delay", "6")
	publish("mqtt delayed", 0, "linkspan-delay", "6500ms", "linkspan-priority", "9")
	post("http low", "Linkspan-Priority", "1")
	post("http short-lived", "Linkspan-TTL", "1s")
	publish("mqtt short-lived", 1)
	publish("mqtt low", 0, "linkspan-priority", "0")
	publish("mqtt urgent", 0, "linkspan-priority", "8", "linkspan-id", "2")
	publish("again", 0, "linkspan-id", "2")
	post("again", "Idempotency-Key", "1")
	post("http urgent", "Linkspan-Priority", "9")
	if code := post("wrong", "Linkspan-Priority", "ten"); code != http.StatusBadRequest {
		t.Errorf("a wrong priority was answered with %d", code)
	}

	<-time.After(1500 * time.Millisecond) // until the short-lived have expired
	close(proceed)
	for len(order) < 7 {
		select {
		case a := <-arrivals:
			order = append(order, a.body)
			wait := map[string]time.Duration{"http delayed": 6 * time.Second, "mqtt delayed": 6500 * time.Millisecond}[a.body]
			if took := a.at.Sub(start); took < wait {
				t.Errorf("%s came after %v", a.body, took)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("only %q came", order)
		}
	}
	want := []string{"first", "http urgent", "mqtt urgent", "http low", "mqtt low", "http delayed", "mqtt delayed"}
	if !slices.Equal(order, want) {
		t.Errorf("order\n%q, want\n%q", order, want)
	}
	expired := 0
	if err := e.DeadLetters(t.Context(), "scheduled", func(d pipelines.DeadLetter) bool {
		if d.Code == "LS2503" {
			expired++
		}
		return true
	}); err != nil || expired != 2 {
		t.Errorf("%d dead letters for expiry, want 2 (%v)", expired, err)
	}
	select {
	case a := <-arrivals:
		t.Errorf("%s came, too", a.body)
	default:
	}
}

func mqttClient(t *testing.T, addr string) *paho.Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := c.Connect(t.Context(), &paho.Connect{ClientID: "scheduler", CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		_ = c.Disconnect(&paho.Disconnect{})
		<-c.Done()
	})
	return c
}
