//! A connection that stays open, so that the agent sees its server when strangers or tenants have taken all others.

use std::path::PathBuf;

use tokio::sync::Mutex;
use trove_strategy::{EngineError, Kind, Site};

use crate::client::{HOME, Session};

/// The session of the last question that was answered, and of which server. It stands in for a new one only where the server says that it
/// has none left: a new one also finds out whether the server hears, and whether the account may still come in.
pub(crate) struct Held(Mutex<Option<(PathBuf, Session)>>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl Held {
    pub(crate) const fn nothing() -> Self {
        Self(Mutex::const_new(None))
    }

    /// The rows of one statement in the agent's own database.
    pub(crate) async fn rows(&self, site: &Site, attempt: &str, sql: &str) -> Result<Vec<Vec<String>>, EngineError> {
        if let Some(session) = Session::open_unless_full(site, HOME).await? {
            let rows = session.rows(attempt, sql).await?;
            *self.0.lock().await = Some((site.data.clone(), session));
            return Ok(rows);
        }
        match &*self.0.lock().await {
            Some((data, session)) if *data == site.data => session.rows(attempt, sql).await,
            _ => Err(EngineError::new(Kind::Transient, format!("{attempt}: all connections are taken"))),
        }
    }
}
