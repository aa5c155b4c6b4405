//! Tests that are skipped where they cannot run say so.

use std::io::Write as _;

/// Says that the running test is skipped, and why.
pub fn skipped(why: &str) {
    // Not `println!`, which is refused outside of tests.
    let _ = writeln!(std::io::stdout(), "{}", line(why));
}

/// Whether this runs as root. If not, says that the test is skipped, and why.
pub fn has_root_or_skips(why: &str) -> bool {
    let has_root = nix::unistd::geteuid().is_root();
    if !has_root {
        skipped(why);
    }
    has_root
}

fn line(why: &str) -> String {
    // The test's own thread has its name.
    format!("{} is skipped: {why}", std::thread::current().name().unwrap_or("a test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_line_names_the_test() {
        assert_eq!(line("no disk"), "skip::tests::the_line_names_the_test is skipped: no disk");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_line_names_a_test_with_threads() {
        assert_eq!(line("no disk"), "skip::tests::the_line_names_a_test_with_threads is skipped: no disk");
    }
}
