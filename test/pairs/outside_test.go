//go:build brokers

package pairs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// Clients that are not written in Go send to each listener of the built program:
// MQTT.js, mosquitto_pub, stompit and curl.
func TestBrokerOutsideClients(t *testing.T) {
	brokersenv.Need(t, "mosquitto", "LS_MOSQUITTO_MQTT_URL") // mosquitto_pub comes with it
	const n = 20
	dir := t.TempDir()
	mqtt, stomp, web := freeAddress(t), freeAddress(t), freeAddress(t)
	out := filepath.Join(dir, "out.ndjson")
	yaml := fmt.Sprintf(`
pipeline: outside
in:
  mqtt: {mqtt: {listen: %q, topics: ["app/#"], auth: {users: {u: p}}}}
  stomp: {stomp: {listen: %q, destinations: [/queue/app], auth: {users: {u: p}}}}
  web: {http: {listen: %q, path: /app, auth: {basic: {user: u, password: p}}}}
steps:
  - set: {payload.source: message.source}
out:
  file: {file: {path: %q}}
`, mqtt, stomp, web, out)
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	bridge := exec.Command(buildBridge(t), "run", filepath.Join(dir, "p.yaml"), "--data", filepath.Join(dir, "data"), "--admin", "127.0.0.1:0")
	bridge.Stderr = &log
	if err := bridge.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bridge.Process.Signal(os.Interrupt)
		if err := bridge.Wait(); err != nil || t.Failed() {
			t.Errorf("the bridge ended with %v:\n%s", err, log.String())
		}
	}()
	for _, at := range []string{mqtt, stomp, web} {
		waitListening(t, at, &log)
	}

	modules := clients(t)
	node := func(script string, args ...string) string {
		return command(t, modules, "node", append([]string{script}, args...)...)
	}
	mqttHost, mqttPort, _ := strings.Cut(mqtt, ":")
	stompHost, stompPort, _ := strings.Cut(stomp, ":")
	for _, version := range []string{"4", "5"} {
		if got := node("mqtt.mjs", "mqtt://"+mqtt, version, "u", "p", "app/a", strconv.Itoa(n)); got != strconv.Itoa(3*n) {
			t.Errorf("MQTT.js, version %s: %s", version, got)
		}
		name := map[string]string{"4": "mqttv311", "5": "mqttv5"}[version]
		command(t, "", "mosquitto_pub", "-h", mqttHost, "-p", mqttPort, "-u", "u", "-P", "p", "-V", name, "-q", "1", "-t", "app/a", "-m", `{"client":"mosquitto_pub"}`)
	}
	if got := node("stomp.mjs", stompHost, stompPort, "u", "p", "/queue/app", strconv.Itoa(n)); got != strconv.Itoa(2*n) {
		t.Errorf("stompit: %s", got)
	}
	if got := command(t, "", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", "u:p", "-d", `{"client":"curl"}`, "-H", "Content-Type: application/json", "http://"+web+"/app"); got != "202" {
		t.Errorf("curl: %s", got)
	}

	want := map[string]int{"mqtt.js-4": 3 * n, "mqtt.js-5": 3 * n, "mosquitto_pub": 2, "stompit": 2 * n, "curl": 1}
	var got map[string]int
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); {
		if got = byClient(t, out); fmt.Sprint(got) == fmt.Sprint(want) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("arrived %v, sent %v", got, want)
	}
	brokersenv.Print(t, fmt.Sprintf("clients that are not Go, messages that arrived through the listeners: %v", got))
}

// clients installs the npm packages once and returns their folder.
func clients(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("..", "brokers", "clients")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "mqtt")); err != nil {
		command(t, dir, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent")
	}
	return dir
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

func byClient(t *testing.T, name string) map[string]int {
	t.Helper()
	got := map[string]int{}
	f, err := os.Open(name)
	if err != nil {
		return got
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var m struct {
			Client string `json:"client"`
		}
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			continue // the last line may be under way
		}
		got[m.Client]++
	}
	return got
}
