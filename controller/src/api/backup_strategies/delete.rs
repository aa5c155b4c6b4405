//! `DELETE /backup_strategies`.

use axum::extract::State;

use super::Wanted;
use crate::api::ApiState;
use crate::api::http::answer::Accepted;
use crate::api::http::auth::Authorized;
use crate::api::http::body::Query;
use crate::error::Result;

/// Delete a backup strategy
///
/// Without `instance_id` the one of all other instances. One that is not there is fine.
#[utoipa::path(
    delete,
    path = "/backup_strategies",
    tag = "backups",
    operation_id = "delete_backup_strategy",
    params(Wanted)
)]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Query(wanted): Query<Wanted>,
) -> Result<Accepted> {
    authorized.may("backup_strategy:delete")?;
    let project = wanted.project(&authorized)?;
    state.app.delete_backup_strategy(&project, wanted.instance_id.as_deref().unwrap_or_default()).await?;
    Ok(Accepted(None))
}
