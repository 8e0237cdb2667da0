#!/usr/bin/env bash
# Runs every test with the build tag brokers against real brokers, and prints what ran
# against what. Arguments are packages; without any, all.
set -uo pipefail
cd "$(dirname "$0")/../.."
B=test/brokers/brokers
names=()
for name in rabbitmq mosquitto activemq artemis kafka proton redis; do
  case ",${LINKSPAN_BROKERS_SKIP:-}," in
    *",$name,"*) echo "NOT TESTED: $name is left out by LINKSPAN_BROKERS_SKIP" >&2 ;;
    *) names+=("$name") ;;
  esac
done
trap '"$B" down all --wipe' EXIT
"$B" tools && "$B" up "${names[@]}" || exit 1
LINKSPAN_BROKERS_LEDGER=$(mktemp)
export LINKSPAN_BROKERS_LEDGER
packages=("$@")
[ ${#packages[@]} -gt 0 ] || mapfile -t packages < <(grep -rl --include='*_test.go' '^//go:build brokers' --exclude-dir=cloud . | xargs -n1 dirname | sort -u)
# One package at a time: tests restart the brokers that they share.
go test -tags brokers -run '^TestBroker' -count 1 -p 1 -timeout 14m "${packages[@]}"
rc=$?
if [ $# -eq 0 ]; then # a module of its own
  (cd connectors/cloud && go test -tags brokers -run '^TestBroker' -count 1 -p 1 -timeout 5m ./...) || rc=1
fi
echo
printf '%-12s %-12s %8s %8s %8s\n' package broker passed failed skipped
awk '{ n[$1 " " $2 " " $3]++; row[$1 " " $2] = 1 }
  END { for (r in row) { split(r, p, " "); printf "%-12s %-12s %8d %8d %8d\n", p[1], p[2], n[r " passed"], n[r " failed"], n[r " skipped"] } }' \
  "$LINKSPAN_BROKERS_LEDGER" | sort
echo
cat "$LINKSPAN_BROKERS_LEDGER.text" 2>/dev/null
rm -f "$LINKSPAN_BROKERS_LEDGER" "$LINKSPAN_BROKERS_LEDGER.text"
exit $rc
