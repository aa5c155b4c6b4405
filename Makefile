# Everything a person does with the checkout. `make` alone lists it.
SHELL := /bin/bash
# What `make demo` orders: any datastore that is installed.
DATASTORE := postgresql
TARGET := $(or $(CARGO_TARGET_DIR),target)
export TROVE_TEST_FEATURES := trove-agent/failpoints,trove-controller/failpoints
PROGRAMS := -p trove-controller -p trove-agent -p trovectl

.PHONY: help setup build demo demo-stop demo-wipe test test-full sim bench openapi lint features

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## installs what build, demo and tests need (Debian packages, the account that runs engines)
	@tests/scripts/setup.sh --tests

build: ## builds the three programs (dev profile)
	cargo build $(PROGRAMS)

demo: ## from nothing to a database that you can use (DATASTORE=postgresql); leaves the service running
	@TARGET="$(TARGET)" DATASTORE="$(DATASTORE)" tests/scripts/demo.sh

demo-stop: ## stops the demo's service and its databases; their data stays in .demo/
	@TARGET="$(TARGET)" tests/scripts/demo-stop.sh

demo-wipe: demo-stop ## stops the demo and removes all of it
	rm -rf .demo

test: setup lint ## everything: lint, unit, conformance on the real engine, end to end with the real clients, faults
	@TARGET="$(TARGET)" tests/scripts/test.sh

test-full: setup lint ## the same, and then every story and every test of the controller once more on PostgreSQL
	@TARGET="$(TARGET)" tests/scripts/test.sh full

sim: ## 1,000 seeded histories of two controllers and all that can go wrong, in one process (docs/simulation.md)
	@TARGET="$(TARGET)" tests/scripts/sim.sh

bench: setup ## what the service costs: release programs, measured; fails when a target is missed (docs/benchmarks.md)
	@tests/scripts/bench.sh

openapi: ## renews docs/openapi.json from the handlers, for review
	TROVE_KEEP_OPENAPI=1 cargo test --quiet --package trove-controller --lib --features "$(TROVE_TEST_FEATURES)" \
		api::openapi::tests::the_document_is_the_one_that_was_reviewed

lint: ## rustfmt, clippy, bans, licences, shellcheck
	@tests/scripts/lint.sh

features:
	@echo "$(TROVE_TEST_FEATURES)"
