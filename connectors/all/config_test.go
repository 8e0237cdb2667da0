package all

import (
	"strings"
	"testing"

	"github.com/linkspan/linkspan/internal/config"
)

// Each line is what stands under `in:` or `out:`; want is a part of the problem, or
// empty when there is none.
func TestConfigurations(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{`in: {http: {listen: "127.0.0.1:8080", path: /orders}}`, ""},
		{`in: {http: {listen: "127.0.0.1:8080", path: /orders/*, auth: {bearer: x}, tls: {cert: a, key: b, client_ca: c}, content_types: [text/*], methods: [POST, PUT]}}`, ""},
		{`in: {http: {listen: "8080", path: /orders}}`, "not an address"},
		{`in: {http: {listen: ":8080", path: orders}}`, "not a path"},
		{`in: {http: {listen: ":8080", path: /a, auth: {}}}`, "exactly one"},
		{`in: {http: {listen: ":8080", path: /a, methods: post}}`, "not a method"},
		{`in: {http: {listen: ":8080"}}`, `"path" is missing`},
		{`out: {http: {url: "https://host/x", headers: {X-A: v, X-B: {expr: payload.a}}, auth: {basic: {user: u, password: p}}, tls: {ca: a}}}`, ""},
		{`out: {http: {url: "https://u:p@host/x"}}`, "do not belong"},
		{`out: {http: {url: "ftp://host/x"}}`, "only http and https"},
		{`out: {http: {url: "http://host/x", headers: {Content-Length: "3"}}}`, "cannot be set"},
		{`out: {http: {url: "https://host/x", tls: {insecure_skip_verify: true}}}`, "not verified"},
		{`in: {mqtt: {listen: "127.0.0.1:1883", topics: orders/#, auth: {users: {a: b}}, tls: {cert: a, key: b}}}`, ""},
		{`in: {mqtt: {listen: "127.0.0.1:1883", topics: [a], qos: 1}}`, "qos is for"},
		{`in: {mqtt: {listen: "127.0.0.1:1883", topics: [a], tls: {ca: x}}}`, "certificate and its key"},
		{`in: {mqtt: {topics: [a]}}`, "exactly one of listen and connect"},
		{`in: {mqtt: {connect: "mqtts://h", topics: ["a/+/#"], qos: 2, version: 3.1.1, clean_start: true, auth: {user: u, password: p}, tls: {ca: x}}}`, ""},
		{`in: {mqtt: {connect: "mqtt://h:1", topics: ["a#"]}}`, "not a topic filter"},
		{`in: {mqtt: {connect: "mqtt://h:1", topics: [a], version: 4}}`, "not a version"},
		{`in: {mqtt: {connect: "mqtt://h:1", topics: [a], qos: 3}}`, "not a quality"},
		{`in: {mqtt: {connect: "mqtt://h:1", topics: [a], tls: {ca: x}}}`, "no effect"},
		{`out: {mqtt: {connect: "mqtt://h:1", topic: a/b}}`, ""},
		{`out: {mqtt: {connect: "mqtt://h:1", topic: {expr: payload.x}}}`, ""},
		{`out: {mqtt: {connect: "mqtt://h:1", topic: a/#}}`, "not a topic"},
		{`in: {kafka: {brokers: ["k1:9092", "k2:9092"], topics: [orders], group: g, start: latest, isolation: read_uncommitted, balancer: range, instance_id: a, rack: r, fetch: {max_wait: 1s}, auth: {mechanism: scram-sha-256, user: u, password: p}}}`, ""},
		{`in: {kafka: {brokers: k1:9092, topics_regex: "orders-.*", tls: {}, auth: {mechanism: oauthbearer, token_url: "https://h/t", client_id: c, client_secret: s, scopes: [a]}}}`, ""},
		{`in: {kafka: {brokers: k1:9092, partitions: {orders: [0, 1], other: {0: 15, 1: latest}}, start: "2026-01-31T08:00:00Z"}}`, ""},
		{`in: {kafka: {brokers: k1:9092, partitions: {orders: [0, 0]}}}`, "not the number"},
		{`in: {kafka: {brokers: k1:9092, partitions: {orders: {0: soon}}}}`, "not a place"},
		{`in: {kafka: {brokers: k1:9092, partitions: {orders: [0]}, group: g}}`, "group is for a group"},
		{`in: {kafka: {brokers: k1:9092}}`, "exactly one of topics"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], topics_regex: b}}`, "exactly one of topics"},
		{`in: {kafka: {brokers: "kafka://k1:9092", topics: [a]}}`, "not the address"},
		{`in: {kafka: {brokers: k1, topics: [a]}}`, "not the address"},
		{`in: {kafka: {brokers: k1:9092, topics: [a/b]}}`, "not the name"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], start: yesterday}}`, "not a place"},
		{`in: {kafka: {brokers: k1:9092, topics_regex: "("}}`, "not a regular expression"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], balancer: stiky}}`, "did you mean `sticky`"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], auth: {mechanism: plain, user: u, password: p}}}`, "without TLS"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], auth: {mechanism: plain, user: u}, tls: {}}}`, "needs a user and a password"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], auth: {mechanism: oauthbearer}, tls: {}}}`, "either a token"},
		{`in: {kafka: {brokers: k1:9092, topics: [a], auth: {mechanism: gssapi}}}`, "not known here"},
		{`out: {kafka: {brokers: k1:9092, topic: orders, key: payload.id, compression: zstd, acks: leader, linger: 5ms, max_batch: 4MiB, timeout: 10s, allow_auto_topic_creation: true}}`, ""},
		{`out: {kafka: {brokers: k1:9092, topic: {expr: '"orders-" + payload.region'}}}`, ""},
		{`out: {kafka: {brokers: k1:9092, topic: orders/eu}}`, "not the name"},
		{`out: {kafka: {brokers: k1:9092, topic: a, compression: lzma}}`, "not known here"},
		{`out: {kafka: {brokers: k1:9092, topic: a, acks: 1}}`, "not known here"},
		{`out: {kafka: {brokers: k1:9092, topic: a, linger: 1m}}`, "linger must be"},
		{`in: {amqp091: {connect: "amqp://h", queue: q}}`, ""},
		{`in: {amqp091: {connect: "amqps://h/v", queue: q, prefetch: 10, declare: create, queue_options: {type: quorum, arguments: {x-max-length: 1000, x-single-active-consumer: true, x-overflow: reject-publish}}, bindings: [{exchange: x, type: topic, routing_key: "a.#"}], auth: {user: u, password: p}, tls: {ca: a}, priority: 3, arguments: {x-a: "1"}}}`, ""},
		{`in: {amqp091: {connect: "amqp://h/%2F", queue: s, offset: first}}`, ""},
		{`in: {amqp091: {connect: "amqp://h", queue: s, offset: begin}}`, "not an offset"},
		{`in: {amqp091: {connect: "amqp://h", queue: s, offset: 5, declare: create, queue_options: {type: classic}}}`, "add `type: stream`"},
		{`in: {amqp091: {connect: "amqp://u:p@h", queue: q}}`, "do not belong"},
		{`in: {amqp091: {connect: "mqtt://h", queue: q}}`, "not the address of an AMQP 0-9-1 broker"},
		{`in: {amqp091: {connect: "amqp://h", queue: q, tls: {ca: x}}}`, "no effect"},
		{`in: {amqp091: {connect: "amqp://h", queue: q, prefetch: 0}}`, "prefetch must be"},
		{`in: {amqp091: {connect: "amqp://h", queue: q, declare: maybe}}`, "not a way to declare"},
		{`in: {amqp091: {connect: "amqp://h", queue: q, queue_options: {durable: false}}}`, "no effect with `declare: none`"},
		{`in: {amqp091: {connect: "amqp://h", queue: q, declare: create, queue_options: {type: quorum, durable: false}}}`, "is durable"},
		{`in: {amqp091: {connect: "amqp://h", queue: q, arguments: {x: [1]}}}`, "plain value"},
		{`in: {amqp091: {connect: "amqps://h", queue: q, auth: {external: true}}}`, "the certificate says who"},
		{`out: {amqp091: {connect: "amqp://h", queue: q}}`, ""},
		{`out: {amqp091: {connect: "amqp://h", exchange: x, routing_key: {expr: '"a." + payload.b'}, mandatory: false, reply_to: answers, type: order, declare: create, exchange_options: {type: topic}}}`, ""},
		{`out: {amqp091: {connect: "amqp://h", routing_key: {expr: '"a." + payload.b'}}}`, ""},
		{`out: {amqp091: {connect: "amqp://h"}}`, "not said where"},
		{`out: {amqp091: {connect: "amqp://h", queue: q, exchange: x}}`, "default exchange"},
		{`out: {amqp091: {connect: "amqp://h", queue: q, declare: create, exchange_options: {type: topic}}}`, "has no effect here"},
		{`out: {amqp091: {connect: "amqp://h", routing_key: k, declare: check}}`, "always there"},
		{`out: {amqp091: {connect: "amqp://h", queue: q, heartbeat: 1ms}}`, "heartbeat must be"},
		{`in: {amqp1: {connect: "amqp://h", address: q}}`, ""},
		{`in: {amqp1: {connect: "amqps://h/", address: t, node: topic, subscription: s, shared: true, selector: "a = 1", credit: 5, not_taken: modify, properties: {a: b}, auth: {external: true}, tls: {cert: a, key: b}}}`, ""},
		{`in: {amqp1: {connect: "amqp://h/q", address: q}}`, "what is read or written"},
		{`in: {amqp1: {connect: "amqp://u:p@h", address: q}}`, "do not belong"},
		{`in: {amqp1: {connect: "amqp://h", address: q, credit: 6000}}`, "credit must be"},
		{`in: {amqp1: {connect: "amqp://h", address: q, not_taken: drop}}`, "not a way to give"},
		{`in: {amqp1: {connect: "amqp://h", address: q, node: queue, subscription: s}}`, "no subscriptions"},
		{`in: {amqp1: {connect: "amqp://h", address: q, shared: true}}`, "only a subscription"},
		{`in: {amqp1: {connect: "amqp://h", address: q, node: exchange}}`, "not a kind of node"},
		{`in: {amqp1: {connect: "amqp://h", address: q, tls: {ca: x}}}`, "no effect"},
		{`out: {amqp1: {connect: "amqp://h", address: {expr: '"a" + payload.b'}, settlement: settled, body: text, subject: s, group_id: {expr: payload.c}, reply_to: r}}`, ""},
		{`out: {amqp1: {connect: "amqp://h", address: q, settlement: second}}`, "not a way to settle"},
		{`out: {amqp1: {connect: "amqp://h", address: q, body: json}}`, "not a kind of body"},
		{`out: {amqp1: {connect: "amqp://h", address: q, max_in_flight: 0}}`, "max_in_flight must be"},
		{`out: {amqp1: {connect: "amqp://h"}}`, `"address" is missing`},
		{`in: {file: {path: x}}`, ""},
		{`in: {file: {path: x, format: csv, delimiter: "\t", columns: [a, b], from: end, follow: false}}`, ""},
		{`in: {file: {path: x, format: cvs}}`, "did you mean `csv`"},
		{`in: {file: {path: x, format: csv, delimiter: ";;"}}`, "not a delimiter"},
		{`out: {file: {path: x, rotate: {bytes: 100MiB, every: 24h, keep: 10}}}`, ""},
		{`in: {stdio: {}}`, ""},
		{`out: {stdio: {}}`, ""},
		{`in: {stomp: {listen: "127.0.0.1:61613", destinations: [/queue/a, "/topic/*"], auth: {users: {a: b}}, tls: {cert: a, key: b}, max_frame: 4KiB, max_in_flight: 1}}`, ""},
		{`in: {stomp: {listen: "127.0.0.1:61613", destination: /queue/a, ack: auto}}`, "ack is for"},
		{`in: {stomp: {listen: "127.0.0.1:61613", destinations: ["/queue/*/a"]}}`, "not a destination"},
		{`in: {stomp: {listen: "61613", destination: /queue/a}}`, "not an address"},
		{`in: {stomp: {listen: ":1", destination: /queue/a, auth: {user: a, password: b}}}`, "users that may connect"},
		{`in: {stomp: {destination: /queue/a}}`, "exactly one of listen and connect"},
		{`in: {stomp: {connect: "stomp://h"}}`, "exactly one of destination"},
		{`in: {stomp: {connect: "stomp+ssl://h:1", destinations: [/topic/a.>, /queue/b], ack: client, prefetch: 10, selector: "a > 1", headers: {durable: "true"}, subscription_id: s, client_id: c, version: 1.1, host: h, heart_beat: 0s, auth: {user: u, password: p}, tls: {ca: x}}}`, ""},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, headers: {id: x}}}`, "set by the connector"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, headers: {"a:b": x}}}`, "cannot be a header"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, ack: never}}`, "mode of acknowledgement"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, prefetch: 0}}`, "prefetch must be"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, version: 1.3}}`, "not a version"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, heart_beat: 1ms}}`, "heart_beat must be"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, max_in_flight: 3}}`, "max_in_flight is for"},
		{`in: {stomp: {connect: "stomp://u:p@h", destination: /queue/a}}`, "do not belong"},
		{`in: {stomp: {connect: "stomp://h", destination: /queue/a, tls: {ca: x}}}`, "no effect"},
		{`out: {stomp: {connect: "stomp://h", destination: /queue/a, type: text, transactions: true, headers: {persistent: "false", AMQ_SCHEDULED_DELAY: "10"}, max_in_flight: 1, timeout: 1s}}`, ""},
		{`out: {stomp: {connect: "stomp://h", destination: {expr: '"/queue/" + payload.x'}}}`, ""},
		{`out: {stomp: {connect: "amqp://h", destination: /queue/a}}`, "not the address"},
		{`out: {stomp: {connect: "stomp://h", destination: "a\nb"}}`, "can be sent to"},
		{`out: {stomp: {connect: "stomp://h", destination: /queue/a, type: json}}`, "not a type"},
		{`out: {stomp: {connect: "stomp://h", destination: /queue/a, headers: {receipt: x}}}`, "set by the connector"},
		{`out: {stomp: {connect: "stomp://h", destination: /queue/a, max_in_flight: 0}}`, "max_in_flight must be"},
		{`out: {stomp: {connect: "stomp://h", destination: /queue/a, host: "a	b"}}`, "cannot carry"},
		{`in: {generate: {count: 10, rate: 100/s, template: order, seed: 3}}`, ""},
		{`in: {generate: {rate: fast}}`, "not a rate"},
		{`in: {generate: {template: odrer}}`, "did you mean `order`"},
	} {
		var r config.Report
		f := config.Parse("x.yaml", []byte(c.yaml), config.Lookup{}, &r)
		if f == nil {
			t.Fatalf("%s: %v", c.yaml, r.Problems())
		}
		end := f.Root().Fields()[0]
		protocol := end.Value.Fields()[0]
		for _, s := range Specs() {
			switch {
			case s.Name != protocol.Name:
			case end.Name == "in":
				s.Source.Decode(protocol.Value, &r)
			default:
				s.Sink.Decode(protocol.Value, &r)
			}
		}
		var text strings.Builder
		for _, p := range r.Problems() {
			text.WriteString(p.Text() + "\n")
		}
		if c.want == "" && text.Len() > 0 || !strings.Contains(text.String(), c.want) {
			t.Errorf("%s\nwant %q, got:\n%s", c.yaml, c.want, text.String())
		}
	}
}
