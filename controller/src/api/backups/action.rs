//! `POST /backups/{id}/action`: ours, beyond Trove. The body is one action.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{OfBackup, backup_id};
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::fields::{Nothing, there};
use crate::error::{Error, Result};

/// One action by its name.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1)]
pub(in crate::api) struct BackupAction {
    /// Restores the backup to a scratch instance, on which the engine's own check runs.
    #[serde(default, deserialize_with = "there")]
    #[schema(value_type = Option<Nothing>)]
    verify: Option<Option<Nothing>>,
}

/// Act on a backup
///
/// `verify`: the backup shows the result as `verification`; its operations show how far it is. A backup is verified once at a
/// time, and two backups at once (409).
#[utoipa::path(post, path = "/backups/{id}/action", tag = "backups", operation_id = "act_on_backup",
    params(OfBackup), responses(Fault<403>, Fault<404>, Fault<409>))]
pub(in crate::api) async fn act(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfBackup>,
    Json(action): Json<BackupAction>,
) -> Result<Accepted> {
    authorized.may("backup:verify")?;
    if action.verify.is_none() {
        return Err(Error::BadRequest("Validation error: the action must be verify.".to_owned()));
    }
    let id = backup_id(&of.id)?;
    state.app.verify_backup(&authorized.caller, &authorized.request_id, id).await.map(Accepted::from)
}
