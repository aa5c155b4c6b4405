//! Databases of an instance.

pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A database by its name.
#[derive(Serialize, Deserialize, ToSchema)]
pub(in crate::api) struct DatabaseName {
    pub(in crate::api) name: String,
}
