//! Backups.

pub(super) mod action;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;
pub(super) mod show;
pub(super) mod view;

use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::names::shown;
use crate::error::{Error, Result};
use crate::ids::BackupId;

#[derive(Deserialize, IntoParams)]
pub(super) struct OfBackup {
    /// The backup.
    #[param(value_type = Uuid)]
    pub(super) id: String,
}

/// The id of a path; what is no id is that of nothing.
pub(super) fn backup_id(text: &str) -> Result<BackupId> {
    text.parse().map_err(|_| Error::NotFound(format!("Backup {} cannot be found.", shown(text))))
}
