//! Lists accounts.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::UserView;
use crate::api::ApiState;
use crate::api::http::auth::Authorized;
use crate::api::http::body::{Json, Path};
use crate::api::http::fault::Fault;
use crate::api::http::links::Link;
use crate::api::http::paging::Paging;
use crate::api::instances::{OfInstance, instance_id};
use crate::error::Result;

/// A page of accounts.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct UsersPage {
    users: Vec<UserView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users_links: Option<Vec<Link>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

/// List the accounts of an instance
#[utoipa::path(get, path = "/instances/{id}/users", tag = "users", operation_id = "list_users",
    params(OfInstance, Paging), responses(Fault<404>, Fault<422>))]
pub(in crate::api) async fn list(
    State(state): State<ApiState>,
    authorized: Authorized,
    Path(of): Path<OfInstance>,
    paging: Paging,
) -> Result<Json<UsersPage>> {
    authorized.may("instance:extension:user:index")?;
    let page = state.app.list_users(&authorized.caller, instance_id(&of.id)?, paging.request()).await?;
    let links = paging.next(&state.app.config.public_url(), page.next.as_deref());
    let users = page.items.into_iter().map(UserView::from).collect();
    Ok(Json(UsersPage { users, users_links: links.clone(), links }))
}
