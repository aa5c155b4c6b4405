//! A server of one session, which asks nobody who he is (manual, postgres, "Single-User Mode").

use std::time::Duration;

use trove_strategy::{Command, Site};

/// Crash recovery included.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn postgres(site: &Site) -> Command {
    Command::engine(site.installation.bindir.join("postgres")).deadline(LIMIT)
}
