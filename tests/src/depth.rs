//! How much is tested: `make test` runs a part, `make test-full` everything.

use crate::engine::Engine;

/// Whether everything is tested: `TROVE_TEST_DEPTH=full`.
pub fn is_full() -> bool {
    std::env::var_os("TROVE_TEST_DEPTH").is_some_and(|depth| depth == "full")
}

/// The engines to test: `usual`, or all that are installed.
pub fn engines(usual: Engine) -> Vec<Engine> {
    if !is_full() {
        return vec![usual];
    }
    Engine::ALL.into_iter().filter(|engine| engine.is_installed()).collect()
}
