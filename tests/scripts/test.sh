#!/usr/bin/env bash
# Builds everything with failpoints and runs every test.
set -euo pipefail

clients=$(tests/scripts/clients.sh "$TARGET/clients")
export TROVE_CLIENTS_BIN=$clients
tests/scripts/keystone.sh prepare "$TARGET/keystone"
TROVE_TESTS_KEYSTONE=$(cd "$TARGET/keystone" && pwd)
export TROVE_TESTS_KEYSTONE

cargo build --workspace --all-targets --features "$TROVE_TEST_FEATURES"
# nextest runs no examples of the documentation.
cargo test --workspace --doc --features "$TROVE_TEST_FEATURES" --quiet
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --features "$TROVE_TEST_FEATURES"
else
    cargo test --workspace --features "$TROVE_TEST_FEATURES"
fi
