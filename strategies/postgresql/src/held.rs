//! A connection that stays open, so that the agent sees its server when strangers or tenants have taken all others.

use std::path::PathBuf;

use tokio::sync::Mutex;
use trove_strategy::{EngineError, Kind, Site};

use crate::client::{HOME, Session};

/// The session of the last question that was answered, and of which server. It stands in for a new one only where there is none:
/// a new one also finds out whether the account may still come in.
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
        match Session::open(site, HOME).await {
            Ok(session) => {
                let rows = session.rows(attempt, sql).await?;
                *self.0.lock().await = Some((site.data.clone(), session));
                Ok(rows)
            }
            Err(error) if error.kind() == Kind::Transient => match &*self.0.lock().await {
                Some((data, session)) if *data == site.data && session.is_open() => session.rows(attempt, sql).await,
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}
