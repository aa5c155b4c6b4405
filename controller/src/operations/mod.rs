//! Durable operations: asked for once, and they end.
//!
//! An operation is a row, written in the transaction of the change that it serves, and one file here with a table of
//! named steps. The row is the queue: nothing happens before the commit, and a controller that starts again goes on
//! where its earlier life was killed.

use std::sync::Arc;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::Result;
use crate::ids::{InstanceId, ProjectId};
use crate::seal::Seal;

pub mod change_accounts;
pub mod create_instance;
pub mod delete_instance;
mod execution;
mod points;
pub mod restart_instance;
mod runner;
pub mod steps;
mod work;

pub use runner::Runner;
pub use work::{RunnerContext, Work};

/// The operations that this program knows, and which versions of them.
fn registry() -> Vec<Arc<dyn steps::Registered>> {
    vec![
        Arc::new(steps::Entry::<create_instance::CreateInstance>::new()),
        Arc::new(steps::Entry::<restart_instance::RestartInstance>::new()),
        Arc::new(steps::Entry::<delete_instance::DeleteInstance>::new()),
        Arc::new(steps::Entry::<change_accounts::ChangeAccounts>::new()),
    ]
}

/// Wakes the runner and the reconcilers after a commit. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Nudge(Signal);

impl Nudge {
    /// There may be work.
    pub fn now(&self) {
        self.0.send();
    }

    /// Nudges from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.0.subscribe()
    }
}

/// Tells that operations have changed: bumped after every commit of this controller that changes one. Cheap to clone;
/// all clones are one.
#[derive(Clone, Default)]
pub struct Changes(Signal);

impl Changes {
    /// Something has changed.
    pub fn bump(&self) {
        self.0.send();
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.0.subscribe()
    }
}

#[derive(Clone)]
struct Signal(Arc<watch::Sender<u64>>);

impl Default for Signal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Signal {
    fn send(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Which operations of an instance exclude each other. All of them are done in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// One at a time; a second one is refused.
    Lifecycle,
    /// Queued, never refused as busy.
    Accounts,
}

impl Lane {
    /// The tag under which it is stored.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Accounts => "accounts",
        }
    }
}

/// Who asks for an operation, and on what.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The instance.
    pub instance: InstanceId,
    /// Its project.
    pub project: ProjectId,
    /// The request, as in the logs and in `x-openstack-request-id`.
    pub request_id: String,
    /// The user.
    pub user_id: String,
}

/// An operation that is about to be written. Made by the `new` of its file.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// What it does.
    pub kind: &'static str,
    /// Version of its steps and state.
    pub version: u16,
    /// Who asks, and on what.
    pub origin: Origin,
    /// What it excludes.
    pub lane: Lane,
    /// Its state before the first step; secrets in it are [`Sealed`].
    pub state: serde_json::Value,
    /// The names of its steps.
    pub steps: Vec<String>,
}

/// A secret inside the stored state of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    const PURPOSE: &'static str = "operation";

    /// Seals a secret.
    ///
    /// # Errors
    /// Internal.
    pub fn new(seal: &Seal, secret: &SecretString) -> Result<Self> {
        seal.seal(Self::PURPOSE, secret).map(Self)
    }

    /// The secret.
    ///
    /// # Errors
    /// Internal: it was sealed with another key.
    pub fn open(&self, seal: &Seal) -> Result<SecretString> {
        seal.open(Self::PURPOSE, &self.0)
    }
}
