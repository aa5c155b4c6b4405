//! HTTP: routes, types, faults. Each handler extracts, authorises, makes one call into `app`, and draws a view.

mod backup_schedules;
mod backup_strategies;
mod backups;
mod configurations;
mod connection;
mod databases;
mod datastores;
mod events;
mod flavors;
mod http;
mod instances;
mod limits;
mod mgmt;
mod openapi;
mod operations;
mod parameters;
mod quotas;
mod root;
mod router;
#[cfg(test)]
mod tests;
mod users;
mod versions;

use std::ops::Deref;
use std::sync::Arc;

pub use http::cors::cors;
pub use http::request::refuse_without_state;
pub use http::tls;
pub use router::router;
use tokio_util::sync::CancellationToken;

use self::http::rates::Rates;
use crate::app::App;
use crate::app::instances::Accepted;
use crate::error::Result;
use crate::identity::Identity;

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

impl Deref for ApiState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What [`ApiState`] shares.
pub struct Shared {
    pub app: App,
    /// Who asks.
    pub identity: Arc<Identity>,
    /// PEM of the authority that tenants trust.
    pub engines_authority_pem: String,
    rates: Rates,
    streams: events::Streams,
    shutdown: CancellationToken,
}

impl ApiState {
    /// With nothing counted yet of how often anyone asked. Streams end when `shutdown` is cancelled.
    pub fn new(app: App, identity: Arc<Identity>, engines_authority_pem: String, shutdown: CancellationToken) -> Self {
        let rates = Rates::new(app.config.rate_limits.clone());
        Self(Arc::new(Shared {
            app,
            identity,
            engines_authority_pem,
            rates,
            streams: events::Streams::default(),
            shutdown,
        }))
    }

    /// Answers when what was accepted acts, or when the time for that is over or this controller ends: it goes on then, as it
    /// does where the client no longer waits.
    ///
    /// # Errors
    /// As of [`App::await_effect`].
    async fn once_it_acts(&self, accepted: Accepted) -> Result<http::answer::Accepted> {
        tokio::select! {
            done = self.app.await_effect(&accepted) => done?,
            () = self.shutdown.cancelled() => {}
        }
        Ok(accepted.into())
    }
}
