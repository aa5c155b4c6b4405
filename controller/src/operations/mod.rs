//! Durable operations: asked for once, and they end.
//!
//! An operation is a row, written in the transaction of the change that it serves, and one file here with a table of
//! named steps. The row is the queue: nothing happens before the commit, and a controller that starts again goes on
//! where its earlier life was killed.

use std::sync::Arc;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::seal::Seal;

pub mod apply_configuration;
pub mod change_accounts;
pub mod create_backup;
pub mod create_instance;
pub mod delete_instance;
mod execution;
mod outcome;
pub(crate) mod parameters;
pub(crate) mod points;
pub mod reboot_instance;
pub mod resize_flavor;
pub mod resize_volume;
pub mod restart_instance;
pub mod restore_instance;
mod runner;
mod shared;
pub mod steps;
pub mod stop_instance;
mod target;
pub(crate) mod timing;
pub mod upgrade_instance;
pub mod verify_backup;
mod work;

pub use crate::model::operations::{Lane, NewOperation, Origin, Stage};
pub use crate::signals::{Changes, Nudge};
pub use runner::Runner;
pub use target::Target;
pub use work::{RunnerContext, Work};

/// The operations that this program knows, and which versions of them. A failure at the point `operation.<kind>.known`
/// makes it one of before there was this kind.
pub(crate) fn registry() -> Vec<Arc<dyn steps::Registered>> {
    let mut all: Vec<Arc<dyn steps::Registered>> = vec![
        Arc::new(steps::Entry::<create_instance::CreateInstance>::new()),
        Arc::new(steps::Entry::<restart_instance::RestartInstance>::new()),
        Arc::new(steps::Entry::<delete_instance::DeleteInstance>::new()),
        Arc::new(steps::Entry::<change_accounts::ChangeAccounts>::new()),
        Arc::new(steps::Entry::<resize_flavor::ResizeFlavor>::new()),
        Arc::new(steps::Entry::<resize_volume::ResizeVolume>::new()),
        Arc::new(steps::Entry::<upgrade_instance::UpgradeInstance>::new()),
        Arc::new(steps::Entry::<reboot_instance::RebootInstance>::new()),
        Arc::new(steps::Entry::<stop_instance::StopInstance>::new()),
        Arc::new(steps::Entry::<apply_configuration::ApplyConfiguration>::new()),
        Arc::new(steps::Entry::<create_backup::CreateBackup>::new()),
        Arc::new(steps::Entry::<restore_instance::RestoreInstance>::new()),
        Arc::new(steps::Entry::<verify_backup::VerifyBackup>::new()),
    ];
    all.retain(|entry| trove_strategy::failpoint::pass(&format!("operation.{}.known", entry.kind())).is_ok());
    all
}

/// A secret inside the stored state of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    const PURPOSE: &'static str = "operation";

    /// Seals a secret.
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
