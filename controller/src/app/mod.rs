//! The use cases: validation, quota, and one transaction each, in which the change and its operation are written.
//! Called by the API; knows no HTTP. Everything that a handler does is one call into here.

use std::sync::Arc;

use crate::agents::Agents;
use crate::compute::Compute;
use crate::config::Config;
use crate::error::Result;
use crate::store::Store;

pub mod accounts;
mod attachments;
pub mod backup_schedules;
pub mod backups;
pub mod configurations;
mod create_instance;
mod databases;
pub mod datastores;
pub mod events;
pub mod flavors;
pub mod host_paths;
pub mod instance_parameters;
pub mod instances;
mod locales;
mod management;
mod marker;
pub mod names;
pub mod operations;
pub mod parameter_rules;
pub mod parameters;
mod passwords;
pub mod quotas;
mod readiness;
pub mod recovery;
mod resize;
mod restore;
mod root;
mod submit;
mod units;
mod upgrade;
mod users;
mod verify;
mod visibility;

/// What the use cases work with. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The only state.
    pub store: Store,
    /// The agents, for questions.
    pub agents: Arc<dyn Agents>,
    /// The hosts, for refusing early what a driver cannot do.
    pub compute: Arc<dyn Compute>,
    pub config: Arc<Config>,
    /// Wakes the runner after a commit.
    pub runner: crate::operations::Nudge,
    /// Tells that operations have changed.
    pub changes: crate::operations::Changes,
    /// Whether what is installed here has been looked at and registered since this controller started.
    pub registered: tokio::sync::watch::Receiver<bool>,
}

impl App {
    /// Whether the service can do its work.
    ///
    /// # Errors
    /// 503, which names what fails.
    pub async fn check_health(&self) -> Result<()> {
        self.store.check_health().await
    }
}

/// A page of a list: at most the asked number of items, and whether another item exists after them.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items, in the order of the answer.
    pub items: Vec<T>,
    /// The marker of the next page, of unreserved characters only: it stands for the last item in paging order; `None` on
    /// the last page.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The first `limit` of `items`, which are one more than that when another page follows. `marker` is that of an item.
    fn cut(mut items: Vec<T>, limit: u32, marker: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(marker) } else { None };
        Self { items, next }
    }
}

/// Which page is asked for.
#[derive(Clone, Debug, Default)]
pub struct PageRequest {
    /// At most this many, already capped.
    pub limit: u32,
    /// After this one.
    pub marker: Option<String>,
}
