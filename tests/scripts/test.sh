#!/usr/bin/env bash
# Builds everything with failpoints and runs every test; with `full`, sweeps over everything (tests/src/depth.rs), and the
# stories once more on PostgreSQL.
set -euo pipefail

clients=$(realpath "$(tests/scripts/clients.sh "$TARGET/clients")")
export TROVE_CLIENTS_BIN=$clients
tests/scripts/keystone.sh prepare "$TARGET/keystone"
TROVE_TESTS_KEYSTONE=$(cd "$TARGET/keystone" && pwd)
export TROVE_TESTS_KEYSTONE
if tests/scripts/swift.sh prepare "$TARGET/swift"; then
    TROVE_TESTS_SWIFT=$(cd "$TARGET/swift" && pwd)
    export TROVE_TESTS_SWIFT
else
    echo "test: Swift cannot be installed, so the stories of object storages are skipped" >&2
fi

cargo build --workspace --all-targets --features "$TROVE_TEST_FEATURES"
# The image of the stories about Docker, with the agent of this build; all but the agent is kept from the last time.
if [ "$(id -u)" -eq 0 ] && command -v dockerd >/dev/null; then
    tests/scripts/setup.sh --images
    DATASTORE=postgresql SUITE=bookworm FORMAT=docker AGENT=$TARGET/debug/trove-agent IMAGES=$TARGET/images \
        tests/scripts/image.sh
    TROVE_TEST_IMAGE=$(realpath "$TARGET"/images/postgresql-*-bookworm.json)
    export TROVE_TEST_IMAGE
fi
# nextest runs no examples of the documentation.
cargo test --workspace --doc --features "$TROVE_TEST_FEATURES" --quiet
# Runs tests: those of a filter of nextest, or what cargo test takes instead. Always of the whole workspace with nextest, since
# the packages would be built once more with the features of a part.
run() {
    if cargo nextest --version >/dev/null 2>&1; then
        # More at once than there are cores: most tests wait for processes and clocks longer than they compute.
        cargo nextest run --test-threads "$(($(nproc) * 2))" --workspace --features "$TROVE_TEST_FEATURES" -E "$1"
    else
        cargo test --features "$TROVE_TEST_FEATURES" "${@:2}"
    fi
}
export -f run

if [ "${1:-}" = full ]; then
    export TROVE_TEST_DEPTH=full
else
    # What is tried at random is the same each time, so that a change is judged by itself. A full run, and a test that is run by
    # hand, draw anew and print the seed.
    export TROVE_SEED=${TROVE_SEED:-1} PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1}
fi
run 'all()' --workspace
if [ "${1:-}" = full ]; then
    # Status 75: it says why MySQL cannot be had.
    TARGET=$TARGET tests/scripts/with-mysql.sh true && mysql=0 || mysql=$?
    case $mysql in
        0) TARGET=$TARGET tests/scripts/with-mysql.sh bash -c "run 'package(trove-mysql) & (binary(mysql) | test(mysql_passes))' \
            --package trove-mysql --test mysql" ;;
        75) echo "test: MySQL's tests are skipped" >&2 ;;
        *) exit "$mysql" ;;
    esac
fi
# The simulator's database is one too.
TROVE_TEST_STORE_URL=simulated run 'package(trove-controller) & kind(lib) & test(/^store::/)' \
    --package trove-controller --lib store::
# The store's SQL, and what stands on it, on the other database. The simulator has a database of its own and was there already.
tests/scripts/with-postgresql.sh bash -c "run 'package(trove-controller) & kind(lib) & not test(/^simulation::/)' \
    --package trove-controller --lib -- --skip simulation::"
if [ "${1:-}" = full ]; then
    # Only the stories have a store; the tests of strategies would be as before. Sweeps are of the usual engine: what is
    # written to the store is the same with each.
    TROVE_TEST_DEPTH='' TROVE_TEST_STORE=postgres run 'package(trove-tests) & kind(test)' --package trove-tests --test '*'
fi
