//! Instances.

pub(super) mod action;
pub(super) mod configuration;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;
pub(super) mod recovery_window;
pub(super) mod show;
pub(super) mod update;
pub(super) mod view;

use serde::Deserialize;
use utoipa::IntoParams;

use crate::error::{Error, Result};
use crate::ids::InstanceId;

#[derive(Deserialize, IntoParams)]
pub(super) struct OfInstance {
    /// The instance.
    #[param(value_type = Uuid)]
    pub(super) id: String,
}

/// The id of a path; what is no id is that of nothing.
pub(super) fn instance_id(text: &str) -> Result<InstanceId> {
    let unknown = |_| Error::NotFound(format!("Instance {} cannot be found.", crate::app::names::shown(text)));
    text.parse().map_err(unknown)
}
