# The two commands for a fresh machine with Go: `make demo` and `make test`.
GO    ?= go
# A checkout has a lint cache of its own: a shared one answers with another checkout's paths.
export GOLANGCI_LINT_CACHE := $(CURDIR)/.cache/golangci-lint

TOOL  := $(GO) tool -modfile=tools/go.mod
KILLS ?= 100
LONG  ?= 10m
# long, or a factor of it: 10 does ten times as much.
BATTERY ?= long

# Flags of bench-bridges, such as -short.
BRIDGES ?=

# The race detector needs a C compiler; without one the tests run all the same.
RACE := $(shell command -v "$$($(GO) env CC)" >/dev/null 2>&1 && echo -race)

.PHONY: build build-full demo test test-cloud test-brokers lint fmt bench bench-bridges test-long fuzz

build: ## build bin/linkspan
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o bin/linkspan ./cmd/linkspan

build-full: ## build bin/linkspan-full, with the connectors for clouds
	cd connectors/cloud && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o ../../bin/linkspan-full ./linkspan-full

demo: build ## run the quickstart from end to end and show what happens
	./examples/quickstart/demo.sh

test: ## run all tests, the race detector on
	@[ -n "$(RACE)" ] || echo "no C compiler: the race detector is off" >&2
	$(GO) test $(RACE) ./...

test-cloud: ## run all tests of connectors/cloud, a module of its own
	cd connectors/cloud && $(GO) vet ./... && $(GO) test $(RACE) ./...

test-brokers: ## run the tests that need real brokers (Debian 12; installs them)
	./test/brokers/test.sh

lint: ## run the linters and check the format
	$(TOOL) golangci-lint run ./...

fmt: ## format
	$(TOOL) golangci-lint fmt ./...

bench: ## run the benchmarks that docs/performance.md quotes
	$(GO) test -run '^$$' -bench . -cpu 1 ./pipelines ./internal/jsonscan
	$(GO) test -run '^$$' -bench . ./queue/journal
	cd test/bench && $(GO) run ./queue -short

bench-bridges: ## measure CPU per message beside Bento, between real brokers (Debian 12; installs them)
	@trap './test/brokers/brokers down rabbitmq mosquitto kafka --wipe' EXIT; \
	LS_MOSQUITTO_CONF='autosave_on_changes false\nautosave_interval 0\nmax_queued_messages 0\nmax_inflight_messages 1000\n' \
		./test/brokers/brokers up rabbitmq mosquitto kafka && (cd test/bench && $(GO) run ./bridges $(BRIDGES))

test-long: ## kill the bridge KILLS times, and run the batteries at their long size
	$(GO) test ./queue/journal -run 'TestCrash|TestFaults|TestScripts|TestFlip|TestModel|TestMetamorphic|TestHistories|TestSubscribeWhileRetiring|TestPlants$$' -v -count 1 -timeout 30m -battery $(BATTERY)
	$(GO) test ./test -run TestKill -v -count 1 -timeout 30m -kills $(KILLS)

fuzz: ## fuzz every decoder for LONG each
	./test/fuzz.sh $(LONG)
