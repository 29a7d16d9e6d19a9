.PHONY: help setup test quick soak lint

help: ## What there is
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

setup: ## Install what the tests need (RabbitMQ, promtool, nginx, Python producers); quick when all is there
	@tests/tools/setup.sh

test: setup ## All tests: unit, integration, against a real RabbitMQ, documentation
	cargo test --locked --no-fail-fast

quick: ## The inner loop: what needs no broker
	cargo test --locked --lib --bins --test it

soak: setup ## A random mix of faults, SOAK_MINUTES=30 long; SOAK_SEED=... begins with one that was printed
	SOAK_MINUTES="$${SOAK_MINUTES:-30}" cargo test --locked --test broker -- --exact --nocapture \
		faults::runs::a_mix_of_all_faults_costs_nobody_an_event

lint: ## Formatting and clippy, as CI sees them
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
