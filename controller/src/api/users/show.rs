//! Shows an account.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{OfUser, UserView};
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::instances::instance_id;
use crate::error::Result;

#[derive(Serialize, ToSchema)]
pub(in crate::api) struct UserBody {
    user: UserView,
}

/// Show an account
#[utoipa::path(get, path = "/instances/{id}/users/{user}", tag = "users", operation_id = "show_user", params(OfUser),
    responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn show(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfUser>,
) -> Result<Json<UserBody>> {
    authorized.may("instance:extension:user:show")?;
    let user = state.app.get_user(&authorized.caller, instance_id(&of.id)?, &of.user).await?;
    Ok(Json(UserBody { user: user.into() }))
}
