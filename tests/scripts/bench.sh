#!/usr/bin/env bash
# Builds the release programs and measures them. With `requests`, `create` or `fleet` only that part.
set -euo pipefail

cargo build --release -p trove-controller -p trove-agent -p trovectl
exec cargo bench --quiet -p trove-tests --bench service -- "$@"
