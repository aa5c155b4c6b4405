#!/usr/bin/env bash
# Lives through seeded histories; see docs/simulation.md. In a target directory of its own: its flag rebuilds everything.
set -euo pipefail
export CARGO_TARGET_DIR=$TARGET/sim RUSTFLAGS="--cfg tokio_unstable"
export TROVE_SIM_HISTORIES=${TROVE_SIM_HISTORIES:-1000}
cargo test --profile sim --package trove-controller --lib simulation -- --nocapture
