//go:build brokers

package pairs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/internal/run"
	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// The network between the bridge and each broker is cut, swallows everything for a
// while, and crawls: nothing is lost, the order of a key holds, and the bridge does not
// spin. Kafka is not here: its clients dial the addresses that the brokers announce.
func TestBrokerNetworkFaults(t *testing.T) {
	addresses := map[string]string{
		"amqp091": host(t, "rabbitmq", "LS_RABBITMQ_AMQP_URL"), "amqp1": host(t, "artemis", "LS_ARTEMIS_AMQP_URL"),
		"mqtt": host(t, "mosquitto", "LS_MOSQUITTO_MQTT_URL"), "stomp": brokersenv.Need(t, "activemq", "LS_ACTIVEMQ_STOMP_ADDR"),
	}
	quick := map[string]string{ // how a silent peer is found out within seconds
		"amqp091": "heartbeat: 1s, ", "amqp1": "idle_timeout: 2s, ", "mqtt": "keep_alive: 2s, ", "stomp": "heart_beat: 1s, ",
	}
	g := newGate()
	b := &bridge{dir: t.TempDir(), binary: buildBridge(t)}
	folder := filepath.Join(b.dir, "pipelines")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	var pairs []*pair
	var proxies []*proxy
	unique := fmt.Sprintf("net%d", time.Now().UnixNano())
	for _, x := range []peer{amqp091Peer(t), amqp1Peer(t), mqttPeer(t), stompPeer(t)} {
		p := newProxy(t, addresses[x.name])
		proxies = append(proxies, p)
		pr := &pair{from: x, to: x, unique: unique, last: map[string]int{}}
		pr.feeding.n, pr.feeding.make, pr.feeding.room = messages, makeEvent, g.wait
		pairs = append(pairs, pr)
		x.prepare(t, map[string]string{pr.source(): pr.name(), pr.target(): ""})
		through := func(options string) string {
			return strings.Replace(strings.Replace(options, addresses[x.name], p.ln.Addr().String(), 1), x.name+": {", x.name+": {"+quick[x.name], 1)
		}
		yaml := fmt.Sprintf("pipeline: %s\nin:\n  i: {%s}\nout:\n  o: {%s}\ndelivery:\n  order_by: payload.k\n", pr.name(),
			through(x.in(pr.source())), strings.Replace(through(x.out(pr.target())), "{", "{timeout: 3s, ", 1))
		if err := os.WriteFile(filepath.Join(folder, pr.name()+".yaml"), []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	group := run.NewGroup(t.Context())
	for _, pr := range pairs {
		group.Go("collector", func(ctx context.Context) error {
			again(ctx, func() error { return pr.to.collect(ctx, pr.target(), pr.got) })
			return nil
		})
		group.Go("feeder", func(ctx context.Context) error {
			again(ctx, func() error { return pr.from.feed(ctx, pr.source(), &pr.feeding) })
			return nil
		})
	}
	b.start(t)
	every := func(do func(*proxy)) {
		for _, p := range proxies {
			do(p)
		}
	}
	at := 0
	step := func(n int, during time.Duration) {
		for end := at + n; at < end; {
			at += 10
			g.open(at)
			<-time.After(during / time.Duration(n/10))
		}
	}
	step(200, time.Second)
	for range 5 {
		every((*proxy).reset)
		step(60, 800*time.Millisecond)
	}
	every((*proxy).swallow)
	step(100, 8*time.Second)
	every((*proxy).reset)
	every((*proxy).heal)
	step(50, time.Second)
	every((*proxy).crawl)
	step(50, 2*time.Second)
	every((*proxy).heal)
	g.open(messages)
	left := func() (n int) {
		for _, pr := range pairs {
			n += pr.missing()
		}
		return n
	}
	for limit := time.Now().Add(90 * time.Second); left() > 0 && time.Now().Before(limit); {
		<-time.After(100 * time.Millisecond)
	}
	_ = b.cmd.Process.Signal(os.Interrupt)
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("the bridge ended with %v", err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%d messages over a bad network: lost / out of order / duplicated; CPU of the bridge %v\n", messages, cpu(b.cmd))
	for i, pr := range pairs {
		fmt.Fprintf(&out, "%-10s %d / %d / %d, over %d connections\n", pr.from.name, pr.missing(), pr.disorders, pr.duplicates(), proxies[i].served)
		if proxies[i].served < 8 { // two ends, cut six times
			t.Errorf("%s: the proxy served %d connections: the faults were not there", pr.name(), proxies[i].served)
		}
		if pr.missing() > 0 || pr.disorders > 0 || pr.strange > 0 {
			t.Errorf("%s: %d lost, %d out of order, %d strange", pr.name(), pr.missing(), pr.disorders, pr.strange)
		}
	}
	if cpu(b.cmd) > 10*time.Second {
		t.Errorf("the bridge used %v for %d messages: it spins", cpu(b.cmd), 4*messages)
	}
	brokersenv.Print(t, out.String())
	if t.Failed() {
		text := b.log.String()
		t.Logf("the bridge's log ends with:\n%s", text[max(0, len(text)-6000):])
	}
	group.Stop()
	_ = group.Wait()
}

func cpu(cmd *exec.Cmd) time.Duration {
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(10 * time.Millisecond)
}
