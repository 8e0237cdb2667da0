#!/usr/bin/env bash
# The quickstart from end to end: starts the bridge, sends orders over HTTP and MQTT,
# and shows what came out, what was masked, and what was kept as a dead letter. It
# leaves nothing behind.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
linkspan=$(cd "$here/../.." && pwd)/bin/linkspan
work=$(mktemp -d)
cd "$work"
bridge=
cleanup() {
	[ -n "$bridge" ] && kill "$bridge" 2>/dev/null && wait "$bridge" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT

show() { printf '\n$ %s\n' "$*"; }

show linkspan check examples/quickstart
"$linkspan" check "$here"

show linkspan run examples/quickstart
"$linkspan" run "$here" 2>bridge.log &
bridge=$!
for _ in $(seq 200); do
	curl -fs http://127.0.0.1:5480/ready >/dev/null 2>&1 && break
	kill -0 "$bridge" 2>/dev/null || { cat bridge.log; exit 1; }
	sleep 0.05
done
curl -s http://127.0.0.1:5480/ready

post() {
	show "curl -d '$1' http://127.0.0.1:8080/orders"
	curl -s -H 'Content-Type: application/json' -H "Idempotency-Key: $2" -d "$1" http://127.0.0.1:8080/orders
}
post '{"type":"order","id":1,"region":"eu","total":19.99,"customer":{"id":"c1","email":"ada@example.com"},"card":{"number":"4111111111111111"},"internal":"margin 40%"}' order-1
post '{"type":"ping","region":"eu","total":0,"customer":{"id":"c1"}}' ping-1
post '{"type":"order","id":2,"region":"eu","total":"a lot","customer":{"id":"c1"}}' order-2
post '{"type":"order","id":3,"region":"xx","total":1,"customer":{"id":"c2"}}' order-3

send() {
	show "linkspan send mqtt connect=mqtt://127.0.0.1:1883 topic=orders/$1 --payload '$2'"
	"$linkspan" send mqtt connect=mqtt://127.0.0.1:1883 topic="orders/$1" --payload "$2"
}
send us '{"type":"order","id":4,"region":"us","total":5,"customer":{"id":"c3","email":"grace@example.com"}}'
send eu '{"type":"order","id":5,"region":"eu","total":7.10,"customer":{"id":"c1","email":{"home":"x@example.com"}}}'

settled() { [ -s out/eu.ndjson ] && [ -s out/america.ndjson ] && [ -s out/archive.ndjson ]; }
for _ in $(seq 100); do
	settled && [ "$("$linkspan" dlq ls --json 2>/dev/null | wc -l)" -ge 2 ] && break
	sleep 0.05
done
for f in eu america archive; do
	show "cat out/$f.ndjson"
	cat "out/$f.ndjson"
done
show linkspan dlq ls
"$linkspan" dlq ls
show linkspan queue stats
"$linkspan" queue stats

kill -TERM "$bridge"
wait "$bridge"
bridge=
show linkspan queue verify
"$linkspan" queue verify
