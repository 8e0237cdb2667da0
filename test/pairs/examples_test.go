//go:build brokers

package pairs

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// exampleRun runs one folder of examples, as its README says.
type exampleRun struct {
	t     *testing.T
	ctx   context.Context
	group *run.Group
	log   bytes.Buffer
}

func buildBridge(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "linkspan")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/linkspan").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

func runExample(t *testing.T, binary, folder string) *exampleRun {
	t.Helper()
	e := &exampleRun{t: t, ctx: t.Context(), group: run.NewGroup(t.Context())}
	admin := freeAddress(t)
	cmd := exec.Command(binary, "run", "../../examples/"+folder, "--data", t.TempDir(), "--admin", admin)
	who := app(t, "rabbitmq")
	cmd.Env = append(os.Environ(),
		"MOSQUITTO=mqtt://"+host(t, "mosquitto", "LS_MOSQUITTO_MQTT_URL"), "KAFKA="+brokersenv.Need(t, "kafka", "LS_KAFKA_BROKERS"),
		"RABBITMQ=amqp://"+host(t, "rabbitmq", "LS_RABBITMQ_AMQP_URL"), "ARTEMIS=amqp://"+host(t, "artemis", "LS_ARTEMIS_AMQP_URL"),
		"ACTIVEMQ=stomp://"+brokersenv.Need(t, "activemq", "LS_ACTIVEMQ_STOMP_ADDR"),
		"BROKER_USER="+who.user, "BROKER_PASSWORD="+who.password, "WEBHOOK_SECRET=hush")
	cmd.Stderr = &e.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("run %s: %v\n%s", folder, err, e.log.String())
		}
		e.group.Stop()
		_ = e.group.Wait()
	})
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); {
		resp, err := http.Get("http://" + admin + "/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return e
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Fatal("the bridge is not ready")
	return nil
}

// collect gathers what arrives at an address.
func (e *exampleRun) collect(p peer, address string) *arrivals {
	a := &arrivals{}
	e.group.Go("collector", func(ctx context.Context) error {
		again(ctx, func() error { return p.collect(ctx, address, a.add) })
		return nil
	})
	return a
}

// feed sends payloads to an address.
func (e *exampleRun) feed(p peer, address string, payloads ...string) {
	e.t.Helper()
	f := &feeding{n: len(payloads)}
	f.room = func(context.Context, int) error { return nil }
	f.make = func(i int) (string, []byte) { return "k", []byte(payloads[i]) }
	if err := p.feed(e.ctx, address, f); err != nil {
		e.t.Fatal(err)
	}
}

type arrivals struct {
	mu  sync.Mutex
	got []string
}

func (a *arrivals) add(payload []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, string(payload))
}

// wait returns when every wanted payload has arrived. Repeats are allowed.
func (a *arrivals) wait(t *testing.T, want ...string) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; {
		a.mu.Lock()
		got := slices.Clone(a.got)
		a.mu.Unlock()
		missing := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(got, w) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Errorf("missing %q in %q", missing, got)
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestBrokerExamples(t *testing.T) {
	binary := buildBridge(t)
	mqtt, kafka, stomp, rabbit, artemis := mqttPeer(t), kafkaPeer(t), stompPeer(t), amqp091Peer(t), amqp1Peer(t)

	t.Run("mqtt-to-kafka", func(t *testing.T) {
		mqttSession(t, mqtt, "app.plant.+.reading", "linkspan-sensors-devices")
		e := runExample(t, binary, "mqtt-to-kafka")
		readings, alarms := e.collect(kafka, "app.readings"), e.collect(kafka, "app.alarms")
		e.feed(mqtt, "app.plant.7.reading", `{"celsius":20.50,"unit":"C","debug":"x"}`, `{"celsius":99,"unit":"C"}`)
		readings.wait(t, `{"celsius":20.50,"unit":"C","device":"7"}`, `{"celsius":99,"unit":"C","device":"7"}`)
		alarms.wait(t, `{"celsius":99,"unit":"C","device":"7"}`)
	})
	t.Run("jms-to-kafka", func(t *testing.T) {
		e := runExample(t, binary, "jms-to-kafka")
		orders := e.collect(kafka, "app.legacy.orders")
		e.feed(stomp, "app.legacy.orders", `{"customer":{"id":"c1","email":"a@b.c"},"total":1.10}`)
		orders.wait(t, `{"customer":{"id":"c1","email":"***"},"total":1.10}`)
	})
	t.Run("amqp-upgrade", func(t *testing.T) {
		e := runExample(t, binary, "amqp-upgrade")
		waitQueue(t, "app.events")
		events := e.collect(artemis, "app.events")
		e.feed(rabbit, "app.events", `{"event": "moved"}`)
		events.wait(t, `{"event": "moved"}`)
	})
	t.Run("webhook-to-amqp", func(t *testing.T) {
		e := runExample(t, binary, "webhook-to-amqp")
		const body = `{"repository":{"full_name":"a/b"},"ref":"main"}`
		mac := hmac.New(sha256.New, []byte("hush"))
		mac.Write([]byte(body))
		for signature, status := range map[string]int{hex.EncodeToString(mac.Sum(nil)): http.StatusAccepted, strings.Repeat("00", 32): http.StatusUnauthorized} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:8088/github", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-GitHub-Event", "push")
			req.Header.Set("X-Hub-Signature-256", "sha256="+signature)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != status {
				t.Errorf("got %d, want %d", resp.StatusCode, status)
			}
		}
		waitQueue(t, "app.webhooks")
		e.collect(rabbit, "app.webhooks").wait(t, body)
	})
	t.Run("kafka-to-mqtt", func(t *testing.T) {
		kafka.prepare(t, map[string]string{"app.commands": ""})
		mqtt.prepare(t, map[string]string{"app.plant.7.command": ""})
		e := runExample(t, binary, "kafka-to-mqtt")
		commands := e.collect(mqtt, "app.plant.7.command")
		e.feed(kafka, "app.commands", `{"device":7,"do":"stop"}`, `{"device":"7/#","do":"stop"}`)
		commands.wait(t, `{"device":7,"do":"stop","sent":true}`)
	})
	t.Run("rpc-over-amqp", func(t *testing.T) {
		e := runExample(t, binary, "rpc-over-amqp")
		waitQueue(t, "app.quotes")
		e.group.Go("worker", func(ctx context.Context) error { return work(ctx, t) })
		for i := range 5 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:8089/quote", strings.NewReader(fmt.Sprintf(`{"n":%d}`, i)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := fmt.Sprintf(`{"answer to":{"n":%d}}`, i); resp.StatusCode != http.StatusOK || string(body) != want {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
		}
	})
}

// mqttSession makes the session that a client will find, so that nothing is forgotten
// before it comes.
func mqttSession(t *testing.T, p peer, address, client string) {
	t.Helper()
	p.prepare(t, map[string]string{address: "client " + client})
}

func dialRabbit(t *testing.T) (*amqp091.Connection, error) {
	who := app(t, "rabbitmq")
	return amqp091.Dial(fmt.Sprintf("amqp://%s:%s@%s/", who.user, who.password, host(t, "rabbitmq", "LS_RABBITMQ_AMQP_URL")))
}

// waitQueue waits until the bridge has declared a queue.
func waitQueue(t *testing.T, name string) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; {
		conn, err := dialRabbit(t)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := conn.Channel()
		if err == nil {
			_, err = ch.QueueDeclarePassive(name, true, false, false, false, nil)
		}
		_ = conn.Close()
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: %v", name, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// work is the worker behind RabbitMQ: it answers each request at its reply address.
func work(ctx context.Context, t *testing.T) error {
	conn, err := dialRabbit(t)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	in, err := ch.ConsumeWithContext(ctx, "app.quotes", "", true, false, false, false, nil)
	if err != nil {
		return err
	}
	for d := range in {
		err := ch.PublishWithContext(ctx, "", d.ReplyTo, false, false, amqp091.Publishing{
			CorrelationId: d.CorrelationId, ContentType: "application/json", Body: fmt.Appendf(nil, `{"answer to":%s}`, d.Body),
		})
		if err != nil {
			return err
		}
	}
	return nil
}
