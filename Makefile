.PHONY: help setup test quick lint

help: ## What there is
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

setup: ## Install what the tests need (RabbitMQ, promtool, Python producers); quick when all is there
	@tests/tools/setup.sh

test: setup ## All tests: unit, integration, against a real RabbitMQ, documentation
	cargo test --locked --no-fail-fast

quick: ## The inner loop: what needs no broker
	cargo test --locked --lib --bins --test it

lint: ## Formatting and clippy, as CI sees them
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
