.PHONY: help setup test client browser quick soak lint bench bench-peers bench-growth bench-micro bench-check

help: ## What there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Install what the tests need (RabbitMQ, promtool, nginx, Python producers, kustomize, schemas); quick when all is there
	@tests/tools/setup.sh

test: setup ## All tests: unit, integration, against a real RabbitMQ, documentation
	cargo test --locked --no-fail-fast
	node --test tests/console/*.test.mjs
	python3 -B -m unittest discover --start-directory benches/micro --pattern '*_test.py'
	python3 -B -m unittest discover --start-directory benches/growth --pattern '*_test.py'
	$(MAKE) --no-print-directory client
	$(MAKE) --no-print-directory browser

client: web-example/lib/node_modules ## The tests of the client in web-example/lib, against target/debug/sse-bridge and in Chromium
	npm --prefix web-example/lib test

web-example/lib/node_modules: web-example/lib/package-lock.json
	npm --prefix web-example/lib ci --no-audit --no-fund
	@touch $@

browser: web-example/node_modules ## EventSource, the example and the console in Chromium, against target/debug/sse-bridge; TEST=resume runs one file
	npm --prefix web-example run --silent typecheck
	npm --prefix web-example run --silent build
	npm --prefix web-example run --silent e2e -- $(TEST)

web-example/node_modules: web-example/package-lock.json
	npm --prefix web-example ci --no-audit --no-fund
	@touch $@

quick: ## The inner loop: what needs no broker
	cargo test --locked --lib --bins --test it
	python3 -B -m unittest discover --start-directory benches/micro --pattern '*_test.py'
	python3 -B -m unittest discover --start-directory benches/growth --pattern '*_test.py'

soak: setup ## A random mix of faults, SOAK_MINUTES=30 long; SOAK_SEED=... begins with one that was printed
	SOAK_MINUTES="$${SOAK_MINUTES:-30}" cargo test --locked --test broker -- --exact --nocapture \
		faults::runs::a_mix_of_all_faults_costs_nobody_an_event

bench: setup ## How fast it is, against its targets; SCENARIO="team-1000-paced ..." measures only those (benches/README.md)
	cargo bench --locked --bench load -- $(SCENARIO)

bench-peers: ## The same against nchan, Web-STOMP and FastAPI, which it installs
	@benches/tools/setup.sh
	cargo bench --locked --bench load -- $(addprefix peers-,$(or $(SCENARIO),team-1000-paced team-1000-burst team-10000))

bench-growth: setup ## How cost grows with clients, events, payload, audiences and slow clients, as tables, CSV and plots
	cargo bench --locked --bench load -- growth-clients growth-events growth-payload growth-audiences growth-slow \
		growth-window growth-window-fast \
		growth-ingest growth-replicas growth-replica-queues growth-readers

lint: ## Formatting and clippy, as CI sees them
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings

bench-micro: ## What an event costs at each step of its way, in time and allocations; FILTER=fan_out runs a part
	cargo bench --locked --bench micro -- $(FILTER)

bench-check: ## What became slower since BASE=<revision>: both builds, run alternately; fails beyond noise and 5 %
	@python3 -B benches/micro/check.py "$${BASE:?names the revision to compare with}" $(if $(FILTER),--filter $(FILTER))
