//! How much is tried: `make test` takes what finds most in little time, `make test-full` everything.

use crate::engine::Engine;

/// Whether everything is asked for: `TROVE_TEST_DEPTH=full`.
pub fn is_full() -> bool {
    std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full")
}

/// The engines to try: the one that is named, or all.
pub fn engines(usual: Engine) -> Vec<Engine> {
    if is_full() { Engine::ALL.to_vec() } else { vec![usual] }
}
