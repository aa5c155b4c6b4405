//! `DELETE /backups/{id}`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;

use super::{OfBackup, backup_id};
use crate::api::ApiState;
use crate::api::http::answer::{Accepted, Answers};
use crate::api::http::auth::Authorized;
use crate::api::http::body::Path;
use crate::api::http::fault::Fault;
use crate::error::Result;
use crate::ids::BackupId;

/// Delete a backup
///
/// It is DELETING until its data are removed. As in Trove all increments on it are deleted with it; `x-trove-increments` names
/// them.
#[utoipa::path(delete, path = "/backups/{id}", tag = "backups", operation_id = "delete_backup",
    params(OfBackup), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn delete(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfBackup>,
) -> Result<WithIncrements> {
    authorized.may("backup:delete")?;
    Ok(WithIncrements(state.app.delete_backup(&authorized.caller, backup_id(&of.id)?).await?))
}

/// 202, and which increments are deleted, too.
pub(in crate::api) struct WithIncrements(Vec<BackupId>);

impl IntoResponse for WithIncrements {
    fn into_response(self) -> Response {
        let Self(increments) = self;
        let answer = Accepted(None);
        if increments.is_empty() {
            return answer.into_response();
        }
        let names: Vec<String> = increments.iter().map(ToString::to_string).collect();
        ([("x-trove-increments", names.join(","))], answer).into_response()
    }
}

impl IntoResponses for WithIncrements {
    fn responses() -> Answers {
        Accepted::responses()
    }
}
