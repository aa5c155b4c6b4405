//! The check of restored data on the running server: `pg_amcheck` reads every table and every B-tree index of every database.
//!
//! What lies in the files was compared with the server's own sums when it was unpacked (`pg_verifybackup`). This looks at what
//! the sums do not say: whether tables and indexes were sound when the backup was taken. Source: manual, `pg_amcheck`, F.2.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use trove_strategy::{Command, EngineError, HostError, Kind, OutputStream, Relay, Site};

use crate::backup::connected;
use crate::client::cut;

/// The job's own deadline comes first.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// As much is kept of what is found, bytes.
const FOUND: usize = 2000;
const CHECK: &str = "check the restored data";

/// Checks all databases that let anybody in. Where the tool is not installed, or is too old (before 14), nothing is checked.
///
/// # Errors
/// [`Kind::Invalid`]: names the first places that are damaged. [`Kind::Transient`]: it could not be checked.
pub(crate) async fn check(site: &Site, relay: &Relay) -> Result<(), EngineError> {
    let tool = site.installation.bindir.join("pg_amcheck");
    if !site.host.has_program(&tool).await? {
        return Ok(());
    }
    let tool = Command::engine(tool).arg("--all").arg("--install-missing").arg("--heapallindexed").deadline(LIMIT);
    let mut tool = connected(tool, site, relay);
    // What a tenant has set for his database or for all of them is not to end the check, or to keep the extension out.
    let options = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 \
                   -c idle_in_transaction_session_timeout=0";
    tool.env.push(("PGOPTIONS".to_owned(), options.to_owned()));
    let (found, ended) = read(site.host.read_from(tool).await?).await;
    match ended {
        Ok(()) => Ok(()),
        // That is how it ends when it has found something (manual: "exit status 2").
        Err(HostError::Failed { status, .. }) if status.ends_with(" 2") && !found.trim().is_empty() => {
            Err(EngineError::new(Kind::Invalid, format!("{CHECK}: {}", cut(found.trim()))))
        }
        Err(HostError::Failed { stderr, status, .. }) => {
            let said = relay.refusal().map_or_else(|| cut(stderr.trim()).to_owned(), |error| error.chain());
            Err(EngineError::new(Kind::Transient, format!("{CHECK}: pg_amcheck ended with {status}: {said}")))
        }
        Err(error) => Err(EngineError::caused(Kind::Transient, CHECK, error)),
    }
}

/// The beginning of what it says, and how it ended.
async fn read(mut said: OutputStream) -> (String, Result<(), HostError>) {
    let (mut found, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let ended = loop {
        match said.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(length) => found.extend_from_slice(&buffer[..length.min(FOUND.saturating_sub(found.len()))]),
            Err(error) => {
                let reason = error.to_string();
                let other = |_| HostError::Start { program: "pg_amcheck".to_owned(), reason };
                break Err(error.downcast::<HostError>().unwrap_or_else(other));
            }
        }
    };
    (String::from_utf8_lossy(&found).into_owned(), ended)
}
