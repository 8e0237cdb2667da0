//go:build brokers

package pairs

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

// peer is a protocol with the broker that speaks it, as the tests see it from outside:
// with clients that are not ours.
type peer struct {
	name, broker string
	// in and out are the options of an input or output of linkspan for an address.
	in, out func(address string) string
	// prepare makes the addresses. Each comes with the pipeline that reads it, or nothing.
	prepare func(t *testing.T, addresses map[string]string)
	// feed sends the messages from index to n in order, waiting for room before each one
	// and telling how many the broker has confirmed. It returns when all are, or when the
	// connection is lost.
	feed func(ctx context.Context, address string, f *feeding) error
	// collect hands on what arrives at an address until ctx ends or the connection is lost.
	collect func(ctx context.Context, address string, got func(payload []byte)) error
}

// feeding is the state of one sender.
type feeding struct {
	n int
	// make returns message i with its ordering key.
	make func(i int) (key string, payload []byte)
	// room blocks until message i may be sent.
	room func(ctx context.Context, i int) error
	// confirmed is how many messages the broker has.
	confirmed atomic.Int64
}

type account struct{ user, password string }

func app(t *testing.T, broker string) account {
	return account{brokersenv.Need(t, broker, "LS_APP_USER"), brokersenv.Need(t, broker, "LS_APP_PASS")}
}

// host returns host:port of an address in the brokers' environment.
func host(t *testing.T, broker, key string) string {
	t.Helper()
	u, err := url.Parse(brokersenv.Need(t, broker, key))
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// webPeer is HTTP: linkspan listens at one end, and this test at the other.
func webPeer(t *testing.T, listen, partner string) peer {
	return peer{
		name: "http",
		in:   func(a string) string { return fmt.Sprintf("http: {listen: %q, path: /%s}", listen, a) },
		out:  func(a string) string { return fmt.Sprintf("http: {url: %q}", "http://"+partner+"/"+a) },
		feed: func(ctx context.Context, a string, f *feeding) error {
			return feedHTTP(ctx, "http://"+listen+"/"+a, f)
		},
		prepare: func(*testing.T, map[string]string) {},
	}
}

// only narrows a run by hand: -only mqtt,kafka.
var only = flag.String("only", "", "the protocols of the pairs, separated by commas; default all")

func peers(t *testing.T, listen, partner string) (out []peer) {
	for _, p := range []struct {
		name string
		make func(t *testing.T) peer
	}{
		{"amqp091", amqp091Peer},
		{"amqp1", amqp1Peer},
		{"mqtt", mqttPeer},
		{"stomp", stompPeer},
		{"http", func(t *testing.T) peer { return webPeer(t, listen, partner) }},
		{"kafka", kafkaPeer},
	} {
		if *only == "" || slices.Contains(strings.Split(*only, ","), p.name) {
			out = append(out, p.make(t))
		}
	}
	return out
}
