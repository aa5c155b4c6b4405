# Everything a person does with the checkout. `make` alone lists it.
SHELL := /bin/bash
# What `make demo` orders and `make image` bakes: any datastore that is installed, any that has an element.
DATASTORE := postgresql
# What `make image` bakes it from and into; empty: what the datastore's newest stable suite has, and the agent of this checkout.
VERSION :=
SUITE :=
FORMAT := docker
AGENT :=
# How `make demo` makes hosts: process, or docker, which needs root and bakes an image unless IMAGE is the description of one.
COMPUTE := process
IMAGE :=
TARGET := $(or $(CARGO_TARGET_DIR),target)
export TROVE_TEST_FEATURES := trove-agent/failpoints,trove-controller/failpoints
PROGRAMS := -p trove-controller -p trove-agent -p trovectl

.PHONY: help setup build demo demo-stop demo-wipe test test-full sim bench image test-images test-images-boot openapi lint features

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## installs what build, demo and tests need (Debian packages, the account that runs engines)
	@tests/scripts/setup.sh --tests

build: ## builds the three programs (dev profile)
	cargo build $(PROGRAMS)

demo: ## from nothing to a database that you can use (DATASTORE=postgresql COMPUTE=process); leaves the service running
	@TARGET="$(TARGET)" DATASTORE="$(DATASTORE)" COMPUTE="$(COMPUTE)" IMAGE="$(IMAGE)" tests/scripts/demo.sh

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

image: ## a guest image (DATASTORE, VERSION, SUITE, FORMAT=docker|tar|qcow2) under images/, see docs/images.md
	@TARGET="$(TARGET)" DATASTORE="$(DATASTORE)" VERSION="$(VERSION)" SUITE="$(SUITE)" FORMAT="$(FORMAT)" AGENT="$(AGENT)" \
		tests/scripts/image.sh

test-images: ## bakes guest images and checks what is inside (IMAGES_TO_TEST="redis/trixie ...", TWICE=1)
	@TARGET="$(TARGET)" AGENT="$(AGENT)" tests/scripts/test-images.sh

test-images-boot: ## boots a disk image in an emulator until its agent dials a controller (needs qemu-system-x86, genisoimage)
	@TARGET="$(TARGET)" AGENT="$(AGENT)" tests/scripts/boot-image.sh

openapi: ## renews docs/openapi.json from the handlers, for review
	TROVE_KEEP_OPENAPI=1 cargo test --quiet --package trove-controller --lib --features "$(TROVE_TEST_FEATURES)" \
		api::openapi::tests::the_document_is_the_one_that_was_reviewed

lint: ## rustfmt, clippy, bans, licences, shellcheck
	@tests/scripts/lint.sh

features:
	@echo "$(TROVE_TEST_FEATURES)"
