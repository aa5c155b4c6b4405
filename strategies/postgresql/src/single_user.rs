//! A server of one session, which asks nobody who he is (manual, postgres, "Single-User Mode"), and what a server that does not run
//! says of itself.

use std::time::Duration;

use trove_strategy::{Command, EngineError, Site};

/// Crash recovery included.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn postgres(site: &Site) -> Command {
    Command::engine(site.installation.bindir.join("postgres")).deadline(LIMIT)
}

/// The server's control file, a line for each [`field`].
pub(crate) async fn control(site: &Site) -> Result<String, EngineError> {
    let show = Command::engine(site.installation.bindir.join("pg_controldata")).arg(site.data.to_string_lossy());
    Ok(site.host.run(show).await?.stdout)
}

/// A field by its name, such as `Database cluster state:`.
pub(crate) fn field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()))
}
